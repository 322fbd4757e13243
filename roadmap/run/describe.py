"""What a run writes down of itself: what it is, and what came out."""

from __future__ import annotations

import torch

from roadmap.base.errors import StorageFault
from roadmap.config.identity import decisive, plain
from roadmap.model.cost import cost_of
from roadmap.record.folder import parent_top1
from roadmap.record.provenance import provenance
from roadmap.record.result import Result
from roadmap.train.loop import Session


def outcome(session: Session, described: Result) -> Result:
    """The final epoch, as declared before training; never the best one."""
    history = session.folder.history()
    if not history or history[-1]["epoch"] != session.experiment.recipe.epochs - 1:
        raise StorageFault(f"{session.folder.history_file}: the last epoch is not in it; delete the run's folder to train again")
    last = history[-1]
    before = parent_top1(session.folder, described)
    return {
        "status": "done",
        "top1": last["top1"],
        "top5": last["top5"],
        "top1_without_ema": last["top1_without_ema"],
        "val_loss": last["val_loss"],
        "train_loss": last["train_loss"],
        "delta_top1": None if before is None else last["top1"] - before,
        "images_per_second": last["images_per_second"],
        "seconds": session.seconds,
    }


def describe(session: Session, fingerprint: str) -> Result:
    """What the run is, in the order in which people read it; the outcome is filled in at the end."""
    experiment, found = session.experiment, session.found
    counts = decisive(experiment, fingerprint)
    counted = cost_of(experiment, len(found.classes))
    return {
        "run": session.folder.path.name,
        "study": experiment.study.name,
        "step": plain(experiment.step),
        "scale": experiment.scale.name,
        "seed": experiment.seed,
        "status": "running",
        "top1": None,
        "top5": None,
        "top1_without_ema": None,
        "val_loss": None,
        "train_loss": None,
        "delta_top1": None,
        "gmacs": counted.conv_linear / 1e9,
        "gmacs_total": None if experiment.reference else counted.total / 1e9,  # of a reference norms are not counted
        "params_m": counted.params / 1e6,
        "activations_m": counted.activations / 1e6,
        "images_per_second": None,
        "seconds": session.seconds,
        "device": _device_name(session.ranks.device),
        "processes": session.ranks.world,
        "precision": session.precision.value,
        "pipeline": session.data.name.value,
        "compiled": session.compiled.value,
        "threads": torch.get_num_threads(),
        "recipe_name": experiment.recipe.name,
        "model": counts["model"],
        "data": {**counts["data"], "classes": len(found.classes), "train": found.train.size, "val": found.val.size},
        "recipe": counts["recipe"],
        **provenance(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
