"""Weights in a file: tensors by name, whichever form they are stored in. Nothing that a file holds is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from roadmap.base.errors import Refused, first_line

WRAPPED = ("state_dict", "model")  # under which training programs store weights beside other things


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file, on the CPU; of a .pt that wraps them, what stands under `state_dict` or `model`.

    Refused where the file cannot be read, or holds anything but weights.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise what it likes
        raise Refused(f"{file}: its weights cannot be read: {_reason(error)}") from error
    return _tensors(file, content)


def as_safetensors(weights: Mapping[str, Tensor]) -> bytes:
    """A .safetensors file of these tensors: each in memory of its own and in the order of its axes, on whatever device it is."""
    plain = {name: weight.detach().cpu().clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}
    return safetensors.torch.save(plain, {"format": "pt"})


def _tensors(file: Path, content: Any) -> dict[str, Tensor]:
    wrapped = [key for key in WRAPPED if isinstance(content, dict) and isinstance(content.get(key), dict)]
    weights = content[wrapped[0]] if len(wrapped) == 1 else content
    if isinstance(weights, dict) and weights and all(isinstance(weight, Tensor) for weight in weights.values()):
        return dict(weights)
    there = ", ".join(map(str, list(content)[:8])) or "nothing" if isinstance(content, dict) else type(content).__name__
    raise Refused(f"{file}: holds {there} and no weights; needed: tensors by name, or such under one of {', '.join(WRAPPED)}")


def _reason(error: Exception) -> str:
    text = first_line(error)
    return "it holds more than tensors" if "Weights only load failed" in text else text
