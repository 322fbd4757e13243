"""Weights that a network starts from: where they are from, and whether they are its own but for a classifier of other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from roadmap.base.errors import Refused, first_of
from roadmap.config.checks import TIMM
from roadmap.model.network import Network
from roadmap.model.saved import as_safetensors, read_weights
from roadmap.model.weights import like_ours
from roadmap.record.weights import hash_of, located

COUNTER = "num_batches_tracked"  # of a BatchNorm, which no network here reads; torchvision's older files lack it


@dataclass(frozen=True)
class Fill:
    """What given weights fill: a network or a part of it, and its layers that are made anew for other targets than theirs."""

    part: nn.Module
    heads: tuple[str, ...] = ()  # names in `part`
    within: str = ""  # where the part lies in a network of its own kind: of such weights those outside are left out
    spare: tuple[str, ...] = ()  # layers of a classifier that the part has no place for, and leaves out


@dataclass
class Fit:
    """Start weights beside the weights that are needed."""

    weights: dict[str, Tensor]  # under the names of the part that they fill
    anew: list[str] = field(default_factory=list)  # sentences: heads that keep their fresh weights, weights that were left out


def start_weights(init: str, image_size: int | None) -> dict[str, Tensor]:
    """The tensors that `init` names, timm's for images of this size in pixels or of its own; Refused where none can be read."""
    if not init.startswith(TIMM):
        return read_weights(located(init))
    from roadmap.model.reference import pretrained  # timm, whose import takes seconds

    return dict(pretrained(init.removeprefix(TIMM), image_size, f"init={init}").state_dict())


def start_shapes(init: str, image_size: int | None) -> dict[str, Tensor]:
    """The same of `timm:NAME`, without numbers (on `meta`), and nothing is fetched."""
    from roadmap.model.reference import outline  # timm

    return dict(outline(init.removeprefix(TIMM), image_size, f"init={init}").state_dict())


@lru_cache(maxsize=16)
def start_hash(init: str, image_size: int | None, modified: int = 0) -> str:
    """Sixteen hex digits of these weights; `modified` tells one state of a file from another."""
    return hash_of(as_safetensors(start_weights(init, image_size)), f"init={init}")


def load_start(fill: Fill, weights: Mapping[str, Tensor], said: str, same_targets: bool = True) -> list[str]:
    """Fill a network with start weights, in place; returns a sentence for each layer that was made anew or left out.

    Refused where `weights`, by our names or at the roadmap's ends by timm's, are not this network's by names and shapes; `said`
    is how they were named. `same_targets` is False where they are known to be for other classes, though perhaps for as many.
    """
    fit = check_fits(fill, weights, said, same_targets)
    odd = [name for name, weight in fit.weights.items() if weight.is_floating_point() and not weight.isfinite().all()]
    if odd:
        raise Refused(f"{said}: {first_of(odd)} hold numbers that are not finite")
    fill.part.load_state_dict(fit.weights, strict=False)
    return fit.anew


def check_fits(fill: Fill, weights: Mapping[str, Tensor], said: str, same_targets: bool = True) -> Fit:
    """Compare start weights with what is needed, by names and shapes, or refuse them; tensors on `meta` will do."""
    needed = fill.part.state_dict()
    weights, outside = _of_part(fill, weights)
    given, left = like_ours(weights, needed) if isinstance(fill.part, Network) else (dict(weights), {})
    fit = Fit({name: given[name] for name in needed if name in given})
    for head in fill.heads:
        _judge_head(fit, head, needed, given, same_targets)
    anew = tuple(f"{head}." for head in fill.heads if any(line.startswith(f"{head} ") for line in fit.anew))
    if outside:
        fit.anew.append(f"{first_of(outside)}: outside of {fill.within.rstrip('.')}, left out")
    spared = [name for name in (*given, *left) if name not in needed and name.startswith(tuple(f"{s}." for s in fill.spare))]
    if spared:
        fit.anew.append(f"{first_of(spared)}: a classifier's, left out")
    idle = tuple(f"{layer}." for layer in (*fill.heads, *fill.spare))
    over = [name for name in (*given, *left) if name not in needed and not name.startswith(idle)]
    missing = [name for name in needed if name not in given and not name.startswith(anew) and not name.endswith(COUNTER)]
    shaped = [
        f"{name} ({_shape(given[name])} there, {_shape(needed[name])} here)"
        for name in fit.weights
        if given[name].shape != needed[name].shape
    ]
    kinds = (("of another shape", shaped), ("missing", missing), ("left over", over))
    faults = [f"{kind}: {first_of(names)}" for kind, names in kinds if names]
    if faults:
        raise Refused(f"{said}: not the weights of this network: {'; '.join(faults)}")
    return fit


def _of_part(fill: Fill, weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], list[str]]:
    """The weights of the part, where they are those of a network that has it inside, and the names of the rest."""
    inside = {name.removeprefix(fill.within): weight for name, weight in weights.items() if name.startswith(fill.within)}
    return (inside, [name for name in weights if not name.startswith(fill.within)]) if inside else (weights, [])


def _judge_head(fit: Fit, head: str, needed: Mapping[str, Tensor], given: Mapping[str, Tensor], same_targets: bool) -> None:
    """Leave a head out where it is for other targets, or is not among the weights."""
    ours, theirs = ({name: w for name, w in side.items() if name.startswith(f"{head}.")} for side in (needed, given))
    alike = ours.keys() == theirs.keys() and all(ours[name].shape == theirs[name].shape for name in ours)
    if not ours or (alike and same_targets):
        return
    for name in ours:
        fit.weights.pop(name, None)
    had = f"{_outputs(theirs)} outputs" if theirs else "none"
    why = f"{_outputs(ours)} outputs in place of {had}" if not alike else "its classes are others"
    fit.anew.append(f"{head} is made anew: {why}")


def _outputs(layer: Mapping[str, Tensor]) -> int:
    return next((weight.shape[0] for weight in layer.values() if weight.ndim), 0)


def _shape(weight: Tensor) -> str:
    return " x ".join(map(str, weight.shape)) or "one number"


def classifier_of(network: nn.Module) -> tuple[str, ...]:
    """The name of a classifier's last layer, as timm's models and ours tell it; a network may have several, or none."""
    asked: Any = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    layers = asked if isinstance(asked, (tuple, list)) else [asked]
    known = {id(layer) for layer in layers}
    return tuple(name for name, module in network.named_modules() if id(module) in known and list(module.parameters()))
