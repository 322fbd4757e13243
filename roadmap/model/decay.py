"""Layers for a rate that decays from layer to layer, as the paper's detectors count them (appendix A.3): for every network.

The official rule knows ConvNeXt's names and silently gives every other network the head's rate. Here a weight's place, its stage
and its block, decides, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from roadmap.model.network import LAYER, Network

DOWNSAMPLING = re.compile(r"(?:stages|layers)[._]\d+\.downsampl")  # between stages, not in blocks as timm's ResNet's shortcuts
STAGES = 4
THIRD = 2  # the stage that counts as several layers


class Place(NamedTuple):
    """Where a weight of a backbone stands; the stem has no stage."""

    stage: int | None
    block: int
    downsampling: bool


class OnBackbone(Protocol):
    """`tasks.dense.backbone.DenseNetwork`."""

    backbone: Network


def decay_layers(network: OnBackbone, layers: int, by_stage: bool = False) -> dict[str, int]:
    """The layer of each weight, from 0, the stem, to `layers` + 1, the head and the norms before it: rate^(layers + 1 - layer).

    With 6 layers those are stem; stage 1; stage 2; the third stage in three equal groups of blocks; stage 4. With more, the
    third stage has more groups. What lies between two stages belongs to the later one. By stage it belongs to the stem, each
    stage is one layer, and the head keeps its number.

    `layers` of the backbone without its stem are at least four: 6 for three blocks in the third stage's groups of ConvNeXt-T, 12
    for ConvNeXt-S and above; `by_stage` is as UPerNet's recipe has it.
    """
    places = _places(network.backbone)
    depth = 1 + max(place.block for place in places.values() if place.stage == THIRD)
    own = {name: _by_stage(at, layers) if by_stage else _by_layer(at, layers, depth) for name, at in places.items()}
    names = (name for name, _ in network.named_parameters())  # type: ignore[attr-defined]
    return {name: own.get(name.removeprefix("backbone."), layers + 1) for name in names}


def _by_layer(at: Place, layers: int, depth: int) -> int:
    """`depth`: blocks in the third stage."""
    if at.stage is None:
        return 0
    if at.stage < THIRD:
        return at.stage + 1
    return THIRD + 1 + at.block * (layers - STAGES + 1) // depth if at.stage == THIRD else layers


def _by_stage(at: Place, layers: int) -> int:
    """A reference may have more than four stages."""
    return 0 if at.stage is None or at.downsampling else min(at.stage + 1, layers)


def _places(backbone: Network) -> dict[str, Place]:
    """Of every weight of a backbone."""
    names = [name for name, _ in backbone.named_parameters()]
    if isinstance(backbone, Network):
        return {name: _place(name) for name in names}
    from timm.models import group_parameters

    stages, blocks = (group_parameters(backbone, backbone.group_matcher(coarse=coarse), reverse=True) for coarse in (True, False))
    return _reference_places(names, stages, blocks)


def _place(name: str) -> Place:
    """Of a weight of a step's network."""
    found = LAYER.match(name)
    assert found is not None, name
    _, stage, block = found.groups()
    return Place(None if stage is None else int(stage), int(block or 0), bool(DOWNSAMPLING.match(name)))


def _reference_places(names: Iterable[str], stages: Mapping[str, int], blocks: Mapping[str, int]) -> dict[str, Place]:
    """By timm's own groups, the stem's first and then the stages' or the blocks'."""
    first = {stages[name]: min(blocks[other] for other in stages if stages[other] == stages[name]) for name in names}
    return {
        name: Place(
            stages[name] - 1 if stages[name] else None, blocks[name] - first[stages[name]], bool(DOWNSAMPLING.match(name))
        )
        for name in names
    }
