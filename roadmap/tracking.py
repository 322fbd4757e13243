"""Curves beside the run's own files: W&B, or nothing. The record never depends on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from roadmap.config import plain
from roadmap.record import Result, RunFolder
from roadmap.schema import Experiment, Logger, WandbMode

log = logging.getLogger("roadmap")


SUMMARY = ("top1", "top5", "gmacs", "params_m", "delta_top1", "status", "images_per_second")


class Tracker(Protocol):
    """Where a run's numbers are mirrored."""

    def epoch(self, line: dict[str, Any]) -> None:
        """One epoch's numbers."""

    def finish(self, result: Result) -> None:
        """The final numbers."""


class NoTracker:
    """The mirror that keeps nothing."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Keep nothing."""

    def finish(self, result: Result) -> None:
        """Keep nothing."""


class WandbTracker:
    """A W&B run: steps of a study form a group, its summary holds the final epoch's numbers."""

    def __init__(self, experiment: Experiment, folder: RunFolder, run_id: str) -> None:
        import wandb

        config = plain(experiment)
        config.pop("output")
        self.run = wandb.init(
            dir=str(folder.path),
            project=experiment.wandb.project,
            entity=experiment.wandb.entity,
            mode="offline" if experiment.wandb.mode == WandbMode.offline else "online",
            id=run_id,
            resume="allow" if experiment.wandb.mode == WandbMode.online else None,
            name=f"{experiment.step.name}-s{experiment.seed}",
            group=experiment.step.name,
            job_type=experiment.study.name,
            tags=[experiment.scale.name, experiment.data.source, experiment.recipe.name, f"seed-{experiment.seed}"],
            config=config,
            settings=wandb.Settings(silent=True, init_timeout=10, console="off"),
        )

    def epoch(self, line: dict[str, Any]) -> None:
        """Log an epoch against its number."""
        with _harmless():
            self.run.log({key: value for key, value in line.items() if value is not None}, step=line["epoch"])

    def finish(self, result: Result) -> None:
        """Write the summary by hand: the last epoch's scores and the cost, never the best."""
        with _harmless():
            self.run.summary.update({key: result[key] for key in SUMMARY if result.get(key) is not None})
            self.run.finish()


@contextmanager
def _harmless() -> Iterator[None]:
    """W&B's own faults are many, and none may cost a run: the record beside it is whole without it."""
    try:
        yield
    except ImportError:
        log.warning("logger=wandb: wandb is not installed; the run goes on without it (pip install wandb)")
    except Exception as error:
        log.warning("logger=wandb: %s; the run goes on without it", error)


def tracker(experiment: Experiment, folder: RunFolder) -> Tracker:
    """The mirror that the experiment asks for; a run works the same without it, and says so in its log."""
    if experiment.logger == Logger.none:
        return NoTracker()
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with _harmless():
        return WandbTracker(experiment, folder, run_id=folder.path.name)
    return NoTracker()
