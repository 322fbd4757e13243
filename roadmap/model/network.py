"""The network: stem, four stages, head, built from a layout.

Its methods carry timm's names (`forward_features`, `forward_head`, `reset_classifier`, `feature_info`), so timm's
tools, `features_only=True` among them, work on every step.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.utils.checkpoint import checkpoint_sequential

from roadmap.base.errors import Refused
from roadmap.config.schema import Initialisation, ModelConfig
from roadmap.model.layers import Block, conv_layer, layer_of
from roadmap.model.layout import NetworkLayout, StageLayout, StemLayout, layout

BLOCKS_OF_A_LAYER = 3
HEAD_LAYER = (2,)  # behind the stem's (0,) and the blocks' (1, ...)
LAYER = re.compile(r"(?:model\.|graph_module\.|backbone\.)?(?:(stem)|stages[._](\d+)(?:\.blocks\.(\d+))?)")


class Stem(nn.Sequential):
    """(N, 3, H, W) to (N, width, H / 4, W / 4)."""

    def __init__(self, layout: StemLayout) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(layer=conv_layer(layout.conv))
        if layout.max_pool:
            parts["pool"] = max_pool()
        if layout.norm is not None:
            parts["norm"] = layer_of("norm", layout.norm)(layout.conv.out_channels)
        super().__init__(parts)


def max_pool() -> nn.MaxPool2d:
    """(N, C, H, W) to (N, C, H / 2, W / 2), as in a ResNet's stem."""
    return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


class Stage(nn.Module):
    """Blocks at one resolution, behind the downsampling where it is separate."""

    def __init__(self, layout: StageLayout) -> None:
        super().__init__()
        self.downsampling = nn.Sequential()
        if layout.downsampling is not None:
            before = layout.downsampling
            self.downsampling.append(layer_of("norm", before.norm)(before.conv.in_channels)).append(conv_layer(before.conv))
        self.blocks = nn.Sequential(*map(Block, layout.blocks))
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / 2, W / 2), the first stage at its input's resolution."""
        x = self.downsampling(x)
        if self.grad_checkpointing and not is_scripting() and x.requires_grad:
            return checkpoint_sequential(self.blocks, len(self.blocks), x, use_reentrant=False)
        return self.blocks(x)


