"""What a task asks of the settings beside it: a head and data that fit, and a recipe of its own kind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from roadmap.base.errors import Refused
from roadmap.config.schema import (
    OF_CLASSES,
    OF_OBJECTS,
    BackboneNorm,
    Compile,
    Device,
    Experiment,
    Head,
    Norm,
    Pipeline,
    RecipeConfig,
    Target,
    TaskName,
)


def require(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Refuse a setting for which something does not hold, and say what must."""
    if not ok:
        raise Refused(f"{key}={value}: must be {allowed}")


def check_task(experiment: Experiment) -> None:
    """Refuse what does not fit an experiment's task, the first cause first."""
    task, head = experiment.task.name, experiment.head.name
    fitting = " or ".join(choice for choice in Head if choice.facts.task == task)
    require(head.facts.task == task, "head", head, f"{fitting} with task={task}")
    check = _of_classification if task == TaskName.classification else _of_objects
    check(experiment)


def _of_classification(experiment: Experiment) -> None:
    _neutral(experiment.recipe, OF_OBJECTS, TaskName.classification)
    longest, targets = experiment.data.longest_side, experiment.data.source.facts.targets
    square = longest is None or Target.label not in targets  # those are refused for what they lack
    require(square, "data.longest_side", longest, "null with task=classification: its images are square")


def _of_objects(experiment: Experiment) -> None:
    task, recipe, data, head = experiment.task.name, experiment.recipe, experiment.data, experiment.head
    _neutral(recipe, OF_CLASSES, task)
    made = data.pipeline in (Pipeline.auto, Pipeline.loader)
    require(made, "data.pipeline", data.pipeline, f"auto or loader with task={task}: targets are transformed with their images")
    compiled, sizes = experiment.runtime.compile, task == TaskName.detection
    fits = compiled in (Compile.auto, Compile.none) or not sizes
    require(fits, "runtime.compile", compiled, "auto or none with task=detection: each size of image would be compiled anew")
    longest = data.longest_side
    large = longest is None or longest >= data.image_size
    require(large, "data.longest_side", longest, f"null, or at least the shorter side, data.image_size={data.image_size}")
    cells = bool(head.pools) and all(1 <= cell <= 64 for cell in head.pools)
    require(cells, "head.pools", head.pools, "a list of whole numbers from 1 to 64")
    asks = head.backbone_norm != BackboneNorm.sync or recipe.sync_batchnorm
    require(asks, "head.backbone_norm", "sync", "trained or frozen without recipe.sync_batchnorm=true")
    _of_sizes(recipe)
    if task == TaskName.detection:
        # What torchvision does where torch is asked for a fixed order visits a whole map for each region.
        repeats = not experiment.runtime.deterministic or experiment.runtime.device == Device.cpu
        why = "a GPU adds the gradients of pooled regions in no fixed order, a CPU's bits repeat anyway"
        require(repeats, "runtime.deterministic", "true", f"false with task=detection, or runtime.device=cpu: {why}")
        _neutral(recipe, ["class_share", "photometric"], task)
        fixed = not recipe.jitter or recipe.crop_size is not None
        require(fixed, "recipe.crop_size", "null", f"a number of pixels beside recipe.jitter={recipe.jitter}")
    else:
        _neutral(recipe, ["short_sides", "crop_sides", "crop_range"], task)
    alone = recipe.images_at_once == 1 and compares_images(experiment)
    require(not alone, recipe.at_once_key, 1, "at least 2: a BatchNorm of backbone or head compares images")


def compares_images(experiment: Experiment) -> bool:
    """Whether a BatchNorm of ours needs two images at once; what a reference needs shows when it is trained."""
    head = experiment.head
    in_head = head.name == Head.upernet or (head.name == Head.cascade_mask_rcnn and head.box_convolutions > 0)
    learns = head.name == Head.none or head.backbone_norm != BackboneNorm.frozen
    return in_head or (learns and experiment.reference is None and experiment.model.norm == Norm.batch)


def _of_sizes(recipe: RecipeConfig) -> None:
    for key in ("short_sides", "crop_sides"):
        sides: Sequence[int] = getattr(recipe, key)
        require(all(32 <= side <= 4096 for side in sides), f"recipe.{key}", sides, "a list of pixels, each from 32 to 4096")
    low_high = recipe.crop_range
    between = not low_high or (len(low_high) == 2 and 32 <= low_high[0] <= low_high[1])
    require(between, "recipe.crop_range", low_high, "empty, or two numbers of pixels from 32 on, the lesser first")
    paired = bool(recipe.crop_sides) == bool(low_high)
    require(paired, "recipe.crop_range", low_high, f"empty without recipe.crop_sides and not with; they are {recipe.crop_sides}")
    times = recipe.jitter
    in_order = not times or (len(times) == 2 and 0.05 <= times[0] <= times[1] <= 10)
    require(in_order, "recipe.jitter", times, "empty, or two numbers from 0.05 to 10, the lesser first")
    drawn = not times or not recipe.short_sides
    require(drawn, "recipe.jitter", times, f"empty beside recipe.short_sides={recipe.short_sides}: an image has one size")


def _neutral(recipe: RecipeConfig, keys: Collection[str], task: TaskName) -> None:
    """Refuse settings of another task, but where they are as if they were not there."""
    for key in keys:
        value, plain = getattr(recipe, key), {**OF_CLASSES, **OF_OBJECTS}[key]
        require(value == plain, f"recipe.{key}", value, f"{'null' if plain is None else plain} with task={task}")
