"""A depthwise convolution for channels_last on NVIDIA GPUs, in Triton; everywhere else torch's own.

cuDNN's takes 30 % of an update of ConvNeXt-T (H100, 224 px, bfloat16), over half of it for the gradient of the input, which is
the same sum with the kernel turned round. Here both are one kernel, which takes less than half as long: each thread keeps a
strip of a row in registers and so reads a pixel once for all taps of a row. The gradient of the weights stays cuDNN's.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting  # torch.jit's own, which does not export it to mypy
from torch.jit._trace import is_tracing


class Depthwise(nn.Conv2d):
    """A depthwise convolution padded by half its kernel.

    Equal to `nn.Conv2d` to rounding, with its weights and their shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H / stride, W / stride), rounded up."""
        return convolve_channels(x, self.weight, self.bias, self.kernel_size[0] // 2, self.stride[0])


HAS_TRITON = find_spec("triton") is not None


def convolve_channels(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, stride: int) -> Tensor:
    """Each channel of (N, C, H, W) with its own kernel, by the kernel of this file where it can."""
    if not is_scripting():  # a script leaves out this if's body
        if stride == 1 and _has_kernel(x):
            return _by_kernel(x, weight, bias)
        beyond = _beyond(x, padding)
        if beyond > 0:
            weight, padding = weight[:, :, beyond:-beyond, beyond:-beyond], padding - beyond
    return nn.functional.conv2d(x, weight, bias, stride, padding, 1, weight.shape[0])


torch.fx.wrap("convolve_channels")  # one node: while it traces, torch.fx knows neither device nor strides


def _has_kernel(x: Tensor) -> bool:
    """Not for a network that is exported: where it will run, the operator is not known."""
    by_triton = x.device.type == "cuda" and HAS_TRITON and x.is_contiguous(memory_format=torch.channels_last)
    return by_triton and not is_exporting()


def is_exporting() -> bool:
    """Whether torch.export is at work; `torch.compiler.is_exporting` of torch 2.11 says so of torch.compile too."""
    return torch.compiler._is_exporting_flag


def _beyond(x: Tensor, padding: int) -> int:
    """How many taps at each side of the kernel meet padding alone, as most of 7 x 7 do in the last stages of small images.

    oneDNN computes them on a CPU; without them an update of ConvNeXt-Atto at 32 px takes 0.95 of the time with AVX512 and
    0.78 with AVX2, to the same bits. One tap at each side stays: of a kernel of one tap oneDNN adds up in another order.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or is_tracing():
        return 0
    return padding - max(1, max(x.shape[2:]) - 1)


def _by_kernel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return depthwise(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


@torch.library.custom_op("roadmap::depthwise", mutates_args=(), device_types="cuda")
def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each channel of x (N, C, H, W), in channels_last, with its own kernel of weight (C, 1, K, K), K odd; all of one type."""
    from roadmap.model.depthwise_kernel import convolve

    return convolve(x, weight, bias)


@depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias = bias is not None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    of_x = depthwise(gradient, weight.flip(2, 3), None) if ctx.needs_input_grad[0] else None
    size, channels = weight.shape[-1], weight.shape[0]
    _, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, [channels], [1, 1], [size // 2] * 2, [1, 1], False, [0, 0], channels, [False, True, ctx.bias]
    )
    return of_x, of_weight, of_bias if ctx.bias else None


depthwise.register_autograd(_gradients, setup_context=_remember)
