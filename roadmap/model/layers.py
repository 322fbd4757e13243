"""Layers from their layout: one convolution layer and one residual block serve every step of the roadmap.

Plain torch: timm's layers of the same names would do, but importing timm takes three seconds.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn import functional

from roadmap.config.parts import part
from roadmap.config.schema import Activation, BlockPart, Norm
from roadmap.model.depthwise import Depthwise, is_exporting
from roadmap.model.layout import BlockLayout, Conv


class LayerNorm2d(nn.LayerNorm):
    """Normalise the channels of (N, C, H, W) at each position; free of copies in channels_last.

    Under autocast torch would read and write float32; its kernel sums in float32 either way, so what comes in bfloat16
    or float16 goes out so, at half the traffic.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return normalize_channels(x, self.weight, self.bias, self.eps)


def normalize_channels(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The layer norm of (N, C, H, W) over C, in the type of x."""
    x, channels = x.permute(0, 2, 3, 1), [weight.shape[0]]
    if not is_scripting():  # noqa: SIM102 (as in `depthwise`; a script knows no autocast)
        if x.dtype != weight.dtype:
            with torch.autocast(x.device.type, enabled=False):
                x = functional.layer_norm(x, channels, weight.to(x.dtype), bias.to(x.dtype), eps)
            return x.permute(0, 3, 1, 2)
    return functional.layer_norm(x, channels, weight, bias, eps).permute(0, 3, 1, 2)


class ResponseNorm2d(nn.Module):
    """Global response normalisation of (N, C, H, W): channels compete by their norms over all positions.

    Each channel is scaled by its norm over the mean of all channels', with a learnt factor and shift; at first it changes
    nothing. Source: ConvNeXt V2 (Woo et al., arXiv 2301.00808), section 3.2.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return normalize_responses(x, self.weight, self.bias, self.eps)


def normalize_responses(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(N, C, H, W) as `ResponseNorm2d` says, in the type of x; squares are summed in float32 at least."""
    norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    scale = 1.0 + weight.view(1, -1, 1, 1) * norms / (norms.mean(dim=1, keepdim=True) + eps)
    return x * scale.to(x.dtype) + bias.view(1, -1, 1, 1).to(x.dtype)


LAYERS: dict[str, dict[str, Callable[..., nn.Module]]] = {  # by toggle and value
    "norm": {Norm.batch: partial(nn.BatchNorm2d, eps=1e-5), Norm.layer: partial(LayerNorm2d, eps=1e-6)},
    # In place: what comes before an activation here does not need its output for its gradient.
    "activation": {Activation.relu: partial(nn.ReLU, inplace=True), Activation.gelu: nn.GELU},
    "block_part": {BlockPart.grn: ResponseNorm2d},
}


def layer_of(toggle: str, name: str) -> Callable[..., nn.Module]:
    """What makes a layer, the roadmap's or one's own: a norm or block part from its channels, an activation from nothing."""
    return LAYERS[toggle].get(name) or part(toggle, name)


FEW_POSITIONS = 384  # images x height x width, up to which a matrix product beats a 1x1 convolution on a CPU


class Pointwise(nn.Conv2d):
    """A 1x1 convolution computed as a matrix product over channels.

    Equal to `nn.Conv2d` to rounding, with its weights and their shape. In channels_last the permutations are free. On a
    CPU the product is 1.1 to 3.9 times as fast as the convolution up to some 256 positions, and 0.8 to 1.1 times from
    512 on (64 to 3072 channels, forward and backward, two cores), so there the convolution stays, its stride taken
    before it: oneDNN's own crashes on odd numbers of channels. A GPU's convolution takes the stride itself, which saves a
    copy of the pixels that stay and, backward, zeros for those that do not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        return mix_channels(x, self.weight, self.bias, self.stride[0])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep the weight's strides those of a matrix: channels_last would give its gradient others than its own."""
        super()._apply(fn, recurse)
        self.weight.data = self.weight.data.flatten(1)[:, :, None, None]
        return self


def mix_channels(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, few: int = FEW_POSITIONS) -> Tensor:
    """The 1x1 convolution of (N, C_in, H, W), by the product or the convolution as `Pointwise` says."""
    if not is_scripting():  # noqa: SIM102 - a script leaves out this if's body
        if is_exporting():  # an exported network takes any number of images; the convolution is what every runtime has
            return functional.conv2d(x, weight, bias, stride)
    if stride > 1 and x.device.type == "cuda":
        return functional.conv2d(x, weight, bias, stride)
    if stride > 1:
        x = x[:, :, ::stride, ::stride]
    if x.device.type == "cpu" and x.shape[0] * x.shape[2] * x.shape[3] > few:
        return functional.conv2d(x, weight, bias)
    x = x.permute(0, 2, 3, 1)
    return functional.linear(x, weight.flatten(1), bias).permute(0, 3, 1, 2)


def conv_layer(conv: Conv) -> nn.Sequential:
    """Convolution, norm, activation, part: children `conv`, `norm`, `act` and `part`, those that the layout has."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = _convolution(conv)(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias
    )
    if conv.norm is not None:
        parts["norm"] = layer_of("norm", conv.norm)(conv.out_channels)
    if conv.activation is not None:
        parts["act"] = layer_of("activation", conv.activation)()
    if conv.part is not None:
        parts["part"] = layer_of("block_part", conv.part)(conv.out_channels)
    return nn.Sequential(parts)


def _convolution(conv: Conv) -> type[nn.Conv2d]:
    """The fastest layer that computes it."""
    if conv.kernel_size == 1 and conv.groups == 1:
        return Pointwise
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    plain = conv.dilation == 1 and conv.padding == conv.kernel_size // 2
    return Depthwise if depthwise and plain else nn.Conv2d


class DropPath(nn.Module):
    """Stochastic depth: in training, drop an image's whole branch with this probability (Huang et al., 1603.09382).

    What is kept is divided by the probability of keeping it, so that the expectation stays. The probability differs
    from block to block; as a tensor it is no constant that torch.compile would translate each block anew for.
    """

    keep: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.active = probability > 0.0
        self.register_buffer("keep", torch.tensor(1.0 - probability), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep or drop each image of (N, C, H, W)."""
        if not self.training or not self.active:
            return x
        return drop_images(x, self.keep)

    def extra_repr(self) -> str:
        """The probability of dropping."""
        return f"{self.probability:.3f}"


def drop_images(x: Tensor, keep: Tensor) -> Tensor:
    """Keep each image of (N, C, H, W) with this probability."""
    kept = torch.bernoulli(keep.expand(x.shape[0], 1, 1, 1)) / keep
    return x * kept.to(x.dtype)


class LayerScale(nn.Module):
    """A learnt factor for each channel of (N, C, H, W), small at first (Touvron et al., arXiv 2103.17239)."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (N, C, H, W); bfloat16 stays bfloat16, and float16, which has no room for 1e-6, becomes float32."""
        return scale_channels(x, self.gamma)


def scale_channels(x: Tensor, gamma: Tensor) -> Tensor:
    """(N, C, H, W) times gamma (C)."""
    if x.dtype == torch.bfloat16:
        gamma = gamma.to(x.dtype)
    return x * gamma.view(1, -1, 1, 1)


# What asks for types, devices and shapes is one node to torch.fx, which knows none while it traces.
for name in ("normalize_channels", "normalize_responses", "mix_channels", "drop_images", "scale_channels"):
    torch.fx.wrap(name)


class Block(nn.Module):
    """Residual block: `act(shortcut(x) + drop_path(scale(branch(x))))`, every part given by the layout.

    (N, C_in, H, W) to (N, C_out, H / stride, W / stride).
    """

    def __init__(self, layout: BlockLayout) -> None:
        super().__init__()
        channels = layout.convs[-1].out_channels
        self.branch = nn.Sequential(*map(conv_layer, layout.convs))
        self.scale = nn.Identity() if layout.layer_scale is None else LayerScale(channels, layout.layer_scale)
        self.drop_path = DropPath(layout.drop_path)
        self.shortcut = nn.Identity() if layout.shortcut is None else conv_layer(layout.shortcut)
        self.act = nn.Identity() if layout.activation is None else layer_of("activation", layout.activation)()

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, C_in, H, W)."""
        return self.act(self.shortcut(x) + self.drop_path(self.scale(self.branch(x))))
