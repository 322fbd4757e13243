"""How long ConvNeXt-T's depthwise convolutions take on this GPU: PYTHONPATH=. python experiments/performance/depthwise.py

Batch 256, 224 px, bfloat16, channels_last: cuDNN's passes, and the kernel's in tiles of several sizes. Milliseconds at each stage's
size, the median of what `triton.testing.do_bench` measures, and the sum over the 18 blocks of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.testing import do_bench

from roadmap.model import depthwise_kernel

STAGES = ((3, 96, 56), (3, 192, 28), (9, 384, 14), (3, 768, 7))  # blocks, channels, height and width
TILES = ((16, 32, 4, None), (16, 32, 4, 168), (8, 32, 4, None), (8, 32, 2, 168))  # rows, channels, warps, registers
IMAGES, SIZE = 256, 7


def main() -> None:
    """Print the times."""
    show("cuDNN, forward", forward)
    show("cuDNN, gradient of the input", partial(backward, wanted=(True, False, False)))
    show("cuDNN, gradient of the weights", partial(backward, wanted=(False, True, False)))
    for tile in TILES:
        depthwise_kernel.ROWS, depthwise_kernel.CHANNELS, depthwise_kernel.WARPS, depthwise_kernel.REGISTERS = tile
        show("the kernel, rows {}, channels {}, warps {}, registers {}".format(*tile), depthwise_kernel.convolve)


def show(name: str, action: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
    """Measure an action of pictures, weights and biases at each stage's size, and print a line."""
    times = []
    for _, channels, side in STAGES:
        x = torch.randn(IMAGES, channels, side, side, device="cuda", dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = torch.randn(channels, 1, SIZE, SIZE, device="cuda", dtype=torch.bfloat16), x[0, :, 0, 0].clone()
        times.append(do_bench(partial(action, x, weight, bias), warmup=10, rep=40, return_mode="median"))
    total = sum(time * blocks for time, (blocks, _, _) in zip(times, STAGES, strict=True))
    print(f"{name:55}", *(f"{time:7.3f}" for time in times), f"  all blocks {total:6.2f}", flush=True)


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """torch's own."""
    return torch.nn.functional.conv2d(x, weight, bias, padding=SIZE // 2, groups=len(bias))


def backward(x: Tensor, weight: Tensor, bias: Tensor, wanted: tuple[bool, bool, bool]) -> Any:
    """torch's own, of the pictures or the weights."""
    sizes = ([1, 1], [SIZE // 2] * 2, [1, 1], False, [0, 0])
    return torch.ops.aten.convolution_backward(x, x, weight, [len(bias)], *sizes, len(bias), wanted)


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    main()