class Head(nn.Module):
    """(N, C, h, w) to (N, num_classes): average over positions, norm, classifier.

    Without the average, what is left maps (N, C, h, w) to (N, C, h, w) and has no classifier.
    """

    def __init__(
        self, norm: str | None, channels: int, num_classes: int, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else layer_of("norm", norm)(channels)
        self.drop = nn.Dropout(drop_rate)
        self.reset(channels, num_classes, global_pool)

    def reset(self, channels: int, num_classes: int, global_pool: str) -> None:
        """Make pooling and classifier anew; Refused for another pooling, or for a classifier of features that are not pooled."""
        if global_pool not in ("avg", "") or (num_classes and not global_pool):
            raise Refused(
                f"global_pool={global_pool!r} with num_classes={num_classes}: it is 'avg', the average over positions, "
                "or '' with num_classes=0, features at each position"
            )
        self.pool = nn.AdaptiveAvgPool2d(1) if global_pool else nn.Identity()
        self.flatten = nn.Flatten(1) if global_pool else nn.Identity()
        self.fc = nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()

    def pooled(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C)."""
        return self.drop(self.flatten(self.norm(self.pool(x))))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, num_classes)."""
        return self.fc(self.pooled(x))


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
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.init_weights = INITIALISATIONS[initialisation]
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = layout.stages[-1].out_channels
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": stage.out_channels, "reduction": stage.reduction, "module": f"stages.{i}"}
            for i, stage in enumerate(layout.stages)
        ]
        self.stem = Stem(layout.stem)
        self.stages = nn.Sequential(*map(Stage, layout.stages))
        self.head = Head(layout.head_norm, self.num_features, num_classes, drop_rate, global_pool)
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
        """Replace the last linear layer, and the pooling where it is given: "avg", or "" with 0 classes for none.

        Raises:
            Refused: for other values.

        """
        before = next(self.parameters())
        pooling = global_pool if global_pool is not None else "avg" * isinstance(self.head.pool, nn.AdaptiveAvgPool2d)
        self.head.reset(self.num_features, num_classes, pooling)
        self.num_classes = num_classes
        self.head.to(before.device, before.dtype).apply(self.init_weights)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Images (N, 3, H, W) to (what `forward_features` gives, what the stages put out), or to the latter alone.

        Args:
            x: images.
            indices: the stages that are wanted: their numbers, from the end where negative; how many of the last ones;
                None for all.
            norm: without effect: the norm stands behind the pooling.
            stop_early: skip what comes behind the last stage that is wanted.
            output_fmt: "NCHW" is the only one.
            intermediates_only: leave out the first.

        Raises:
            Refused: for a stage that there is not, or another format.

        """
        if output_fmt != "NCHW":
            raise Refused(f"output_fmt={output_fmt!r}: features are (N, C, H, W), 'NCHW'")
        wanted = self._wanted(indices)
        x, outputs = self.stem(x), []
        for i, stage in enumerate(self.stages[: wanted[-1] + 1] if stop_early else self.stages):
            x = stage(x)
            if i in wanted:
                outputs.append(x)
        return outputs if intermediates_only else (x, outputs)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what stands behind the last stage that is wanted, and the head; returns the stages that are wanted.

        The head stays where the last stage does and `prune_head` is false; `prune_norm` has no effect of its own, as the
        norm is the head's.

        Raises:
            Refused: for a stage that there is not.

        """
        wanted = self._wanted(indices)
        shorter = wanted[-1] + 1 < len(self.stages)
        self.stages = self.stages[: wanted[-1] + 1]
        if shorter:
            self.num_features = self.head_hidden_size = self.feature_info[wanted[-1]]["num_chs"]
        if shorter or prune_head:
            self.head.norm = nn.Identity()
            self.reset_classifier(0, "")
        return wanted

    def _wanted(self, indices: int | Sequence[int] | None) -> list[int]:
        """Numbers of stages, as timm's tools give them, in order."""
        count = len(self.stages)
        if isinstance(indices, int):
            indices = range(-indices, 0)
        elif indices is None:
            indices = range(count)
        wanted = sorted({i + count if i < 0 else i for i in indices})
        if not wanted or not set(wanted) <= set(range(count)):
            raise Refused(f"indices={list(indices)}: the network has the stages 0 to {count - 1}, -{count} to -1 from the end")
        return wanted

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input in memory and compute the rest again in the backward pass."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int, ...]]:
        """Layers, for layer-wise learning rates."""
        return layer_groups(coarse)


def layer_groups(coarse: bool = False) -> Callable[[str], tuple[int, ...]]:
    """The layer that a weight belongs to, by its name: of three blocks (appendix A.2), or coarse, of a stage.

    The stem comes first, the head last; what lies between two stages belongs to the blocks after it. Names may be those
    that timm's `features_only` makes of them, or a backbone's under a head.
    """

    def layer(name: str) -> tuple[int, ...]:
        found = LAYER.match(name)
        if found is None:
            return HEAD_LAYER
        stem, stage, block = found.groups()
        if stem:
            return (0,)
        return (1, int(stage)) if coarse else (1, int(stage), int(block or 0) // BLOCKS_OF_A_LAYER)

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


def network_of(
    model: ModelConfig,
    reference: str | None,
    num_classes: int,
    image_size: int,
    drop_rate: float = 0.0,
    initialisation: Initialisation = Initialisation.paper,
) -> nn.Module:
    """The network at these coordinates, or the timm model `reference` with their stochastic depth, initialised by timm.

    Refused where timm has no such reference, or cannot build it like this.
    """
    if reference is None:
        return build_network(model, num_classes, drop_rate, initialisation)
    from roadmap.model.reference import build_reference  # timm, whose import takes seconds

    return build_reference(reference, num_classes, image_size, model.drop_path, drop_rate)
