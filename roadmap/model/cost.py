"""What a network costs: of one image in eval mode, a multiply and its add together one.

Convolutions are reckoned from their layout, all else is counted by fvcore on a trace. The sum is that of fvcore's trace of the
whole network.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore calls torch.jit.script while it is imported
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_jit, get_shape, linear_flop_jit

from roadmap.base.errors import Refused
from roadmap.config.kept import kept
from roadmap.config.parts import Part
from roadmap.config.schema import ModelConfig
from roadmap.model.layers import layer_of
from roadmap.model.layout import BlockLayout, Conv, StageLayout, StemLayout, layout
from roadmap.model.network import Head, max_pool

logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)  # what it does not know is refused here

Shape = tuple[int, ...]
Counted = tuple[Counter[str], Shape]  # what a part costs, and what comes out of it
PARAMETERS = "parameters"
OUTPUTS = "outputs"  # outputs of convolutions and linear layers, as fvcore's ActivationCountAnalysis counts
MULTIPLY_ADDS = ("conv", "linear", "attention")  # attention's own products: of references only
# Operators that fvcore knows no count for and that have no multiply-adds of convolutions, linear layers or norms.
FREE_OPERATORS = {"aten::add", "aten::mul", "aten::gelu", "aten::max_pool2d", "aten::div", "aten::mean"}


@dataclass(frozen=True)
class Cost:
    """The costs of a network for one image."""

    params: int
    by_operator: dict[str, int]  # multiply-adds
    activations: int  # elements
    backbone: int | None = None  # of the multiply-adds, those below a head; None where there is none

    @property
    def conv_linear(self) -> int:
        """Multiply-adds of convolutions and linear layers, and of attention where there is any: the paper's count."""
        return sum(self.by_operator.get(name, 0) for name in MULTIPLY_ADDS)

    @property
    def total(self) -> int:
        """Everything that was counted: of steps fvcore's total, norms and pooling too; of a reference its products alone."""
        return sum(self.by_operator.values())


def cost(model: ModelConfig, num_classes: int = 1000, image_size: int = 224) -> Cost:
    """Count the network at these coordinates, for one image of `image_size` pixels.

    Refused where the network runs an operator whose cost is not known.
    """
    network = layout(model)
    shape: Shape = (1, 3, image_size, image_size)
    total, shape = _stem(network.stem, shape)
    for stage in network.stages:
        counts, shape = _stage(stage, shape)
        total = total + counts
    total = total + _layer("norm", network.head_norm, (1, shape[1], 1, 1)) + _count(Head, (None, shape[1], num_classes), shape)[0]
    activations, params = total.pop(OUTPUTS), total.pop(PARAMETERS)
    return Cost(params, dict(sorted(total.items())), activations)


def cost_of(model: ModelConfig, reference: str | None, num_classes: int, image_size: int) -> Cost:
    """The cost of the network that `model.network.network_of` builds from these values, for one image.

    Refused as by `cost`, and where timm has no such reference or it does not take images of this size.
    """
    if reference is None:
        return cost(model, num_classes, image_size)
    return _cost_of_reference(reference, num_classes, image_size, model.drop_path)


@cache
def _cost_of_reference(name: str, num_classes: int, image_size: int, drop_path: float) -> Cost:
    from roadmap.model.reference import count_reference  # timm, whose import takes seconds

    return Cost(*count_reference(name, num_classes, image_size, drop_path))


def _stem(stem: StemLayout, shape: Shape) -> Counted:
    first, shape = _conv_layer(stem.conv, shape)
    pooled, shape = _count(max_pool, (), shape) if stem.max_pool else (Counter(), shape)
    return first + pooled + _layer("norm", stem.norm, shape), shape


def _stage(stage: StageLayout, shape: Shape) -> Counted:
    counts: Counter[str] = Counter()
    if stage.downsampling is not None:
        counts = _layer("norm", stage.downsampling.norm, shape)
        counted, shape = _conv_layer(stage.downsampling.conv, shape)
        counts = counts + counted
    for block in stage.blocks:
        counted, shape = _block(block, shape)
        counts = counts + counted
    return counts, shape


@kept  # a block's layout names parts of one's own, whose file may change
def _block(block: BlockLayout, shape: Shape) -> Counted:
    """Its branch and shortcut; their sum is free, and so is layer scale but for its parameters."""
    counts: Counter[str] = Counter()
    if block.shortcut is not None:
        counts = counts + _conv_layer(block.shortcut, shape)[0]
    for conv in block.convs:
        counted, shape = _conv_layer(conv, shape)
        counts = counts + counted
    if block.layer_scale is not None:
        counts[PARAMETERS] += shape[1]
    return counts + _layer("activation", block.activation, shape), shape


