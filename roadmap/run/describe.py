"""What a run writes down of itself: what it is, and what came out."""

from __future__ import annotations

from dataclasses import replace

import torch

from roadmap.base.errors import StorageFault
from roadmap.config.identity import decisive
from roadmap.model.cost import cost_of
from roadmap.record.provenance import provenance
from roadmap.record.result import RunResult
from roadmap.tasks.metrics import METRICS
from roadmap.train.loop import Session


def describe(session: Session, fingerprint: str) -> RunResult:
    """What the run is; the outcome is filled in at the end."""
    experiment, inventory = session.experiment, session.found
    settings = decisive(experiment, fingerprint)
    cost = cost_of(experiment, len(inventory.classes))
    counts = {"classes": len(inventory.classes), "train": inventory.train.size, "val": inventory.val.size}
    return RunResult(
        run=session.folder.path.name,
        study=experiment.study.name,
        step=experiment.step,
        scale=experiment.scale.name,
        seed=experiment.seed,
        metric=METRICS["classification"],
        gmacs=cost.conv_linear / 1e9,
        gmacs_total=None if experiment.reference else cost.total / 1e9,  # of a reference norms are not counted
        params_m=cost.params / 1e6,
        activations_m=cost.activations / 1e6,
        seconds=session.seconds,
        device=_device_name(session.ranks.device),
        processes=session.ranks.world,
        precision=session.precision.value,
        pipeline=session.data.name.value,
        compiled=session.compiled.value,
        threads=torch.get_num_threads(),
        recipe_name=experiment.recipe.name,
        model=settings["model"],
        data={**settings["data"], **counts},
        recipe=settings["recipe"],
        **provenance(),
    )


def outcome(session: Session, described: RunResult) -> RunResult:
    """The final epoch, as declared before training; never the best one.

    Raises:
        StorageFault: where the record lacks it.

    """
    history = session.folder.history()
    if not history or history[-1]["epoch"] != session.experiment.recipe.epochs - 1:
        raise StorageFault(f"{session.folder.history_file}: the last epoch is not in it; delete the run's folder to train again")
    last = history[-1]
    beside = ("epoch", "train_loss", "lr", "images_per_second", "seconds")
    return replace(
        described,
        status="done",
        scores={key: value for key, value in last.items() if key not in beside},
        train_loss=last["train_loss"],
        images_per_second=last["images_per_second"],
        seconds=session.seconds,
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
