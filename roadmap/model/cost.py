"""What a network costs, counted by fvcore on a trace in eval mode, one image, a multiply and its add together one."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore calls torch.jit.script while it is imported
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_jit, get_shape, linear_flop_jit

from roadmap.base.errors import Refused
from roadmap.config.schema import ModelConfig
from roadmap.model.network import Network, Stage, build_network

ACTIVATIONS = "activations"  # outputs of convolutions and linear layers, as fvcore's ActivationCountAnalysis counts
MULTIPLY_ADDS = ("conv", "linear", "attention")  # attention's own products: of references only
# Operators that fvcore knows no count for and that have no multiply-adds of convolutions, linear layers or norms.
FREE_OPERATORS = {"aten::add", "aten::mul", "aten::gelu", "aten::max_pool2d"}


@dataclass(frozen=True)
class Cost:
    """The costs of a network for one image."""

    params: int
    by_operator: dict[str, int]  # multiply-adds
    activations: int  # elements

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

    Raises:
        Refused: where the network runs an operator whose cost is not known.

    """
    with torch.device("meta"):
        network = build_network(dataclasses.replace(model, drop_path=0.0), num_classes).eval()
    counts: Counter[str] = Counter()
    shape: tuple[int, ...] = (1, 3, image_size, image_size)
    for part in _parts(network):
        counted, shape = _count(part, shape)
        counts.update(counted)
    activations = counts.pop(ACTIVATIONS)
    return Cost(sum(p.numel() for p in network.parameters()), dict(sorted(counts.items())), activations)


def cost_of(model: ModelConfig, reference: str | None, num_classes: int, image_size: int) -> Cost:
    """The cost of the network that `model.build.network_of` builds from these values, for one image.

    Raises:
        Refused: as `cost`, and where timm has no such reference or it does not take images of this size.

    """
    if reference is None:
        return cost(model, num_classes, image_size)
    key = (reference, num_classes, image_size, model.drop_path)
    if key not in _references:
        from roadmap.model.reference import count_reference  # timm, whose import takes seconds

        _references[key] = Cost(*count_reference(*key))
    return _references[key]


_references: dict[tuple[str, int, int, float], Cost] = {}


def _parts(network: Network) -> Iterator[nn.Module]:
    """The network as a chain of modules, in the order in which an image passes them."""
    yield network.stem
    for stage in network.stages:
        assert isinstance(stage, Stage)
        if len(stage.downsampling):
            yield stage.downsampling
        yield from stage.blocks
    yield network.head


_counted: dict[tuple[str, tuple[int, ...]], tuple[Counter[str], tuple[int, ...]]] = {}


def _count(part: nn.Module, shape: tuple[int, ...]) -> tuple[Counter[str], tuple[int, ...]]:
    """Trace a module once for all its equals, which most blocks of a stage are; returns its output's shape too."""
    key = (repr(part), shape)
    if key not in _counted:
        _counted[key] = _trace(part.to_empty(device="cpu"), torch.zeros(shape))
    return _counted[key]


def _trace(part: nn.Module, image: Tensor) -> tuple[Counter[str], tuple[int, ...]]:
    for tensor in part.state_dict().values():
        tensor.zero_()  # uninitialised numbers may be denormal, and slow
    shapes: list[tuple[int, ...]] = []
    part.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(int(n) for n in output.shape)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace, fvcore's means, is deprecated
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        analysis = FlopCountAnalysis(part, image).tracer_warnings("none").uncalled_modules_warnings(False)
        analysis.unsupported_ops_warnings(False)
        for names, handle in ((("aten::_convolution", "aten::convolution"), _conv), (("aten::linear",), _linear)):
            for name in names:
                analysis.set_op_handle(name, handle)
        counted, unknown = analysis.by_operator(), set(analysis.unsupported_ops()) - FREE_OPERATORS
    if unknown:
        raise Refused(f"the cost of {', '.join(sorted(unknown))} is not known; free are {', '.join(FREE_OPERATORS)}")
    return Counter({name: int(count) for name, count in counted.items()}), shapes[0]


def _conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"conv": conv_flop_jit(inputs, outputs)["conv"], ACTIVATIONS: _elements(outputs[0])})


def _linear(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"linear": linear_flop_jit(inputs, outputs), ACTIVATIONS: _elements(outputs[0])})


def _elements(value: Any) -> int:
    shape: list[int] = get_shape(value)
    return int(torch.Size(shape).numel())
