"""A run as plain values, and its identity: a hash of everything that changes its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from typing import Any

from roadmap.config.parts import own_parts
from roadmap.config.schema import Experiment, RecipeConfig, TaskName, default_of

FIRST = {
    "epochs", "batch_size", "micro_batch", "sync_batchnorm", "ema", "lr", "lr_batch", "min_lr", "warmup_epochs", "weight_decay",
    "betas", "eps", "label_smoothing", "mixup", "cutmix", "mixup_switch_prob", "randaugment", "random_erasing", "crop_scale",
    "precision",
}  # fmt: skip
"""The recipe's settings that every identity holds. Those that came later count where they are not at their default, so that
the runs from before keep theirs."""


LATER_DATA = {"held_out": 0.0, "longest_side": None, "classes": None}
"""Settings of the data that came later, with the value at which they do not count."""


def plain(node: Any) -> Any:
    """Dataclasses and enums as dictionaries and strings, for JSON and YAML."""
    if dataclasses.is_dataclass(node):
        return {field.name: plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, (list, tuple)):
        return [plain(item) for item in node]
    return node.value if isinstance(node, Enum) else node


def described(experiment: Experiment) -> dict[str, Any]:
    """What is written down of a run: every setting, but of a reference's network only what it is and its stochastic depth."""
    return plain(experiment) | {"model": _described_model(experiment)}


def _described_model(experiment: Experiment) -> dict[str, Any]:
    if experiment.reference is not None:
        return {"reference": experiment.reference, "drop_path": experiment.model.drop_path}
    model: dict[str, Any] = plain(experiment.model)
    return model


def differences(one: Any, other: Any, key: str = "") -> list[str]:
    """`key: value / value` for each setting that two plain configurations have otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [line for name in keys for line in differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))]
    return [] if one == other else [f"{key}: {one} / {other}"]


def decisive(experiment: Experiment, fingerprint: str) -> dict[str, Any]:
    """Everything that changes a run's result, and nothing else.

    Model (parts of one's own with their source), data (its fingerprint, not its path nor the faults in it that are
    accepted), recipe, seed, given start weights and any task but classification with its head count; the step's name, output
    folder, logger, device and number of workers do not.
    """
    model = _described_model(experiment)
    if experiment.reference is None:
        if model["width"].is_integer():
            model["width"] = int(model["width"])
        if model["block_part"] is None:  # a toggle that came later: the runs from before keep their identity
            del model["block_part"]
        model |= {part.kind: part.stamped for part in own_parts(experiment.model)}
    data = {key: value for key, value in plain(experiment.data).items() if key not in ("path", "accept", "download", "workers")}
    for key, off in LATER_DATA.items():
        if data[key] == off:
            del data[key]
    data["pipeline"] = experiment.data.pipeline.pictures.value
    recipe = _decisive_recipe(experiment.recipe)
    decides = {"model": model, "data": {**data, "fingerprint": fingerprint}, "recipe": recipe, "seed": experiment.seed}
    if experiment.task.name != TaskName.classification:  # the runs from before there were others keep their identity
        decides |= {"task": plain(experiment.task), "head": plain(experiment.head)}
    if start := start_of(experiment):
        decides["start"] = start
    return decides


def start_of(experiment: Experiment) -> dict[str, str]:
    """What a run's weights start from: a hash of given ones, or another run's identity; empty from scratch.

    Nothing of the path counts: the same weights in another file are the same start.
    """
    if experiment.after is not None:
        return {"run": experiment.after.rstrip("/").rsplit("-", 1)[-1]}
    return {"weights": experiment.init_hash} if experiment.init is not None else {}


def _decisive_recipe(recipe: RecipeConfig) -> dict[str, Any]:
    later = {entry.name: plain(default_of(entry)) for entry in dataclasses.fields(recipe) if entry.name not in FIRST}
    return {key: value for key, value in plain(recipe).items() if key in FIRST or (key != "name" and value != later[key])}


def identity(experiment: Experiment, fingerprint: str) -> str:
    """Eight hex digits of what is decisive: runs of equal identity are the same run."""
    assert experiment.init is None or experiment.init_hash, "the weights that it starts from are not looked at yet"
    return hashlib.sha256(json.dumps(decisive(experiment, fingerprint), sort_keys=True).encode()).hexdigest()[:8]
