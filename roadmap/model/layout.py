"""From coordinates to a network on paper: every layer of it, as plain values.

`layout(model)` is the one place where a toggle turns into architecture. It imports no torch, so a step can be
asked within milliseconds whether it changes anything, and `roadmap.model.network` only has to build what the
layout lists. Two settings that give equal layouts give the same network.

Source: Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), section 2 and appendix C.
"""

from __future__ import annotations

from dataclasses import dataclass

from roadmap.config.schema import Bottleneck, Downsampling, Keep, ModelConfig, SpatialConv, Stem

EXPANSION = 4  # between the two widths of a block, either way round


@dataclass(frozen=True)
class Conv:
    """A convolution and what follows it."""

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    norm: str | None = None
    activation: str | None = None
    part: str | None = None

    @property
    def padding(self) -> int | str:
        """Patches that do not overlap need none; every other kernel is centred on its pixel, an even one as torch does it."""
        if self.kernel_size == self.stride:
            return 0
        return self.kernel_size // 2 * self.dilation if self.kernel_size % 2 else "same"

    def positions(self, side: int) -> int:
        """How many come out along a side of an image of so many."""
        if self.padding == "same":
            return side
        return (side + 2 * int(self.padding) - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class StemLayout:
    """Image to stage 1, a quarter of the resolution."""

    conv: Conv
    max_pool: bool
    norm: str | None


@dataclass(frozen=True)
class BlockLayout:
    """A residual block: three convolutions on the branch, and a shortcut around them."""

    convs: tuple[Conv, Conv, Conv]
    shortcut: Conv | None  # None: identity
    activation: str | None  # after the addition
    layer_scale: float | None
    drop_path: float


@dataclass(frozen=True)
class DownsamplingLayout:
    """What stands between two stages when the blocks have no strides."""

    norm: str
    conv: Conv


@dataclass(frozen=True)
class StageLayout:
    """Blocks at one resolution."""

    downsampling: DownsamplingLayout | None
    blocks: tuple[BlockLayout, ...]
    reduction: int  # pixels of the image to one of its outputs, each way

    @property
    def out_channels(self) -> int:
        """Channels that the stage's last block puts out."""
        return self.blocks[-1].convs[-1].out_channels


@dataclass(frozen=True)
class NetworkLayout:
    """The whole network but for the classifier's size."""

    stem: StemLayout
    stages: tuple[StageLayout, ...]
    head_norm: str | None  # after the global average pool


@dataclass(frozen=True)
class Resolution:
    """How a stage changes the resolution: by a stride, or by dilation in its place."""

    first: bool
    stride: int  # of its first block, or of the downsampling before it
    dilation_before: int  # of the convolution that has the stride
    dilation: int  # of those behind it
    reduction: int


def layout(model: ModelConfig, in_channels: int = 3, output_stride: int = 32) -> NetworkLayout:
    """Lay out the network that these coordinates describe, for images of `in_channels` colours.

    With `output_stride` 8 or 16 the last stages keep the resolution: dilation replaces their strides, weights stay.
    """
    blocks = sum(model.depths)
    rates = iter([model.drop_path * i / max(blocks - 1, 1) for i in range(blocks)])  # linear from 0 at the first block
    separate = model.downsampling == Downsampling.separate
    stages: list[StageLayout] = []
    channels = round(model.width)
    for index, (depth, resolution) in enumerate(zip(model.depths, _resolutions(output_stride), strict=True)):
        stage = _stage(model, channels, round(model.width * 2**index), resolution, [next(rates) for _ in range(depth)])
        stages.append(stage)
        channels = stage.out_channels
    return NetworkLayout(_stem(model, in_channels), tuple(stages), head_norm=model.norm if separate else None)


def _resolutions(output_stride: int) -> list[Resolution]:
    """Of the four stages; a stride that is left out doubles the dilation of all that follows."""
    resolutions = [Resolution(first=True, stride=1, dilation_before=1, dilation=1, reduction=4)]
    for _ in range(3):
        before = resolutions[-1]
        if before.reduction < output_stride:
            resolutions.append(Resolution(False, 2, before.dilation, before.dilation, before.reduction * 2))
        else:
            resolutions.append(Resolution(False, 1, before.dilation, before.dilation * 2, before.reduction))
    return resolutions


def _stem(model: ModelConfig, in_channels: int) -> StemLayout:
    norm = model.norm if model.downsampling == Downsampling.separate else None
    if model.stem == Stem.patchify:
        return StemLayout(Conv(in_channels, round(model.width), kernel_size=4, stride=4, bias=True), max_pool=False, norm=norm)
    conv = Conv(in_channels, round(model.width), kernel_size=7, stride=2, norm=model.norm, activation=model.activation)
    return StemLayout(conv, max_pool=True, norm=norm)


def _stage(model: ModelConfig, channels: int, width: int, at: Resolution, rates: list[float]) -> StageLayout:
    """`channels` come in; `width` is the stage's W."""
    downsampling, stride, dilation = None, at.stride, at.dilation_before
    if not at.first and model.downsampling == Downsampling.separate:
        _, out_channels = _block_widths(model, width)
        conv = Conv(channels, out_channels, kernel_size=2, stride=stride, dilation=dilation, bias=True)
        downsampling, channels, stride, dilation = DownsamplingLayout(model.norm, conv), out_channels, 1, at.dilation
    blocks: list[BlockLayout] = []
    for rate in rates:
        blocks.append(_block(model, channels, width, stride, dilation, rate))
        channels, stride, dilation = blocks[-1].convs[-1].out_channels, 1, at.dilation
    return StageLayout(downsampling, tuple(blocks), at.reduction)


def _block(model: ModelConfig, channels: int, width: int, stride: int, dilation: int, drop_path: float) -> BlockLayout:
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
            dilation=dilation if is_spatial else 1,
            bias=model.block_bias,
            norm=model.norm if is_spatial or model.block_norms == Keep.all else None,
            activation=activations[i],
            part=model.block_part if i == 1 else None,
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


def _activations(model: ModelConfig) -> tuple[str | None, ...]:
    """After each of the three convolutions and after the addition; the one that is kept feeds the last convolution."""
    kept = (False, True, False, False) if model.block_activations == Keep.one else (True, True, False, True)
    return tuple(model.activation if keep else None for keep in kept)
