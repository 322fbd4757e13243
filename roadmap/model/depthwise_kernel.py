"""The kernel of `depthwise`; Triton is imported here and nowhere else."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS, WARPS = 16, 32, 4  # of a program's tile: four channels a thread, which it reads with one instruction
REGISTERS: int | None = None  # of a thread, at most


@triton.jit
def _convolve(
    x,
    taps,
    bias,
    y,
    rows,
    height,
    width,
    channels,
    K: tl.constexpr,
    STRIP: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BIAS: tl.constexpr,
):
    """A strip of STRIP columns in ROWS rows, of one image or several, for CHANNELS channels."""
    strips = tl.cdiv(width, STRIP)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    left = tl.program_id(0) % strips * STRIP
    channel = (tl.program_id(0) // strips * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    exists = (row < rows) & (channel < channels)
    line = row % height
    start = (row.to(tl.int64) * width + left) * channels + channel
    column = tl.full((1, CHANNELS), 0, tl.int32) + left  # a block, for Triton's interpreter takes no scalar in a mask
    sums = ()
    for _ in tl.static_range(STRIP):
        sums = sums + (tl.zeros((ROWS, CHANNELS), tl.float32),)
    for i in tl.static_range(K):
        above = i - K // 2
        readable = exists & (line + above >= 0) & (line + above < height)
        weights = ()
        for j in tl.static_range(K):
            weights = weights + (_read(taps + (i * K + j) * channels + channel, channel < channels),)
        pixels = ()
        for j in tl.static_range(STRIP + K - 1):
            beside = j - K // 2
            inside = readable & (column + beside >= 0) & (column + beside < width)
            pixels = pixels + (_read(x + start + (above * width + beside) * channels, inside),)
        sums = _add_row(sums, pixels, weights, K, STRIP)
    for o in tl.static_range(STRIP):
        total = sums[o]
        if BIAS:
            total += _read(bias + channel, channel < channels)
        tl.store(y + start + o * channels, total.to(y.dtype.element_ty), exists & (column + o < width))


@triton.jit
def _read(where, exists):
    """Numbers in float32, zeros where there are none."""
    return tl.load(where, exists, 0.0).to(tl.float32)


@triton.jit
def _add_row(sums, pixels, weights, K: tl.constexpr, STRIP: tl.constexpr):
    """The sums of a strip and what one row of the kernel adds to them."""
    more = ()
    for o in tl.static_range(STRIP):
        total = sums[o]
        for j in tl.static_range(K):
            total += pixels[o + j] * weights[j]
        more = more + (total,)
    return more


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `depthwise`."""
    images, channels, height, width = x.shape
    result = torch.empty_like(x, memory_format=torch.channels_last)
    taps = weight.flatten(1).t().contiguous()  # (K * K, C): neighbouring channels are neighbours
    strip = strip_of(width)
    rows = images * height
    grid = (triton.cdiv(width, strip) * triton.cdiv(channels, CHANNELS), triton.cdiv(rows, ROWS))
    _convolve[grid](
        *(x, taps, taps if bias is None else bias, result, rows, height, width, channels),
        **{"K": weight.shape[-1], "STRIP": strip, "ROWS": ROWS, "CHANNELS": CHANNELS, "BIAS": bias is not None},
        num_warps=WARPS,
        **({} if REGISTERS is None else {"maxnreg": REGISTERS}),
    )
    return result


def strip_of(width: int) -> int:
    """Columns that a thread keeps: of 4, 7 and 8 the one that leaves the least of a row's last strip unused."""
    return min((7, 8, 4), key=lambda strip: triton.cdiv(width, strip) * (strip + 2))
