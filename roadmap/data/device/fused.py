"""The device's augmentation in a dozen kernels, on an NVIDIA GPU: the plain code's pixels, a fiftieth of its traffic.

The plain code in `augment` and `randaugment` says what is made, and makes it on CPUs; here is how it is made with Triton,
which comes with torch where it can be used.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger("roadmap")
OPTIONS = {"enable_fp_fusion": False}  # a product and a sum are rounded each, as in torch and in Pillow
PIXELS = 512  # of an image, to a program
COUNTED = 4096  # of an image, to a program that only counts: fewer additions to shared counters
TILE = (8, 128)  # rows and columns of an image, to a program


def usable(tensor: Tensor) -> bool:
    """Whether kernels can work on this tensor: on a GPU where Triton does, and not with a tensor that has no values."""
    return tensor.is_cuda and not isinstance(tensor, FakeTensor) and _works(tensor.device)


@cache
def _works(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        one = torch.ones(3, device=device)
        normalise_and_erase(torch.zeros(1, 3, 1, 1, dtype=torch.uint8, device=device), one, one, torch.channels_last, None)
    except Exception as error:  # no compiler on this machine, a GPU too old: Triton has many ways to say so
        log.warning("augmentation goes without fused kernels: Triton does not work here: %s", error)
        return False
    return True


@cache
def kernels() -> ModuleType:
    """The kernels; importing Triton takes a moment, so only who needs them does."""
    from roadmap.data.device import kernels

    return kernels


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **constants: int | bool) -> None:
    """Start a kernel on tensors and numbers; what it is compiled for is named."""
    getattr(kernels(), name)[grid](*arguments, **constants, **OPTIONS)


def _blocks(length: int, block: int) -> int:
    return -(-length // block)


def resized_crops(pixels: Tensor, crops: Tensor, reach: int, rows: int, tallest: int, size: int) -> Tensor:
    """`augment.resized_crops`, first across and then down.

    Args:
        pixels: Of all images, row after row, (P, 3) uint8.
        crops: (B, 6) int64, as `kernels` names their columns.
        reach: How many pixels a result looks at, at most.
        rows: Of all boxes together.
        tallest: Height of the tallest box.
        size: Height and width of the results.

    Returns:
        (B, 3, size, size) uint8.

    """
    number, device = len(crops), pixels.device
    firsts = torch.empty((2, number, size), dtype=torch.int32, device=device)
    weights = torch.empty((2, number, reach, size), dtype=torch.int32, device=device)
    narrowed = torch.empty((rows, 3, size), dtype=torch.uint8, device=device)
    resized = torch.empty((number, 3, size, size), dtype=torch.uint8, device=device)
    launch("bicubic_weights", (number, 2, _blocks(size, 128)), crops, firsts, weights, reach, SIZE=size, BLOCK=128)
    shape = {"SIZE": size, "ROWS": TILE[0], "COLUMNS": TILE[1]}
    grid = number, _blocks(tallest, TILE[0]), _blocks(size, TILE[1])
    launch("narrow", grid, pixels, crops, firsts, weights, narrowed, reach, **shape)
    grid = number, _blocks(size, TILE[0]), _blocks(3 * size, TILE[1])
    launch("shorten", grid, narrowed, crops, firsts, weights, resized, reach, **shape)
    return resized


def randaugment_layer(source: Tensor, target: Tensor, records: Tensor, needs: tuple[bool, bool]) -> None:
    """One layer of `RandAugment`, from `source` to `target`.

    Args:
        source: (B, 3, S, S) uint8.
        target: Likewise; written.
        records: (B, bytes) uint8, contiguous: a row is an image's operation and its arguments in float64, then its table.
        needs: Whether any image is moved, and whether any needs counts of its levels.

    """
    number, _, size, _ = source.shape
    numbers = records.view(torch.float64)
    words = numbers.shape[1]
    counts = torch.zeros((number, 3, 256), dtype=torch.int32, device=source.device)
    tables = torch.empty((number, 3, 256), dtype=torch.uint8, device=source.device)
    moved, counted = needs
    if counted:
        grid = number, _blocks(size * size, COUNTED)
        launch("histograms", grid, source, counts, numbers, words, SIZE=size, BLOCK=COUNTED)
    launch("lookup_tables", (number, 3), counts, numbers, records[:, -256:], tables, words, SIZE=size)
    grid = number, _blocks(size * size, PIXELS)
    launch("pointwise", grid, source, target, numbers, tables, words, SIZE=size, BLOCK=PIXELS)
    if moved:
        launch("affine", grid, source, target, numbers, words, SIZE=size, BLOCK=PIXELS)


def normalise_and_erase(
    images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format, boxes: Tensor | None
) -> Tensor:
    """`augment.normalise` and `augment.erase`: uint8 (B, 3, H, W) to float32; boxes (B, 5) int64, the last column keys."""
    number, _, height, width = images.shape
    made = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=memory_format)
    launch(
        "normalise",
        (number, _blocks(3 * height * width, PIXELS)),
        images.contiguous(),
        made,
        mean,
        std,
        mean if boxes is None else boxes,
        PIXELS=height * width,
        WIDTH=width,
        CHANNELS_LAST=memory_format == torch.channels_last,
        ERASES=boxes is not None,
        BLOCK=PIXELS,
    )
    return made
