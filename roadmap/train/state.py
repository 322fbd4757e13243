"""Where a run is, and its checkpoints: written by the run's first process, resumed from by all."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from timm.utils import ModelEmaV3
from torch import nn

from roadmap.base.errors import Refused
from roadmap.config.identity import differences
from roadmap.config.schema import Pipeline, RecipeConfig, RuntimeConfig
from roadmap.record.folder import RunFolder
from roadmap.record.updates import UpdateLog
from roadmap.train import checkpoint
from roadmap.train.update import Update


@dataclass
class Totals:
    """Sums over the epoch so far."""

    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0


@dataclass
class State:
    """Everything that the rest of a run depends on; random generators are not, being seeded by where the run is."""

    recipe: RecipeConfig
    runtime: RuntimeConfig
    settings: dict[str, Any]  # all of the run's, as plain values: a checkpoint of another run is told by them
    folder: RunFolder
    step: Update  # with the network, the optimizer and float16's loss scaler
    average: ModelEmaV3 | None
    pipeline: Pipeline
    epoch: int = 0
    update: int = 0  # updates done in this epoch
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0  # in training and evaluation, over all attempts
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.updates = UpdateLog(self.folder.path / "updates.csv")
        self.about: dict[str, Any] = {
            "run": self.folder.path.name,
            "experiment": self.settings,
            "precision": self.step.precision.value,
            "pipeline": self.pipeline.pictures.value,
            "processes": self.step.ranks.world,
        }

    @property
    def scored(self) -> nn.Module:
        """The network whose score counts: the averaged one where the recipe averages."""
        return self.step.network if self.average is None else self.average.module

    @property
    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() - self.saved_at > self.runtime.checkpoint_seconds

    def dump(self) -> dict[str, Any]:
        """The state as a checkpoint holds it."""
        return {
            **self.about,
            "epoch": self.epoch,
            "update": self.update,
            "totals": vars(self.totals),
            "seconds": self.seconds,
            "network": self.step.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
        }

    def save(self) -> None:
        """Write a checkpoint, if this is the process that writes."""
        if self.step.ranks.first:
            self.folder.check_claim()
            written = self.updates.flush()
            checkpoint.save(self.folder.checkpoints, self.epoch, self.update, {**self.dump(), "written": written})
        self.saved_at = time.monotonic()

    def resume(self) -> list[str]:
        """Go on from the newest usable checkpoint, if there is any; returns what was wrong with newer ones.

        Raises:
            Refused: where the run would be computed in another way than before, or its processes see different checkpoints.
            StorageFault: where there are checkpoints and none is usable.

        """
        saved, faults = checkpoint.load_newest(self.folder.checkpoints, self._foreign)
        if saved is not None:
            self._load(saved)
            self.updates.take_up(saved["written"], faults)
        place, computed = self.folder.path, (self.about["pipeline"], self.about["precision"])
        ways, positions = zip(*self.step.ranks.gather((computed, (self.epoch, self.update))), strict=True)
        if len(set(ways)) > 1:
            raise Refused(f"{place}: unequal devices differ in what auto means: say data.pipeline and recipe.precision")
        if len(set(positions)) > 1:
            raise Refused(f"{place}: the processes of this run do not see the same checkpoints: put output= on a shared disk")
        return faults

    def _foreign(self, saved: dict[str, Any]) -> str | None:
        """What makes a checkpoint that of another run."""
        run = saved.get("run")
        if run == self.about["run"]:
            return None
        unequal = differences(saved.get("experiment", {}), self.about["experiment"])
        return f"it is the state of another run, {run}; it differs in {', '.join(unequal) or 'its data'}"

    def _load(self, saved: dict[str, Any]) -> None:
        for key in ("precision", "pipeline", *(["processes"] if self.recipe.sync_batchnorm else [])):
            if saved[key] != self.about[key]:
                raise Refused(f"{self.folder.path} was trained with {key} {saved[key]} and would go on in {self.about[key]}")
        self.step.network.load_state_dict(saved["network"])
        if self.average is not None:
            self.average.module.load_state_dict(saved["average"])
        self.step.optimizer.load_state_dict(saved["optimizer"])
        self.step.scaler.load_state_dict(saved["scaler"])
        self.epoch, self.update = saved["epoch"], saved["update"]
        self.totals, self.seconds = Totals(**saved["totals"]), saved["seconds"]
