"""What is refused before anything is trained."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from roadmap.base import processes
from roadmap.base.errors import Refused
from roadmap.config.checks import check_processes
from roadmap.config.effects import ineffective_settings
from roadmap.config.overrides import parse
from roadmap.config.schema import Experiment
from roadmap.data.images import sources
from roadmap.model.check import compose_run
from roadmap.record.folder import runs_folder

if TYPE_CHECKING:
    from roadmap.model.cost import Cost


def cost_of(experiment: Experiment, classes: int) -> Cost:
    """What the network of a run costs, as its task counts."""
    from roadmap.tasks.choose import choose_task  # torch, and timm where a reference asks for it

    task = choose_task(experiment.task, experiment.recipe, classes)
    return task.cost(experiment.model, experiment.reference, experiment.data.image_size)


def check_reference(experiment: Experiment, classes: int) -> None:
    """Refuse a reference that timm does not have, or that does not take the experiment's images."""
    if experiment.reference is not None:
        cost_of(experiment, classes)


def check_output(experiment: Experiment) -> None:
    """Refuse an output folder that could not be made or written, before anything is made in it."""
    folder = runs_folder(experiment)
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Refused(f"output={experiment.output}: {there} is not a folder that can be written")


def check(overrides: list[str], folders: Sequence[Path], multirun: bool) -> None:
    """Refuse what no job could start from; say which settings have no effect."""
    jobs = BasicSweeper.split_arguments(parse(overrides), None)[0] if multirun else [overrides]
    if not jobs:
        raise Refused("the sweep is empty: one of its ranges holds no value")
    for job in jobs:
        experiment = compose_run(job, folders)
        check_processes(experiment, processes.world_size())
        found = sources.check(experiment)
        check_output(experiment)
        check_reference(experiment, len(found.classes))
        one = [f"{key} has no effect here: a run has one step and one seed" for key in ("study.steps", "study.seeds")]
        one.append("study.references has no effect here: a run trains one network; reference=NAME trains that one")
        idle = [said for said in one if any(override.startswith(said.split()[0]) for override in job)]
        for warning in ineffective_settings(experiment, job, folders) + idle:
            print(f"roadmap: warning: {warning}", file=sys.stderr)
