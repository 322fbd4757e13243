"""How long a batch's augmentation takes on this GPU: python experiments/performance/augmentation.py

The paper's recipe, 256 photographs of noise of 375 x 500 pixels to 224: the plain code and the kernels in turn, alone on the
device; and whether their pixels are the same. Milliseconds a batch from the device's clock, and from the host's the time to
have started it.
"""

from __future__ import annotations

import time
from unittest.mock import patch

import numpy as np
import torch

from roadmap.config.compose import compose
from roadmap.data.device import fused
from roadmap.data.device.augment import NormalizeAndErase
from roadmap.data.device.dataset import Augmentation, Pictures

IMAGES, HEIGHT, WIDTH, SIZE = 256, 375, 500, 224
ROUNDS, REPETITIONS = 3, 10
CUDA = torch.device("cuda")


def pictures() -> Pictures:
    """Noise, which is as good as photographs where only time counts."""
    pixels = torch.randint(256, (IMAGES * HEIGHT * WIDTH, 3), dtype=torch.uint8, device=CUDA)
    ones = np.ones(IMAGES, dtype=np.int64)
    targets = torch.zeros(IMAGES, dtype=torch.int64, device=CUDA)
    return Pictures(pixels, targets, np.arange(IMAGES) * HEIGHT * WIDTH, HEIGHT * ones, WIDTH * ones)


def main() -> None:
    """Print the times."""
    paper = compose(["+step=gelu", "recipe=paper", "data=imagenet", "data.path=nowhere", f"data.image_size={SIZE}"])
    made = Augmentation(paper.data, paper.recipe, 0, NormalizeAndErase(paper.data, paper.recipe, 0, CUDA))
    many, draws, usable = pictures(), made.draw(0, IMAGES), fused.usable
    assert usable(many.pixels), "needs a GPU, and Triton"

    def batch(with_kernels: bool) -> torch.Tensor:
        with patch.object(fused, "usable", lambda tensor: with_kernels and usable(tensor)):
            return made(many, np.arange(IMAGES), draws)

    difference = (batch(True) - batch(False)).abs()
    print(f"values that differ: {(difference > 0).float().mean():.5f}; most: {difference.max():.2e} (noise of erasing alone may)")
    for _ in range(ROUNDS):
        for how, with_kernels in (("plain", False), ("kernels", True)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            began = time.perf_counter()
            start.record()
            for _ in range(REPETITIONS):
                batch(with_kernels)
            end.record()
            started = time.perf_counter() - began
            torch.cuda.synchronize()
            print(f"{how:8} {start.elapsed_time(end) / REPETITIONS:7.2f} ms; started in {1000 * started / REPETITIONS:7.2f} ms")


if __name__ == "__main__":
    main()
