"""From coordinates to a network on paper: every layer of it, as plain values.

`layout(model)` is the one place where a toggle turns into architecture. It imports no torch, so a step can be
asked within milliseconds whether it changes anything, and `roadmap.model.network` only has to build what the
layout lists. Two settings that give equal layouts give the same network.

Source: Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), section 2 and appendix C.
"""

from __future__ import annotations

from dataclasses import dataclass

from roadmap.config.schema import Activation, Bottleneck, Downsampling, Keep, ModelConfig, Norm, SpatialConv, Stem

EXPANSION = 4  # between the two widths of a block, either way round


@dataclass(frozen=True)
class Conv:
    """A convolution and what follows it."""

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    norm: Norm | None = None
    activation: Activation | None = None

    @property
    def padding(self) -> int:
        """Patches that do not overlap need none; every other kernel is centred on its pixel."""
        return 0 if self.kernel_size == self.stride else self.kernel_size // 2


@dataclass(frozen=True)
class StemLayout:
    """Image to stage 1, a quarter of the resolution."""

    conv: Conv
    max_pool: bool
    norm: Norm | None


@dataclass(frozen=True)
class BlockLayout:
    """A residual block: three convolutions on the branch, and a shortcut around them."""

    convs: tuple[Conv, Conv, Conv]
    shortcut: Conv | None  # None: identity
    activation: Activation | None  # after the addition
    layer_scale: float | None
    drop_path: float


@dataclass(frozen=True)
class DownsamplingLayout:
    """What stands between two stages when the blocks have no strides."""

    norm: Norm
    conv: Conv


@dataclass(frozen=True)
class StageLayout:
    """Blocks at one resolution."""

    downsampling: DownsamplingLayout | None
    blocks: tuple[BlockLayout, ...]

    @property
    def out_channels(self) -> int:
        """Channels that the stage's last block puts out."""
        return self.blocks[-1].convs[-1].out_channels


@dataclass(frozen=True)
class NetworkLayout:
    """The whole network but for the classifier's size."""

    stem: StemLayout
    stages: tuple[StageLayout, ...]
    head_norm: Norm | None  # after the global average pool


def layout(model: ModelConfig, in_channels: int = 3) -> NetworkLayout:
    """Lay out the network that these coordinates describe, for images of `in_channels` colours."""
    rates = iter(drop_path_rates(model))
    separate = model.downsampling == Downsampling.separate
    stages: list[StageLayout] = []
    channels = round(model.width)
    for index, depth in enumerate(model.depths):
        stage = _stage(model, channels, round(model.width * 2**index), index > 0, [next(rates) for _ in range(depth)])
        stages.append(stage)
        channels = stage.out_channels
    return NetworkLayout(_stem(model, in_channels), tuple(stages), head_norm=model.norm if separate else None)


def drop_path_rates(model: ModelConfig) -> list[float]:
    """Probability that each block's branch is dropped: linear from 0 at the first to `drop_path` at the last."""
    blocks = sum(model.depths)
    return [model.drop_path * i / max(blocks - 1, 1) for i in range(blocks)]


def _stem(model: ModelConfig, in_channels: int) -> StemLayout:
    norm = model.norm if model.downsampling == Downsampling.separate else None
    if model.stem == Stem.patchify:
        return StemLayout(Conv(in_channels, round(model.width), kernel_size=4, stride=4, bias=True), max_pool=False, norm=norm)
    conv = Conv(in_channels, round(model.width), kernel_size=7, stride=2, norm=model.norm, activation=model.activation)
    return StemLayout(conv, max_pool=True, norm=norm)


def _stage(model: ModelConfig, channels: int, width: int, halves: bool, rates: list[float]) -> StageLayout:
    """`channels` come in; `width` is the stage's W; the resolution halves in every stage but the first."""
    downsampling, stride = None, 2 if halves else 1
    if halves and model.downsampling == Downsampling.separate:
        _, out_channels = _block_widths(model, width)
        conv = Conv(channels, out_channels, kernel_size=2, stride=2, bias=True)
        downsampling, channels, stride = DownsamplingLayout(model.norm, conv), out_channels, 1
    blocks: list[BlockLayout] = []
    for rate in rates:
        blocks.append(_block(model, channels, width, stride, rate))
        channels, stride = blocks[-1].convs[-1].out_channels, 1
    return StageLayout(downsampling, tuple(blocks))


def _block(model: ModelConfig, channels: int, width: int, stride: int, drop_path: float) -> BlockLayout:
    hidden, out_channels = _block_widths(model, width)
    spatial = 0 if model.spatial_conv == SpatialConv.first else 1
    widths = [channels, channels if spatial == 0 else hidden, hidden, out_channels]
    activations = _activations(model)

    def conv(i: int) -> Conv:
        is_spatial = i == spatial
        return Conv(
            widths[i],
            widths[i + 1],
            kernel_size=model.kernel_size if is_spatial else 1,
            stride=stride if is_spatial else 1,
            groups=widths[i] if is_spatial and model.depthwise else 1,
            bias=model.block_bias,
            norm=model.norm if is_spatial or model.block_norms == Keep.all else None,
            activation=activations[i],
        )

    projects = stride > 1 or channels != out_channels
    return BlockLayout(
        convs=(conv(0), conv(1), conv(2)),
        shortcut=Conv(channels, out_channels, stride=stride, norm=model.norm) if projects else None,
        activation=activations[3],
        layer_scale=model.layer_scale,
        drop_path=drop_path,
    )


def _block_widths(model: ModelConfig, width: int) -> tuple[int, int]:
    """Channels inside the block and channels that it puts out."""
    wide = EXPANSION * width
    return (wide, width) if model.bottleneck == Bottleneck.inverted else (width, wide)


def _activations(model: ModelConfig) -> tuple[Activation | None, ...]:
    """After each of the three convolutions and after the addition; the one that is kept feeds the last convolution."""
    kept = (False, True, False, False) if model.block_activations == Keep.one else (True, True, False, True)
    return tuple(model.activation if keep else None for keep in kept)
