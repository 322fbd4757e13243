"""The network: stem, four stages, head, built from a layout.

Its methods carry timm's names (`forward_features`, `forward_head`, `reset_classifier`, `feature_info`), so timm's
tools, `features_only=True` among them, work on every step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from roadmap.config.schema import Initialisation, ModelConfig, Norm
from roadmap.model.layers import NORMS, Block, conv_layer
from roadmap.model.layout import NetworkLayout, StageLayout, StemLayout, layout

BLOCKS_OF_A_LAYER = 3


class Stem(nn.Sequential):
    """(N, 3, H, W) to (N, width, H / 4, W / 4)."""

    def __init__(self, layout: StemLayout) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(layer=conv_layer(layout.conv))
        if layout.max_pool:
            parts["pool"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        if layout.norm is not None:
            parts["norm"] = NORMS[layout.norm](layout.conv.out_channels)
        super().__init__(parts)


class Stage(nn.Module):
    """Blocks at one resolution, behind the downsampling where it is separate."""

    def __init__(self, layout: StageLayout) -> None:
        super().__init__()
        self.downsampling = nn.Sequential()
        if layout.downsampling is not None:
            before = layout.downsampling
            self.downsampling.append(NORMS[before.norm](before.conv.in_channels)).append(conv_layer(before.conv))
        self.blocks = nn.Sequential(*map(Block, layout.blocks))
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / 2, W / 2), the first stage at its input's resolution."""
        x = self.downsampling(x)
        if self.grad_checkpointing and x.requires_grad:
            return checkpoint_sequential(self.blocks, len(self.blocks), x, use_reentrant=False)
        return self.blocks(x)


class Head(nn.Module):
    """(N, C, h, w) to (N, num_classes): average over positions, norm, classifier."""

    def __init__(self, norm: Norm | None, channels: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.Identity() if norm is None else NORMS[norm](channels)
        self.drop = nn.Dropout(drop_rate)
        self.fc = classifier(channels, num_classes)

    def pooled(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C)."""
        return self.drop(self.norm(self.pool(x)).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, num_classes)."""
        return self.fc(self.pooled(x))


def classifier(channels: int, num_classes: int) -> nn.Module:
    """The last linear layer; none for 0 classes."""
    return nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()


class Network(nn.Module):
    """An image classifier: (N, 3, H, W) to (N, num_classes).

    Weights of convolutions and the classifier start from a truncated normal of deviation 0.02, biases from 0
    (appendix A.1), or as torchvision's ResNets; norms start as the identity, the last one of a block too.
    """

    def __init__(
        self,
        layout: NetworkLayout,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        initialisation: Initialisation = Initialisation.paper,
    ) -> None:
        super().__init__()
        self.init_weights = INITIALISATIONS[initialisation]
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = layout.stages[-1].out_channels
        self.feature_info = [
            {"num_chs": stage.out_channels, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            for i, stage in enumerate(layout.stages)
        ]
        self.stem = Stem(layout.stem)
        self.stages = nn.Sequential(*map(Stage, layout.stages))
        self.head = Head(layout.head_norm, self.num_features, num_classes, drop_rate)
        self.apply(self.init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to features (N, C, H / 32, W / 32)."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, C, h, w) to logits (N, num_classes), or to what the classifier sees (N, C)."""
        return self.head.pooled(x) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    # What timm's tools ask a model for.

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer; the pooling is always the average."""
        self.num_classes = num_classes
        self.head.fc = classifier(self.num_features, num_classes)
        self.head.apply(self.init_weights)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input in memory and compute the rest again in the backward pass."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int, ...]]:
        """The layer that a weight belongs to, for layer-wise rates: of three blocks (appendix A.2), or coarse, of a stage.

        The stem comes first, the head last; what lies between two stages belongs to the blocks after it.
        """

        def layer(name: str) -> tuple[int, ...]:
            part, *rest = name.split(".")
            if part != "stages":
                return (0,) if part == "stem" else (2,)
            block = int(rest[2]) if rest[1] == "blocks" else 0
            return (1, int(rest[0])) if coarse else (1, int(rest[0]), block // BLOCKS_OF_A_LAYER)

        return layer


def init_weights(module: nn.Module) -> None:
    """Truncated normal, deviation 0.02, for convolutions and linear layers; biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:  # shapes only: nothing to fill
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_like_torchvision(module: nn.Module) -> None:
    """Normal by fan-out for convolutions (He et al., 1502.01852), their biases 0; the classifier as torch makes it."""
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


INITIALISATIONS: dict[Initialisation, Callable[[nn.Module], None]] = {
    Initialisation.paper: init_weights,
    Initialisation.torchvision: init_like_torchvision,
}


def build_network(
    model: ModelConfig, num_classes: int, drop_rate: float = 0.0, initialisation: Initialisation = Initialisation.paper
) -> Network:
    """Build the network at these coordinates, with dropout before its classifier."""
    return Network(layout(model), num_classes, drop_rate, initialisation)
