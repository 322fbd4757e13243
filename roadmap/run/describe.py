"""What a run writes down of itself: what it is, and what came out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from roadmap.base.errors import StorageFault
from roadmap.config.checks import study_folder
from roadmap.config.identity import decisive, start_of
from roadmap.config.schema import Experiment
from roadmap.data.images.inventory import Inventory
from roadmap.record.provenance import provenance
from roadmap.record.result import RunResult
from roadmap.train.loop import Trainer


def describe(trainer: Trainer, inventory: Inventory, fingerprint: str) -> RunResult:
    """What the run is; the outcome is filled in at the end."""
    experiment, device = trainer.experiment, trainer.ranks.device
    settings = decisive(experiment, fingerprint)
    cost = trainer.task.cost(experiment.model, experiment.reference)
    counts = {"classes": len(inventory.classes), "train": inventory.train.size, "val": inventory.val.size}
    return RunResult(
        run=trainer.state.folder.path.name,
        study=experiment.study.name,
        step=experiment.step,
        scale=experiment.scale.name,
        seed=experiment.seed,
        metric=trainer.task.metric,
        gmacs=cost.conv_linear / 1e9,
        gmacs_backbone=None if cost.backbone is None else cost.backbone / 1e9,
        gmacs_total=None if experiment.reference else cost.total / 1e9,  # of a reference norms are not counted
        params_m=cost.params / 1e6,
        activations_m=cost.activations / 1e6,
        seconds=trainer.state.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        instructions=torch.backends.cpu.get_cpu_capability(),
        processes=trainer.ranks.world,
        precision=trainer.step.precision.value,
        pipeline=trainer.data.name.value,
        compiled=trainer.compiled.value,
        threads=torch.get_num_threads(),
        recipe_name=experiment.recipe.name,
        head=settings.get("head"),
        model=settings["model"],
        data={**settings["data"], **counts},
        recipe=settings["recipe"],
        init=_start(experiment),
        class_names=list(inventory.classes),
        **provenance(),
    )


def _start(experiment: Experiment) -> dict[str, str] | None:
    if experiment.after is None:
        return start_of(experiment) or None
    of = experiment.study.start
    return {"run": Path(experiment.after).name} | ({} if of is None else {"study": study_folder(of).resolve().name})


def outcome(trainer: Trainer, described: RunResult) -> RunResult:
    """The final epoch, as declared before training; never the best one.

    Raises:
        StorageFault: where the record lacks it.

    """
    folder = trainer.state.folder
    history = folder.history()
    if not history or history[-1]["epoch"] != trainer.epochs - 1:
        raise StorageFault(f"{folder.history_file}: the last epoch is not in it; delete the run's folder to train again")
    last = history[-1]
    beside = ("epoch", "train_loss", "lr", "images_per_second", "seconds")
    return replace(
        described,
        status="done",
        scores={key: value for key, value in last.items() if key not in beside},
        train_loss=last["train_loss"],
        images_per_second=last["images_per_second"],
        seconds=trainer.state.seconds,
    )