def _conv_layer(conv: Conv, shape: Shape) -> Counted:
    """A convolution, by what each of its outputs adds up, and what follows it."""
    shape = (1, conv.out_channels, *map(conv.positions, shape[2:]))
    each, outputs = conv.kernel_size**2 * conv.in_channels // conv.groups, math.prod(shape)
    counts = Counter({"conv": each * outputs, OUTPUTS: outputs, PARAMETERS: (each + conv.bias) * conv.out_channels})
    for toggle, name in (("norm", conv.norm), ("activation", conv.activation), ("block_part", conv.part)):
        counts = counts + _layer(toggle, name, shape)
    return counts, shape


def _layer(toggle: str, name: str | None, shape: Shape) -> Counter[str]:
    """A norm, an activation or a block part, where there is one; of the roadmap's each number costs the same: one is traced."""
    if name is None:
        return Counter()
    build, channels = layer_of(toggle, name), 0 if toggle == "activation" else 1
    if isinstance(build, Part):
        return _count(build, shape[1:2] * channels, shape)[0]
    each, _ = _count(build, (1,) * channels, (1, 1, 1, 1))
    counts = {key: count * (shape[1] if key == PARAMETERS else math.prod(shape)) for key, count in each.items()}
    return Counter(counts)


@cache
def _count(build: Callable[..., nn.Module], values: tuple[Any, ...], shape: Shape) -> Counted:
    """Trace what is built from these values, once for all its equals; returns its output's shape too."""
    with torch.device("meta"):  # initial weights would only take time
        part = build(*values).eval()
    _fill_with_zeros(part)
    with _one_thread():
        if isinstance(build, Part):
            return _own(build, part, shape)
        return _trace(part, torch.zeros(shape))


def _fill_with_zeros(part: nn.Module) -> None:
    """In place of what is on the meta device; `Module.to_empty` would first import sympy, which takes a quarter of a second."""
    for module in part.modules():
        for name, weight in module._parameters.items():
            module._parameters[name] = weight if weight is None else nn.Parameter(_zeros(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else _zeros(buffer)


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is counted is small: further threads would mostly wait for it, spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _own(declared: Part, part: nn.Module, shape: Shape) -> Counted:
    """A part of one's own, whose declaration says what its operators cost that are not known."""
    about = f"{declared.file}: {declared.kind} {declared.name!r}"
    try:
        counts, out = _trace(part, torch.zeros(shape), declared.cost)
    except Refused as error:
        raise Refused(f"{about}: {error}; say in its declaration what else costs: cost={{operator: multiply-adds}}") from None
    except Exception as error:
        raise Refused(f"{about}: cannot be run on a picture of shape {shape}: {error}") from error
    if out != shape:
        raise Refused(f"{about}: makes {out} of {shape}; a part keeps the shape")
    return counts, out


def _trace(part: nn.Module, image: Tensor, own: Sequence[tuple[str, float]] = ()) -> tuple[Counter[str], Shape]:
    shapes: list[Shape] = []
    part.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(int(n) for n in output.shape)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace, fvcore's means, is deprecated
        analysis = FlopCountAnalysis(part, image).tracer_warnings("none").uncalled_modules_warnings(False)
        analysis.unsupported_ops_warnings(False)
        for name, handle in {**HANDLES, **{name: partial(_declared, each) for name, each in own}}.items():
            analysis.set_op_handle(name, handle)
        counted, unknown = analysis.by_operator(), set(analysis.unsupported_ops()) - FREE_OPERATORS
    if unknown:
        raise Refused(f"the cost of {', '.join(sorted(unknown))} is not known; free are {', '.join(FREE_OPERATORS)}")
    counts = Counter({name: int(count) for name, count in counted.items()})
    counts[PARAMETERS] = sum(weight.numel() for weight in part.parameters())
    return counts, shapes[0]


def _declared(each: float, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"own": round(each * _elements(outputs[0]))})


def _elements(value: Any) -> int:
    return math.prod(get_shape(value))


def _conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"conv": conv_flop_jit(inputs, outputs)["conv"], OUTPUTS: _elements(outputs[0])})


HANDLES: dict[str, Callable[[list[Any], list[Any]], Counter[str]]] = {
    **dict.fromkeys(("aten::_convolution", "aten::convolution"), _conv),
    "aten::linear": lambda x, y: Counter({"linear": linear_flop_jit(x, y), OUTPUTS: _elements(y[0])}),
    # Of a global response norm: it squares and adds each number, then scales it.
    "aten::linalg_vector_norm": lambda x, y: Counter({"response_norm": 2 * _elements(x[0])}),
}
