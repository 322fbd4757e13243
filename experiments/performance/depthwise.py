"""How long ConvNeXt-T's depthwise convolutions take on this GPU: PYTHONPATH=. python experiments/performance/depthwise.py

Batch 256, 224 px, bfloat16, channels_last: cuDNN's passes and the kernel's, in tiles of several sizes. Milliseconds, the median of
what `triton.testing.do_bench` measures, and the sum over the 18 blocks of the network.
"""

from __future__ import annotations

import torch
from triton.testing import do_bench

from roadmap.model import depthwise_kernel

STAGES = ((3, 96, 56), (3, 192, 28), (9, 384, 14), (3, 768, 7))  # blocks, channels, height and width
TILES = ((16, 32, 4), (8, 32, 2), (8, 32, 4), (16, 32, 8), (32, 16, 4))  # rows, channels, warps
IMAGES, SIZE = 256, 7


def main() -> None:
    """Print the times."""
    rows: dict[str, list[float]] = {}
    for _, channels, side in STAGES:
        x = torch.randn(IMAGES, channels, side, side, device="cuda", dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = torch.randn(channels, 1, SIZE, SIZE, device="cuda", dtype=torch.bfloat16), x[0, :, 0, 0].clone()

        def cudnn(*wanted: bool, x: torch.Tensor = x, weight: torch.Tensor = weight, channels: int = channels) -> float:
            return do_bench(
                lambda: torch.ops.aten.convolution_backward(
                    x, x, weight, [channels], [1, 1], [SIZE // 2] * 2, [1, 1], False, [0, 0], channels, wanted
                ),
                warmup=10,
                rep=40,
                return_mode="median",
            )

        forward = do_bench(
            lambda x=x, weight=weight, bias=bias: torch.nn.functional.conv2d(
                x, weight, bias, padding=SIZE // 2, groups=len(bias)
            ),
            warmup=10,
            rep=40,
            return_mode="median",
        )
        rows.setdefault("cuDNN, forward", []).append(forward)
        rows.setdefault("cuDNN, gradient of the input", []).append(cudnn(True, False, False))
        rows.setdefault("cuDNN, gradient of the weights", []).append(cudnn(False, True, False))
        for tile in TILES:
            depthwise_kernel.ROWS, depthwise_kernel.CHANNELS, depthwise_kernel.WARPS = tile
            time = do_bench(
                lambda x=x, weight=weight, bias=bias: depthwise_kernel.convolve(x, weight, bias),
                warmup=10,
                rep=40,
                return_mode="median",
            )
            rows.setdefault("the kernel, rows {}, channels {}, warps {}".format(*tile), []).append(time)
    for name, times in rows.items():
        total = sum(time * blocks for time, (blocks, _, _) in zip(times, STAGES, strict=True))
        print(f"{name:45}", *(f"{time:7.3f}" for time in times), f"  all blocks {total:6.2f}", flush=True)


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    main()
