"""What is refused before anything is trained, for a run and for a study alike: settings, output, images, reference."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from roadmap.base import processes
from roadmap.base.errors import Refused
from roadmap.base.files import check_writable
from roadmap.config.checks import check_processes
from roadmap.config.effects import following, ineffective_settings, said_twice
from roadmap.config.overrides import MOST_RUNS, parse, values_of
from roadmap.config.parts import own_parts
from roadmap.config.schema import Experiment, RecipeConfig, Schedule
from roadmap.config.steps import broken_steps
from roadmap.data.images import sources
from roadmap.data.images.inventory import Inventory
from roadmap.model.check import compose_run
from roadmap.model.names import check_name
from roadmap.record.folder import runs_folder
from roadmap.record.result import Metric
from roadmap.run.optimise import check_held_out, check_optimised, ends, optimises
from roadmap.run.start import check_start, resolved
from roadmap.tasks.metrics import METRICS

if TYPE_CHECKING:
    from roadmap.model.cost import Cost

SINGLE = {  # what belongs to a study
    "study.steps": "a run has one step and one seed",
    "study.seeds": "a run has one step and one seed",
    "study.references": "a run trains one network; reference=NAME trains that one",
}


def check_jobs(overrides: list[str], folders: Sequence[Path], multirun: bool) -> None:
    """Refuse what no job of a command line could start from; warn of settings that have no effect."""
    optimised = optimises(overrides)
    if optimised:
        check_optimised(overrides, multirun)
    jobs = _jobs(overrides) if multirun else [overrides]
    said = [f"warning: {warning}" for warning in said_twice(overrides)]
    for job in jobs:
        experiment = compose_run(job, folders)
        if optimised:
            check_held_out(experiment)
        check_processes(experiment, processes.world_size())
        classes = preflight(experiment).classes  # before start weights are read, or fetched
        check_start(resolved(experiment), classes)
        idle = [f"{key} has no effect here: {why}" for key, why in SINGLE.items() if any(o.startswith(key) for o in job)]
        broken = [f"{fault}; this step is left out" for fault in broken_steps(*folders).values()]
        said += [f"warning: {warning}" for warning in ineffective_settings(experiment, job, folders) + idle + broken]
        said += following(experiment, job, folders)
    for line in dict.fromkeys(said):  # once no job is refused
        print(f"roadmap: {line}", file=sys.stderr)


def _jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a sweep; where the best is looked for, those of the ends of its intervals."""
    words = [word for word in ends(overrides) if not word.startswith("hydra")] if optimises(overrides) else overrides
    values = {str(override.input_line): values_of(override) for override in parse(words)}
    count = math.prod(map(len, values.values()))
    if count > MOST_RUNS:
        raise Refused(f"{' '.join(line for line, of in values.items() if len(of) > 1)}: {count} runs; at most {MOST_RUNS}")
    twice = [line for line, of in values.items() if len(set(of)) < len(of)]
    if twice and not optimises(overrides):
        raise Refused(f"{twice[0]}: a value is there twice; each must be there once")
    jobs: list[list[str]] = BasicSweeper.split_arguments(parse(words), None)[0]
    if not jobs:
        raise Refused("the sweep is empty: one of its ranges holds no value")
    return jobs


def metric_of(overrides: list[str], folders: Sequence[Path]) -> Metric:
    """What the jobs of a sweep are scored by."""
    return METRICS[compose_run(_jobs(overrides)[0], folders).task.name]


def preflight(experiment: Experiment) -> Inventory:
    """Refuse a run whose output cannot be written, whose images cannot be used, or whose reference does not take them.

    Returns:
        The images that the run would be trained on.

    """
    check_writable(runs_folder(experiment), f"output={experiment.output}")  # before anything is made in it
    inventory = sources.checked_images(experiment.data, experiment.recipe.batch_size, experiment.task.name.target)
    _check_length(experiment.recipe, inventory.train.size)
    check_network(experiment, inventory.classes)
    return inventory


def _check_length(recipe: RecipeConfig, images: int) -> None:
    """Refuse a warm-up that does not end before the training or its first milestone."""
    if recipe.warmup_updates is None and recipe.updates is None:
        return
    per_epoch = images // recipe.batch_size
    length, in_updates = recipe.length(per_epoch), recipe.warmup_updates is not None
    key, unit = ("warmup_updates", 1) if in_updates else ("warmup_epochs", per_epoch)
    ends = length * (recipe.milestones[0] if recipe.schedule == Schedule.step else 1.0) / unit
    warmup = getattr(recipe, key)
    if warmup >= ends:
        raise Refused(
            f"recipe.{key}={warmup:g}: must be less than {ends:.3g}; with {images} images the training has {length} updates"
        )


def check_network(experiment: Experiment, classes: Sequence[str]) -> None:
    """Refuse a reference or a part of one's own that cannot be built and counted for the experiment's images."""
    if experiment.reference is not None:
        check_name(experiment.reference)
    if experiment.reference is not None or own_parts(experiment.model):
        cost_of_run(experiment, classes)


def cost_of_run(experiment: Experiment, classes: Sequence[str]) -> Cost:
    """What the network of a run costs, as its task counts."""
    from roadmap.tasks.choose import choose_task  # torch, and timm where a reference asks for it

    return choose_task(experiment, classes).cost(experiment.model, experiment.reference)
