"""What a run writes down of itself: what it is, and what came out."""

from __future__ import annotations

import torch

from roadmap.base.errors import StorageFault
from roadmap.config.identity import decisive, plain
from roadmap.config.schema import Experiment
from roadmap.data.images.sources import Inventory
from roadmap.record.folder import parent_top1
from roadmap.record.provenance import provenance
from roadmap.record.result import Result
from roadmap.train.loop import Trainer


def outcome(trainer: Trainer, described: Result) -> Result:
    """The final epoch, as declared before training; never the best one."""
    folder = trainer.state.folder
    history = folder.history()
    if not history or history[-1]["epoch"] != trainer.recipe.epochs - 1:
        raise StorageFault(f"{folder.history_file}: the last epoch is not in it; delete the run's folder to train again")
    last = history[-1]
    before = parent_top1(folder, described)
    return {
        "status": "done",
        "top1": last["top1"],
        "top5": last["top5"],
        "top1_without_ema": last["top1_without_ema"],
        "val_loss": last["val_loss"],
        "train_loss": last["train_loss"],
        "delta_top1": None if before is None else last["top1"] - before,
        "images_per_second": last["images_per_second"],
        "seconds": trainer.state.seconds,
    }


def describe(trainer: Trainer, experiment: Experiment, inventory: Inventory, fingerprint: str) -> Result:
    """What the run is, in the order in which people read it; the outcome is filled in at the end."""
    counts = decisive(experiment, fingerprint)
    counted = trainer.task.cost(experiment.model, experiment.reference, experiment.data.image_size)
    return {
        "run": trainer.state.folder.path.name,
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
        "seconds": trainer.state.seconds,
        "device": _device_name(trainer.ranks.device),
        "processes": trainer.ranks.world,
        "precision": trainer.step.precision.value,
        "pipeline": trainer.data.name.value,
        "compiled": trainer.compiled.value,
        "threads": torch.get_num_threads(),
        "recipe_name": experiment.recipe.name,
        "model": counts["model"],
        "data": {**counts["data"], "classes": len(inventory.classes), "train": inventory.train.size, "val": inventory.val.size},
        "recipe": counts["recipe"],
        **provenance(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
