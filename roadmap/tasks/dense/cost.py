"""What a detector or a segmenter costs for one image, counted layer by layer on a pass without data.

Published FLOPs of dense prediction are no plain multiply-adds. They count a multiply and its add as one, and beside them the
biases of convolutions, two operations for each value that a BatchNorm sees, one for each that a ReLU or a pooling does, and
nothing for LayerNorm, GELU, resizing and the pooling of regions; 1000 regions pass each box head and 100 each mask head. An
auxiliary head counts in the parameters alone. A 1x1 convolution of a step is a matrix product over channels: its bias is none of
a convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from roadmap.config.schema import HeadConfig, ModelConfig
from roadmap.model.cost import MULTIPLY_ADDS, OUTPUTS, Cost
from roadmap.model.layers import Pointwise
from roadmap.tasks.dense.backbone import Build, backbone_network
from roadmap.tasks.dense.layers import Pool

ATTENTION = ("bmm", "attention")  # parts of the names of torch's operators that multiply activations with each other


@dataclass(frozen=True)
class DenseCost:
    """Parameters in all; operations by kind of the backbone, and of the head without its auxiliary part."""

    params: int
    backbone: Mapping[str, int]
    head: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(part.get(kind, 0) for part in (self.backbone, self.head) for kind in MULTIPLY_ADDS)

    @property
    def published(self) -> int:
        """Operations as published FLOPs count them."""
        return self.published_backbone + _published(self.head)

    @property
    def published_backbone(self) -> int:
        """Of them the backbone's."""
        return _published(self.backbone)

    @property
    def cost(self) -> Cost:
        """As of a classifier."""
        total = Counter(self.backbone) + Counter(self.head)
        counted = {kind: total[kind] for kind in MULTIPLY_ADDS if total[kind]}
        below = sum(self.backbone.get(kind, 0) for kind in MULTIPLY_ADDS)
        return Cost(self.params, counted, total[OUTPUTS], backbone=below)


def _published(counts: Mapping[str, int]) -> int:
    return sum(count for kind, count in counts.items() if kind != OUTPUTS)


def dense_cost(
    build: Build, model: ModelConfig, reference: str | None, head: HeadConfig, classes: int, size: tuple[int, int]
) -> DenseCost:
    """Count the network that is built of this head on a step's backbone, or on timm's `reference`, for an image (height, width).

    Refused where the reference cannot be a backbone.
    """
    with torch.device("meta"):
        network = build(backbone_network(model, reference), head, classes).eval()
        image = torch.zeros(1, 3, *size)
    maps: list[Tensor] = []
    body = count(lambda: maps.extend(network.maps(image)), attention=reference is not None)
    return DenseCost(sum(weight.numel() for weight in network.parameters()), body, count(lambda: network.run_head(maps)))


def count(run: Callable[[], object], attention: bool = False) -> Counter[str]:
    """The operations of the layers that are called meanwhile, and products of activations with each other where asked."""
    counts: Counter[str] = Counter()

    def see(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for kinds, rule in RULES:
            if isinstance(layer, kinds):
                counts.update(rule(layer, inputs[0], output))

    hook, counter = register_module_forward_hook(see), FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        hook.remove()
    if attention:
        operators = counter.get_flop_counts()["Global"].items()
        counts["attention"] = sum(flops // 2 for name, flops in operators if any(part in str(name) for part in ATTENTION))
    return counts


def _conv(layer: Any, x: Tensor, y: Tensor) -> dict[str, int]:
    """Each value of the finer side is a product with the kernel; a transposed convolution has its finer side behind it."""
    values = x.numel() * layer.out_channels if isinstance(layer, nn.ConvTranspose2d) else y.numel() * layer.in_channels
    products = values // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    bias = layer.bias is not None and not isinstance(layer, Pointwise)
    return {"conv": products, "bias": y.numel() * bias, OUTPUTS: y.numel()}


Rule = Callable[[Any, Tensor, Tensor], dict[str, int]]
RULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    ((nn.Conv2d, nn.ConvTranspose2d), _conv),
    ((nn.Linear,), lambda layer, x, y: {"linear": x.numel() * layer.out_features, OUTPUTS: y.numel()}),
    ((nn.BatchNorm2d,), lambda layer, x, y: {"batch_norm": 2 * x.numel()}),
    ((nn.ReLU,), lambda layer, x, y: {"relu": y.numel()}),
    ((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, Pool), lambda layer, x, y: {"pool": x.numel()}),
)
