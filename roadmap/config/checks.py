"""Values, once composed: in their range, and not at odds with each other."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import EnumType
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from roadmap.base.errors import Refused, nearest
from roadmap.base.files import regular
from roadmap.config.parts import KINDS
from roadmap.config.parts import names as part_names
from roadmap.config.schema import (
    TRIVIAL,
    Compile,
    Experiment,
    ModelConfig,
    Optimizer,
    Pipeline,
    Precision,
    RecipeConfig,
    Schedule,
    entries,
)
from roadmap.config.task_rules import check_task, compares_images, require

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
NAMED = "at most 100 letters, digits, _ . -, a letter or digit first"
SWITCH = "true or false"
MOST_BLOCKS = 1000  # of a stage
MOST_PARAMETERS = 1e11  # no machine trains more here
LIMITS = {  # of a number: how it is compared with each, and in words
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}
TIMM_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")  # of an architecture, without the tag of its weights
RUN_NAME = re.compile(r".*-s\d+-[0-9a-f]{8}")  # of a run's folder
TIMM = "timm:"  # before the name of weights of timm's, in place of a run's folder
PRETRAINED = re.compile(rf"{TIMM}[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")  # with or without the tag of its weights
WANDB_NAME = re.compile(r"(?=.*\S)[^/\\#?%:\x00-\x1f]{1,128}")  # of a project, as W&B's client refuses others
CLUSTER_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:@/&|()*-]{0,199}")
AUTO_AUGMENT = re.compile(
    rf"{TRIVIAL}|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
    r"|augmix(-(m([0-9]|10)|w[1-9]|d[1-9]|b[01]|mstd\d+(\.\d+)?))*"
)
RANDAUGMENT = re.compile(r"rand(-(m([0-9]|10)|n[1-9]\d?|mstd\d+(\.\d+)?|mmax[1-9]\d?|inc[01]|p(0\.\d*[1-9]\d*|1(\.0+)?)))+")


def check(experiment: Experiment, config_dirs: Sequence[Path] = ()) -> None:
    """Refuse values out of range and settings that contradict each other; `config_dirs` may hold the file that says one."""
    for key, (entry, _) in entries().items():
        limits, value = entry.metadata.get("limits"), operator.attrgetter(key)(experiment)
        if limits and value is not None:
            within = math.isfinite(value) and all(LIMITS[name][0](value, bound) for name, bound in limits.items())
            require(within, key, value, _in_words(limits))
    _check_parts(experiment, config_dirs)
    _check_model(experiment.model)
    check_task(experiment)
    _check_recipe(experiment)
    data = experiment.data
    for key, triple in (("data.mean", data.mean), ("data.std", data.std)):
        require(len(triple) == 3 and all(map(math.isfinite, triple)), key, triple, "three finite numbers, one a colour")
    require(min(data.std) > 0, "data.std", data.std, "three numbers above 0")
    has_images = bool(data.source.facts.package or data.path)
    require(has_images, "data.path", "null", f"the folder that holds the images of data={data.source}")
    study = experiment.study
    require(bool(NAME.fullmatch(study.name)), "study.name", study.name, NAMED)
    require(not study.row or bool(NAME.fullmatch(study.row)), "study.row", repr(study.row), NAMED)
    for key, names in (("reference", [experiment.reference]), ("study.references", study.references)):
        for name in names:
            fits = name is None or bool(TIMM_NAME.fullmatch(name))
            require(fits, key, repr(name), "the name of a model of timm's, of letters, digits and _")
    _check_start(experiment.init, experiment.after, study.start)
    require(study.orders % 2 == 0, "study.orders", study.orders, "an even number: each order comes with its reverse")
    engine = experiment.engine
    for key in ("partition", "account", "qos", "constraint", "address"):
        word = getattr(engine, key)
        allowed = f"null, or what {engine.name} calls it: letters, digits and _ . , : @ / & | ( ) * -"
        require(word is None or bool(CLUSTER_WORD.fullmatch(word)), f"engine.{key}", repr(word), allowed)
    check_wandb_name("wandb.project", experiment.wandb.project)
    check_wandb_name("wandb.entity", experiment.wandb.entity)
    require(bool(experiment.output.strip()), "output", repr(experiment.output), "a folder")


def check_wandb_name(place: str, name: str | None) -> None:
    """Refuse a name of a project, a user or a team that W&B has not."""
    require(name is None or bool(WANDB_NAME.fullmatch(name)), place, repr(name), r"1 to 128 characters without / \ # ? % :")


def _check_start(init: str | None, after: str | None, study: str | None) -> None:
    require(init is None or after is None, "init", init, f"null beside after={after}: a run has one start")
    require(init is None or study is None, "init", init, f"null beside study.start={study}: a run has one start")
    forms = "null, a run's folder, FILE.safetensors, FILE.pt, or timm:NAME, for example timm:convnext_tiny.fb_in1k"
    foreign = init is not None and (not init.strip() or (init.startswith(TIMM) and not PRETRAINED.fullmatch(init)))
    require(not foreign, "init", repr(init), forms)
    named = after is None or bool(RUN_NAME.fullmatch(after.rstrip("/").split("/")[-1]))
    require(named, "after", repr(after), "null, or a run's folder, whose name ends in its identity: gelu-s0-1a2b3c4d")
    if study is not None:
        require(bool(study.strip()), "study.start", repr(study), "null, or a study's folder: experiments/digits")
        theirs = after is None or Path(after).expanduser().absolute().parent.parent == study_folder(study)
        require(theirs, "after", after, f"null beside study.start={study}, or a run of that study")


def study_folder(start: str) -> Path:
    """The folder that `study.start` names."""
    return Path(start).expanduser().absolute()


def _check_parts(experiment: Experiment, config_dirs: Sequence[Path]) -> None:
    for kind in KINDS:
        name, known = getattr(experiment.model, kind), part_names(kind, experiment.parts)
        if name is not None and name not in known:
            place = next(_files_that_say(f"model.{kind}", name, config_dirs), "")
            raise Refused(f"{place}model.{kind}: invalid value {name!r}; {nearest(name, known)}")


def _files_that_say(key: str, value: str, folders: Sequence[Path]) -> Iterator[str]:
    """The files of one's own that give a setting this value, as the beginning of a message."""
    for file in (file for folder in folders for file in sorted(folder.glob("*/*.yaml"))):
        with suppress(OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
            content = OmegaConf.load(regular(file))
            if isinstance(content, DictConfig) and OmegaConf.select(content, key) == value:
                yield f"{file}: "


def _check_model(model: ModelConfig) -> None:
    depths = model.depths
    fits = len(depths) == 4 and min(depths) >= 1 and max(depths) <= MOST_BLOCKS
    require(fits, "model.depths", depths, f"four stages of at least one block, and at most {MOST_BLOCKS}")
    least = sum(8 * depth * (model.width * 2**stage) ** 2 for stage, depth in enumerate(depths))  # of two 1x1 layers a block
    within = f"such that model.depths={depths} makes at most {MOST_PARAMETERS:.0e} parameters; these are {least:.1e}"
    require(least <= MOST_PARAMETERS, "model.width", f"{model.width:g}", within)
    require(model.kernel_size % 2 == 1, "model.kernel_size", model.kernel_size, "an odd number, so that it has a centre")


def _check_recipe(experiment: Experiment) -> None:
    recipe = experiment.recipe
    low_high = recipe.crop_scale
    require(len(recipe.betas) == 2 and all(0 <= b < 1 for b in recipe.betas), "recipe.betas", recipe.betas, "two in [0, 1)")
    in_order = len(low_high) == 2 and 0 < low_high[0] <= low_high[1] <= 1
    require(in_order, "recipe.crop_scale", low_high, "two areas in (0, 1], the lesser first")
    example = f"for example recipe.warmup_epochs={0.15 * recipe.epochs:g}"
    shorter = f"less than recipe.epochs={recipe.epochs}; shorten it too, {example}"
    read = recipe.updates is None and recipe.warmup_updates is None
    require(not read or recipe.warmup_epochs < recipe.epochs, "recipe.warmup_epochs", f"{recipe.warmup_epochs:g}", shorter)
    warmup, updates = recipe.warmup_updates, recipe.updates
    ends = warmup is None or updates is None or warmup < updates
    require(ends, "recipe.warmup_updates", warmup, f"less than recipe.updates={updates}")
    lr = recipe.peak_lr
    require(recipe.min_lr <= lr, "recipe.min_lr", recipe.min_lr, f"at most the peak learning rate {lr:g}")
    _check_batch(experiment)
    _check_optimizer(recipe)
    _check_milestones(recipe)
    _check_augmentation(experiment)


def _check_optimizer(recipe: RecipeConfig) -> None:
    lookahead = recipe.nesterov and not recipe.momentum and "nesterov" in recipe.optimizer.facts.reads
    require(not lookahead, "recipe.nesterov", "true", "false without recipe.momentum, by which it looks ahead")
    unskippable = recipe.precision == Precision.float16 and not recipe.optimizer.facts.fused
    scaled = ", ".join(optimizer for optimizer in Optimizer if optimizer.facts.fused)
    allowed = f"one of {scaled} with recipe.precision=float16: others cannot skip an update that overflows"
    require(not unskippable, "recipe.optimizer", recipe.optimizer, allowed)


def _check_milestones(recipe: RecipeConfig) -> None:
    shares, warm = recipe.milestones, recipe.warmup_share
    rising = bool(shares) and all(0 < share < 1 for share in shares) and all(a < b for a, b in pairwise(shares))
    require(rising, "recipe.milestones", shares, "shares of the training between 0 and 1, each larger than the one before")
    late = recipe.schedule != Schedule.step or shares[0] >= warm
    require(late, "recipe.milestones", shares, f"after the warm-up, which ends at {warm:.3g} of the training")


def _check_augmentation(experiment: Experiment) -> None:
    recipe, pipeline = experiment.recipe, experiment.data.pipeline
    forms = "null, or timm's form rand-m9-mstd0.5-inc1, each part once, with a magnitude of 0 to 10"
    text = recipe.randaugment
    require(text is None or _is_policy(text, RANDAUGMENT), "recipe.randaugment", text or "''", forms)
    text = recipe.auto_augment
    known = text is None or _is_policy(text, AUTO_AUGMENT)
    forms = f"null, {TRIVIAL}, or one of timm's: original, originalr, v0, v0r, 3a, each with -mstd0.5, or augmix-m3-w3"
    require(known, "recipe.auto_augment", text, f"{forms}; RandAugment is recipe.randaugment")
    alone = text is None or recipe.randaugment is None
    require(alone, "recipe.auto_augment", text, f"null beside recipe.randaugment={recipe.randaugment}: a picture has one policy")
    made = not recipe.loader_only or pipeline in (Pipeline.auto, Pipeline.loader)
    asked = ", ".join(f"recipe.{key}={value}" for key, value in recipe.loader_only.items())
    require(made, "data.pipeline", pipeline, f"loader or auto with {asked}: only timm's transforms make such pictures")


def _check_batch(experiment: Experiment) -> None:
    recipe = experiment.recipe
    key, at_once = recipe.at_once_key, recipe.images_at_once
    whole = recipe.batch_size % at_once == 0
    require(whole, key, at_once, f"a divisor of recipe.batch_size={recipe.batch_size}: an update is made of whole micro-batches")
    one_alone = at_once == 1 and compares_images(experiment)
    require(not one_alone, key, at_once, "at least 2 with model.norm=batch, which compares images")
    mixes = recipe.mixup > 0 or recipe.cutmix > 0
    in_pairs = not mixes or at_once % 2 == 0
    require(in_pairs, key, at_once, "even where mixup or cutmix is on (images are mixed in pairs)")
    graphs = experiment.runtime.compile == Compile.graphs
    accumulates = graphs and at_once < recipe.batch_size
    require(not accumulates, "runtime.compile", "graphs", "another one with micro-batches: a graph keeps one gradient")


def check_processes(experiment: Experiment, processes: int) -> None:
    """Refuse a run that cannot be shared out among the processes that torchrun started.

    The micro-batches of an update are shared out, each process the same number of them. So what is computed does not
    depend on how many processes there are; that is also why the size of a micro-batch must be said.
    """
    recipe = experiment.recipe
    if processes == 1:
        return
    fetches = experiment.data.download
    require(not fetches, "data.download", "true", f"false with {processes} processes: fetch the images with one process first")
    shared = recipe.batch_size % processes == 0
    require(shared, "recipe.batch_size", recipe.batch_size, f"a multiple of the {processes} processes that share it")
    share = recipe.batch_size // processes
    allowed = f"a number with {processes} processes: BatchNorm's statistics are taken over it; for example {share}"
    require(recipe.micro_batch is not None, "recipe.micro_batch", "null", allowed)
    count = recipe.batch_size // recipe.images_at_once
    even = f"such that recipe.batch_size={recipe.batch_size} gives {processes} processes equally many; for example {share}"
    require(count % processes == 0, "recipe.micro_batch", recipe.micro_batch, even)


def _is_policy(text: str, form: re.Pattern[str]) -> bool:
    """Whether timm reads all of it: of a part that is there twice it takes one in silence."""
    parts = [part.rstrip("0123456789.") for part in text.split("-")[1:]]
    return bool(form.fullmatch(text)) and len(set(parts)) == len(parts)


def _in_words(limits: dict[str, float]) -> str:
    return " and ".join(f"{LIMITS[name][1]} {bound:.10g}" for name, bound in limits.items()) or "finite"


@lru_cache
def allowed_of(key: str) -> str:
    """What a dotted key takes, in words: a range, names, true or false; empty where it takes any text."""
    if key not in entries():
        return ""
    entry, kind = entries()[key]
    if limits := entry.metadata.get("limits"):
        return _in_words(limits)
    if kinds := entry.metadata.get("names"):
        return f"one of {', '.join(kinds)}, or a part of one's own"
    if isinstance(kind, EnumType):
        return f"one of {', '.join(kind)}"
    return SWITCH if kind is bool else f"a list, {key}=[...]" if get_origin(kind) is list else ""
