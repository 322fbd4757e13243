"""What a task asks of the settings beside it: a head and data that fit, and a recipe of its own kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

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


class Rule(NamedTuple):
    """What must hold of a setting, and what is said where it does not."""

    holds: bool
    key: str
    value: Any
    allowed: str


def task_rules(experiment: Experiment) -> Iterator[Rule]:
    """What must hold of an experiment because of its task, the first cause first."""
    task, head = experiment.task.name, experiment.head.name
    fitting = " or ".join(choice for choice in Head if choice.facts.task == task)
    yield Rule(head.facts.task == task, "head", head, f"{fitting} with task={task}")
    yield from _of_classification(experiment) if task == TaskName.classification else _of_objects(experiment)


def _of_classification(experiment: Experiment) -> Iterator[Rule]:
    yield from _neutral(experiment.recipe, OF_OBJECTS, TaskName.classification)
    longest, targets = experiment.data.longest_side, experiment.data.source.facts.targets
    square = longest is None or Target.label not in targets  # those are refused for what they lack
    yield Rule(square, "data.longest_side", longest, "null with task=classification: its images are square")


def _of_objects(experiment: Experiment) -> Iterator[Rule]:
    task, recipe, data, head = experiment.task.name, experiment.recipe, experiment.data, experiment.head
    yield from _neutral(recipe, OF_CLASSES, task)
    made = data.pipeline in (Pipeline.auto, Pipeline.loader)
    yield Rule(
        made, "data.pipeline", data.pipeline, f"auto or loader with task={task}: targets are transformed with their images"
    )
    compiled, sizes = experiment.runtime.compile, task == TaskName.detection
    translated = compiled in (Compile.auto, Compile.none) or not sizes
    yield Rule(
        translated, "runtime.compile", compiled, "auto or none with task=detection: each size of image would be compiled anew"
    )
    large = data.longest_side is None or data.longest_side >= data.image_size
    yield Rule(
        large, "data.longest_side", data.longest_side, f"null, or at least the shorter side, data.image_size={data.image_size}"
    )
    cells = bool(head.pools) and all(1 <= cell <= 64 for cell in head.pools)
    yield Rule(cells, "head.pools", head.pools, "a list of whole numbers from 1 to 64")
    asks = head.backbone_norm != BackboneNorm.sync or recipe.sync_batchnorm
    yield Rule(asks, "head.backbone_norm", "sync", "trained or frozen without recipe.sync_batchnorm=true")
    yield from _of_sizes(recipe)
    if task == TaskName.detection:
        # What torchvision does where torch is asked for a fixed order visits a whole map for each region.
        repeats = not experiment.runtime.deterministic or experiment.runtime.device == Device.cpu
        why = "a GPU adds the gradients of pooled regions in no fixed order, a CPU's bits repeat anyway"
        yield Rule(repeats, "runtime.deterministic", "true", f"false with task=detection, or runtime.device=cpu: {why}")
        yield from _neutral(recipe, ["class_share", "photometric"], task)
        fixed = not recipe.jitter or recipe.crop_size is not None
        yield Rule(fixed, "recipe.crop_size", "null", f"a number of pixels beside recipe.jitter={recipe.jitter}")
    else:
        yield from _neutral(recipe, ["short_sides", "crop_sides", "crop_range"], task)
    alone = recipe.images_at_once == 1 and compares_images(experiment)
    yield Rule(not alone, recipe.at_once_key, 1, "at least 2: a BatchNorm of backbone or head compares images")


def compares_images(experiment: Experiment) -> bool:
    """Whether a BatchNorm of ours needs two images at once; what a reference needs shows when it is trained."""
    head = experiment.head
    in_head = head.name == Head.upernet or (head.name == Head.cascade_mask_rcnn and head.box_convolutions > 0)
    learns = head.name == Head.none or head.backbone_norm != BackboneNorm.frozen
    return in_head or (learns and experiment.reference is None and experiment.model.norm == Norm.batch)


def _of_sizes(recipe: RecipeConfig) -> Iterator[Rule]:
    for key in ("short_sides", "crop_sides"):
        sides: Sequence[int] = getattr(recipe, key)
        yield Rule(all(32 <= side <= 4096 for side in sides), f"recipe.{key}", sides, "a list of pixels, each from 32 to 4096")
    low_high = recipe.crop_range
    between = not low_high or (len(low_high) == 2 and 32 <= low_high[0] <= low_high[1])
    yield Rule(between, "recipe.crop_range", low_high, "empty, or two numbers of pixels from 32 on, the lesser first")
    together = bool(recipe.crop_sides) == bool(low_high)
    yield Rule(
        together, "recipe.crop_range", low_high, f"empty without recipe.crop_sides and not with; they are {recipe.crop_sides}"
    )
    times = recipe.jitter
    in_order = not times or (len(times) == 2 and 0.05 <= times[0] <= times[1] <= 10)
    yield Rule(in_order, "recipe.jitter", times, "empty, or two numbers from 0.05 to 10, the lesser first")
    drawn = not times or not recipe.short_sides
    yield Rule(drawn, "recipe.jitter", times, f"empty beside recipe.short_sides={recipe.short_sides}: an image has one size")


def _neutral(recipe: RecipeConfig, keys: Collection[str], task: TaskName) -> Iterator[Rule]:
    """That settings of another task are as if they were not there."""
    for key in keys:
        value, plain = getattr(recipe, key), {**OF_CLASSES, **OF_OBJECTS}[key]
        yield Rule(value == plain, f"recipe.{key}", value, f"{'null' if plain is None else plain} with task={task}")
