"""Weights to and from timm: ResNet (`resnet`) and ConvNeXt (`separate_downsampling`), the roadmap's ends, and V2 (`grn`)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from roadmap.base.errors import Refused
from roadmap.model.network import Network

# timm's model at each end of each scale; where the starting point is ours, only the ends that it leads to.
TWINS = {
    "resnet": {"tiny": "resnet50", "base": "resnet200", "small": "resnet101"},
    "separate_downsampling": {
        scale: f"convnext_{scale}" for scale in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge")
    },
    "grn": {
        scale: f"convnextv2_{scale}" for scale in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "huge")
    },
}

# Our names (patterns) and timm's (templates). Stages count from 0 here and from 1 in timm's ResNet.
RESNET = {
    r"stem\.layer\.conv": "conv1",
    r"stem\.layer\.norm": "bn1",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.(\d)\.conv": "layer{0+1}.{1}.conv{2+1}",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.(\d)\.norm": "layer{0+1}.{1}.bn{2+1}",
    r"stages\.(\d+)\.blocks\.(\d+)\.shortcut\.conv": "layer{0+1}.{1}.downsample.0",
    r"stages\.(\d+)\.blocks\.(\d+)\.shortcut\.norm": "layer{0+1}.{1}.downsample.1",
    r"head\.fc": "fc",
}
CONVNEXT = {
    r"stem\.layer\.conv": "stem.0",
    r"stem\.norm": "stem.1",
    r"stages\.(\d+)\.downsampling\.0": "stages.{0}.downsample.0",
    r"stages\.(\d+)\.downsampling\.1\.conv": "stages.{0}.downsample.1",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.0\.conv": "stages.{0}.blocks.{1}.conv_dw",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.0\.norm": "stages.{0}.blocks.{1}.norm",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.1\.conv": "stages.{0}.blocks.{1}.mlp.fc1",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.1\.part": "stages.{0}.blocks.{1}.mlp.grn",
    r"stages\.(\d+)\.blocks\.(\d+)\.branch\.2\.conv": "stages.{0}.blocks.{1}.mlp.fc2",
    r"stages\.(\d+)\.blocks\.(\d+)\.scale\.gamma": "stages.{0}.blocks.{1}.gamma",
    r"head\.norm": "head.norm",
    r"head\.fc": "head.fc",
}

SIGNS = {"conv1.weight": RESNET, "stem.0.weight": CONVNEXT}
"""A weight by which timm's names are told from ours, at each end."""


def timm_twin(step: str, scale: str) -> str | None:
    """The timm model that this step at this scale equals, if there is one."""
    return TWINS.get(step, {}).get(scale)


def from_timm(network: Network, model: nn.Module) -> None:
    """Copy the weights of timm's model into its twin of ours, in place.

    Raises:
        Refused: where the two are not the same network.

    """
    ours, theirs = network.state_dict(), model.state_dict()
    network.load_state_dict({key: theirs[name].reshape(ours[key].shape) for key, name in _paired(ours, theirs).items()})


def to_timm(network: Network, model: nn.Module) -> None:
    """Copy our weights into timm's twin of the network, in place.

    Raises:
        Refused: where the two are not the same network.

    """
    ours, theirs = network.state_dict(), model.state_dict()
    model.load_state_dict({name: ours[key].reshape(theirs[name].shape) for key, name in _paired(ours, theirs).items()})


def like_ours(weights: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under our names, and what is left: timm's names are translated at either end, other names are taken as they are.

    A linear layer of timm's that is a 1x1 convolution here gets two axes more; nothing else is given another shape.
    """
    table = next((names for sign, names in SIGNS.items() if sign in weights), None)
    if table is None:
        return dict(weights), {}
    theirs = {name: _timm_name(name, table) for name in needed}
    found = {name: _with_axes(weights[their], needed[name]) for name, their in theirs.items() if their in weights}
    left = {name: weight for name, weight in weights.items() if name not in theirs.values()}
    return found, {re.sub(r"^fc\.", "head.fc.", name): weight for name, weight in left.items()}


def _with_axes(weight: Tensor, like: Tensor) -> Tensor:
    same = weight.numel() == like.numel() and weight.shape[:2] == like.shape[:2]
    return weight.reshape(like.shape) if same and {weight.ndim, like.ndim} == {2, 4} else weight


def _paired(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, str]:
    """Timm's name of every weight of ours; all of both sides, with equal sizes: a 1x1 convolution may be a linear layer there."""
    table = next((names for sign, names in SIGNS.items() if sign in theirs), CONVNEXT)
    names = {key: _timm_name(key, table) for key in ours}
    odd = sorted(theirs.keys() ^ set(names.values()))
    odd = odd or [name for key, name in names.items() if theirs[name].numel() != ours[key].numel()]
    if odd:
        raise Refused(f"not timm's network: {len(odd)} weights have no counterpart of their size, {odd[0]} among them")
    return names


def _timm_name(key: str, table: Mapping[str, str]) -> str:
    for pattern, template in table.items():
        if match := re.fullmatch(f"(?:{pattern})((?:\\.[a-z_]+)?)", key):
            *numbers, leaf = match.groups()
            return _fill(template, numbers) + leaf
    return key


def _fill(template: str, numbers: list[str]) -> str:
    """Put numbers into `{0}`, and into `{0+1}` one more."""
    return re.sub(r"\{(\d)(\+1)?\}", lambda m: str(int(numbers[int(m[1])]) + bool(m[2])), template)
