"""Curves beside the run's own files: W&B, TensorBoard, or nothing. The record on disk is the source and never depends on them."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Protocol

from roadmap.base.redaction import redact_text
from roadmap.config.identity import described
from roadmap.config.schema import Experiment, Logger, WandbMode
from roadmap.record.folder import RunFolder
from roadmap.tracking.wandb.process import Uploader
from roadmap.tracking.wandb.run import WandbRun

log = logging.getLogger("roadmap")


class Tracker(Protocol):
    """What follows a run's record."""

    def update(self) -> None:
        """The record has one epoch more."""
        return

    def close(self) -> None:
        """The record holds a result, or the run was stopped."""
        return


class NoTracker(Tracker):
    """Follows nothing."""


def open_tracker(experiment: Experiment, folder: RunFolder) -> Tracker:
    """The tracker that the experiment asks for; the run works the same without it, and its log says why."""
    if experiment.logger == Logger.none:
        return NoTracker()
    if experiment.logger == Logger.tensorboard:
        from roadmap.tracking.tensorboard import TensorboardTracker  # torch, which the run has anyway

        return TensorboardTracker(folder, described(experiment))
    if redact_text(str(folder.path.absolute())) != str(folder.path.absolute()):
        log.warning(
            "logger=wandb: the path of output= holds a secret, and wandb writes its path down; the run goes on without it"
        )
        return NoTracker()
    try:
        return Uploader(_shown(experiment, folder.path))
    except OSError as error:
        log.warning("logger=wandb: %s; the run goes on without it", error)
        return NoTracker()


def _shown(experiment: Experiment, folder: Path) -> WandbRun:
    """How the run is shown; one that W&B's agent asked for (`wandb agent`, conf/wandb/sweep.yaml) is the agent's run."""
    shown = WandbRun.of(described(experiment), folder, experiment.wandb.mode == WandbMode.online)
    asked = {name: os.environ.get(f"WANDB_{name}") for name in ("RUN_ID", "SWEEP_ID", "PROJECT", "ENTITY")}
    if not (shown.online and asked["RUN_ID"] and asked["SWEEP_ID"]):
        return shown
    project, entity = asked["PROJECT"] or shown.project, asked["ENTITY"] or shown.entity
    return dataclasses.replace(shown, id=asked["RUN_ID"], project=project, entity=entity, sweep={"sweep_id": asked["SWEEP_ID"]})
