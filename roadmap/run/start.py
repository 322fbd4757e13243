"""The weights that a run starts from, found and checked before it; torch is imported where a run has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roadmap.config.schema import Experiment, TaskName
from roadmap.record.weights import located


def resolved(experiment: Experiment) -> Experiment:
    """The same with the hash of the weights that `init` names, which the run's identity holds.

    Raises:
        Refused: where there are none, or they cannot be read.

    """
    init = experiment.init
    if init is None:
        return experiment
    modified = 0 if init.startswith("timm:") else located(init).stat().st_mtime_ns
    from roadmap.model.start import start_hash  # torch

    return replace(experiment, init_hash=start_hash(init, built_at(experiment), modified))


def built_at(experiment: Experiment) -> int | None:
    """The image size in pixels that a run's reference is built for; None of a backbone, which takes any."""
    return experiment.data.image_size if experiment.task.name == TaskName.classification else None


def check_start(experiment: Experiment, classes: Sequence[str]) -> None:
    """Refuse start weights that are not those of the run's network."""
    if experiment.init is not None or experiment.after is not None:
        from roadmap.run.given import try_given  # torch

        try_given(experiment, classes)


def check_follows(experiment: Experiment, before: Experiment, classes: Sequence[str], said: str) -> None:
    """Refuse a run that is to start from another one, which need not be trained yet, but whose network is another."""
    from roadmap.run.given import try_follow  # torch

    try_follow(experiment, before, classes, said)
