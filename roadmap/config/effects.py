"""Settings that can have no effect in their combination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from roadmap.config.compose import at_full_length, compose
from roadmap.config.overrides import parse
from roadmap.config.schema import (
    EngineName,
    Experiment,
    HeadConfig,
    Keep,
    Layering,
    Logger,
    Norm,
    Optimizer,
    RecipeConfig,
    Schedule,
    Source,
    StudyKind,
    TaskName,
)

_OF_SLURM = ("minutes", "partition", "account", "qos", "constraint")
UNREAD = {  # settings of an engine
    EngineName.local: (*_OF_SLURM, "retries", "memory_gb", "address"),
    EngineName.slurm: ("address",),
    EngineName.ray: _OF_SLURM,
}


def idle_in_recipe(recipe: RecipeConfig) -> dict[str, str]:
    """The settings of a recipe that can have no effect beside its others, and why."""
    optimizer, kind = recipe.optimizer, recipe.schedule
    own = frozenset[str]().union(*(other.facts.reads for other in Optimizer))
    why = dict.fromkeys(own - optimizer.facts.reads, f"recipe.optimizer={optimizer} does not read it")
    if not (recipe.mixup and recipe.cutmix):
        why["mixup_switch_prob"] = "it chooses between mixup and cutmix, not both on"
    if kind in (Schedule.step, Schedule.constant):
        why["min_lr"] = f"recipe.schedule={kind} does not run to it"
    for key, read_by in (("milestones", Schedule.step), ("lr_factor", Schedule.step), ("lr_power", Schedule.polynomial)):
        if kind != read_by:
            why[key] = f"recipe.schedule={kind} does not read it"
    if recipe.clip_grad is None:
        why["clip_mode"] = "recipe.clip_grad is null"
    if recipe.updates is not None:
        why["epochs"] = "recipe.updates says how long the training is"
    if recipe.warmup_updates is not None:
        why["warmup_epochs"] = "recipe.warmup_updates says how long the warm-up is"
    if not (recipe.warmup_epochs if recipe.warmup_updates is None else recipe.warmup_updates):
        why["warmup_start"] = "there is no warm-up"
    if recipe.layer_decay is None:
        why |= dict.fromkeys(("layering", "decay_layers"), "recipe.layer_decay is null")
    elif recipe.layering == Layering.triples:
        why["decay_layers"] = "recipe.layering=triples counts them itself"
    if not recipe.weight_decay:
        why["decay_spares"] = "recipe.weight_decay is 0"
    return why


def following(experiment: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """What follows from the command line without being said there, each in a sentence: learning rate, warm-up, start weights."""
    given, recipe = {override.key_or_group for override in parse(overrides)}, experiment.recipe
    whole, said = at_full_length(overrides, config_dirs), list[str]()
    if "recipe.batch_size" in given and not given & {"recipe.lr", "recipe.lr_batch"} and recipe.batch_size != recipe.lr_batch:
        said.append(
            f"recipe.batch_size={recipe.batch_size} trains at a peak learning rate of {recipe.peak_lr:.3g}: recipe.lr="
            f"{recipe.lr:g} is for recipe.lr_batch={recipe.lr_batch} images; recipe.lr_batch={recipe.batch_size} keeps it"
        )
    if whole is not None and whole.warmup_epochs != recipe.warmup_epochs:
        said.append(
            f"recipe.epochs={recipe.epochs} warms up for recipe.warmup_epochs={recipe.warmup_epochs:g}: the recipe has "
            f"{whole.warmup_epochs:g} of {whole.epochs} epochs, for which there is no room"
        )
    if recipe.name == "finetune" and not (experiment.init or experiment.after or experiment.study.start):
        said.append(
            "recipe=finetune starts from random weights here: init=RUN, init=timm:NAME or after=RUN names those to be tuned"
        )
    return said


def said_twice(overrides: Sequence[str]) -> list[str]:
    """Settings that a command line gives two values, of which the last counts, each in a sentence."""
    said = [(override.key_or_group, override.input_line) for override in parse(overrides)]
    last = dict(said)
    return [f"{key} is said {count} times; {last[key]} counts" for key, count in Counter(k for k, _ in said).items() if count > 1]


def ineffective_settings(experiment: Experiment, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> list[str]:
    """Settings that can have no effect in this combination, each in a sentence."""
    given = {override.key_or_group for override in parse(overrides)}
    recipe, data, model = experiment.recipe, experiment.data, experiment.model
    facts = data.source.facts
    of_images = experiment.task.name == TaskName.classification
    unread = {entry.name for entry in fields(HeadConfig)} - experiment.head.name.facts.reads - {"name"}
    no_wandb = experiment.logger != Logger.wandb
    idle = {
        "model.block_bias": model.block_bias and model.norm == Norm.batch and model.block_norms == Keep.all
        and "a BatchNorm follows every convolution of the block and takes the bias out again",
        **{f"recipe.{key}": why for key, why in idle_in_recipe(recipe).items()},
        "recipe.initialisation": experiment.reference and f"{experiment.reference} starts as timm starts it",
        **{f"head.{key}": f"head={experiment.head.name} does not read it" for key in unread},
        "data.crop_pct": not of_images and f"task={experiment.task.name} scores whole pictures",
        "data.path": facts.package and f"the {data.source} come with {facts.package}",
        "data.accept": not facts.examined and "only files of images are examined",
        "data.classes": data.source != Source.maps and f"the classes of {data.source} are known",
        "data.download": not facts.downloadable and f"{data.source} cannot be downloaded",
        **{f"engine.{key}": f"engine={experiment.engine.name} does not read it" for key in UNREAD[experiment.engine.name]},
        "study.orders": (experiment.study.rows or experiment.study.kind != StudyKind.orderings)
        and "only study.kind=orderings draws orders",
        **dict.fromkeys(("study.kind", "study.steps"), experiment.study.rows and "study.rows lists the rows"),
        **{f"wandb.{key}": no_wandb and f"logger={experiment.logger}" for key in ("mode", "project", "entity")},
    }  # fmt: skip
    if experiment.reference is not None:
        of_steps = {key for key in given if key.startswith(("model.", "scale."))}
        idle |= dict.fromkeys(of_steps - {"model.drop_path", "scale.drop_path"}, f"{experiment.reference} is timm's own")
    messages = [f"{key} has no effect here: {why}" for key, why in idle.items() if why and key in given]
    for override in overrides:
        key = override.split("=")[0]
        if key.startswith("scale.") and key not in ("scale.name", "scale.start", "scale.end") and experiment.reference is None:
            without = compose([o for o in overrides if o != override], config_dirs)
            if without.model == model:
                messages.append(f"{key} has no effect here: step {experiment.step.name} does not use it")
    return messages
