"""What is refused before anything is trained, for a run and for a study alike: settings, output, images, reference."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from roadmap.base import processes
from roadmap.base.errors import Refused
from roadmap.config.checks import check_processes
from roadmap.config.effects import following_rate, ineffective_settings
from roadmap.config.overrides import parse
from roadmap.config.schema import Experiment
from roadmap.data.images import sources
from roadmap.data.images.inventory import Inventory
from roadmap.model.check import compose_run
from roadmap.model.names import check_name
from roadmap.record.folder import runs_folder

if TYPE_CHECKING:
    from roadmap.model.cost import Cost

SINGLE = {  # what belongs to a study
    "study.steps": "a run has one step and one seed",
    "study.seeds": "a run has one step and one seed",
    "study.references": "a run trains one network; reference=NAME trains that one",
}


def check_jobs(overrides: list[str], folders: Sequence[Path], multirun: bool) -> None:
    """Refuse what no job of a command line could start from; warn of settings that have no effect."""
    jobs = BasicSweeper.split_arguments(parse(overrides), None)[0] if multirun else [overrides]
    if not jobs:
        raise Refused("the sweep is empty: one of its ranges holds no value")
    said: list[str] = []
    for job in jobs:
        experiment = compose_run(job, folders)
        check_processes(experiment, processes.world_size())
        preflight(experiment)
        idle = [f"{key} has no effect here: {why}" for key, why in SINGLE.items() if any(o.startswith(key) for o in job)]
        said += [f"warning: {warning}" for warning in ineffective_settings(experiment, job, folders) + idle]
        said += following_rate(experiment, job)
    for line in dict.fromkeys(said):  # once no job is refused
        print(f"roadmap: {line}", file=sys.stderr)


def preflight(experiment: Experiment) -> Inventory:
    """Refuse a run whose output cannot be written, whose images cannot be used, or whose reference does not take them.

    Returns:
        The images that the run would be trained on.

    """
    check_output(experiment)
    inventory = sources.checked_images(experiment.data, experiment.recipe.batch_size)
    check_reference(experiment, len(inventory.classes))
    return inventory


def check_reference(experiment: Experiment, classes: int) -> None:
    """Refuse a reference that timm does not have, or that does not take the experiment's images."""
    if experiment.reference is not None:
        check_name(experiment.reference)
        cost_of(experiment, classes)


def cost_of(experiment: Experiment, classes: int) -> Cost:
    """What the network of a run costs, as its task counts."""
    from roadmap.tasks.choose import choose_task  # torch, and timm where a reference asks for it

    task = choose_task(experiment.task, experiment.recipe, classes)
    return task.cost(experiment.model, experiment.reference, experiment.data.image_size)


def check_output(experiment: Experiment) -> None:
    """Refuse an output folder that could not be made or written, before anything is made in it."""
    check_writable(runs_folder(experiment), f"output={experiment.output}")


def check_writable(folder: Path, said: str) -> None:
    """Refuse a folder that could not be made or written, for which the command line said `said`."""
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    try:
        with TemporaryFile(dir=there):  # without a name; root may write everywhere, and some systems refuse all the same
            pass
    except OSError as error:
        raise Refused(f"{said}: {there} is not a folder that can be written: {error.strerror}") from error
