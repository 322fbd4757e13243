"""A run's trained network, from its record: its weights, and the images that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from roadmap.base.errors import Refused, first_line
from roadmap.model.registry import PRETRAINED_CFG, timm_name
from roadmap.model.saved import read_weights
from roadmap.record.result import RunResult


def fill_trained(network: nn.Module, result: RunResult, weights: Path) -> nn.Module:
    """Give a run's network its weights, in place, and what timm reads of a model.

    Raises:
        Refused: where the weights cannot be read, or are another network's.

    """
    try:
        network.load_state_dict(read_weights(weights))
    except RuntimeError as error:
        raise Refused(f"{weights}: not the weights of this run: {first_line(error)}") from error
    network.pretrained_cfg = network.default_cfg = _pretrained_cfg(result)  # type: ignore[assignment]
    return network.eval()


def _pretrained_cfg(result: RunResult) -> dict[str, Any]:
    """What timm reads of a model: the data configuration, and the names of the first and of the last layer."""
    reference, data = result.model.get("reference"), result.data
    if reference is None:
        known = {**PRETRAINED_CFG, "architecture": timm_name(result.step.name, result.scale)}
    else:
        known = {**timm.get_pretrained_cfg(reference).to_dict(), "architecture": reference}
    size = data["image_size"]
    own = {"input_size": (3, size, size), "pool_size": (size // 32, size // 32), "num_classes": data["classes"]}
    own |= {"mean": tuple(data["mean"]), "std": tuple(data["std"]), "crop_pct": data["crop_pct"]}
    return {
        **known,
        **own,
        "interpolation": result.recipe.get("interpolation", "bicubic"),
        "crop_mode": "center",
        "tag": result.run,
    }
