"""Random resized crop, flip, normalisation and random erasing of whole batches, each image with parameters of its own.

What timm does to one picture after another is done here to a batch where its pixels are, on the GPU or the CPU. All
random numbers are drawn on the host, as a table with a row for every image of the data set, so an image depends on (seed,
epoch, index) and not on its batch; nothing is read back from the device, so nothing waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roadmap.config.schema import DataConfig, RecipeConfig
from roadmap.data.device import fused

Array = np.ndarray[Any, Any]

ATTEMPTS = 10  # at a box that fits, in timm and in torchvision
CROP_ASPECT = (3 / 4, 4 / 3)  # width / height
ERASED_AREA = (0.02, 1 / 3)  # of the image; Zhong et al. 2017
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width

BOX = [("area", "f8", ATTEMPTS), ("aspect", "f8", ATTEMPTS), ("top", "f8"), ("left", "f8")]
CROP = np.dtype([*BOX, ("flip", "f8")])
ERASING = np.dtype([("erased", "f8"), *BOX, ("noise", "f8")])
ERASES = 3  # the key of erasing's random table, beside those of `device.dataset`

TAPS = 2  # Pillow's bicubic reaches two pixels (of the coarser grid) to either side
FIXED = 2**22  # Pillow's weights are whole multiples of 1 / FIXED
PADDED = {"cpu": 2**18, "cuda": 2**24}  # pixels of the boxes that are resized at once: what caches, or memory, hold

# SplitMix64's constants, as int64 has them.
GOLDEN, MIX_1, MIX_2 = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def draws(fields: np.dtype[Any], shape: tuple[int, ...], *key: int) -> Array:
    """A table of uniform numbers in [0, 1) with named fields, one `fields` at each place of `shape`, from `key` alone.

    A counter-based generator (Philox), so tables of different keys are independent. A key that ends in 0 is the same
    key without it.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    return random.random((*shape, fields.itemsize // 8)).view(fields)[..., 0]


def send(values: Array, device: torch.device) -> Tensor:
    """An array as a tensor on the device; a GPU fetches it from pinned memory while the host goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# --- boxes: on the host ----------------------------------------------------------------------------------------------


def crop_boxes(drawn: Array, heights: Array, widths: Array, scale: Sequence[float]) -> Array:
    """Boxes of the random resized crop, timm's `RandomResizedCropAndInterpolation.get_params` for many images at once.

    From a table (B,) of `CROP`, and heights and widths of the images in pixels (B,): (B, 4) whole numbers, top, left, height,
    width. The first of ten boxes that fits in the image, with an area between the parts `scale` of the image's, or the largest
    central one of an aspect ratio in `CROP_ASPECT`.
    """
    wide, tall = _sides(drawn, heights * widths, scale, CROP_ASPECT)
    fits = (wide <= widths[:, None]) & (tall <= heights[:, None])
    central_tall = np.minimum(heights, np.rint(widths / CROP_ASPECT[0]))
    central_wide = np.minimum(widths, np.rint(heights * CROP_ASPECT[1]))
    any_fits = fits.any(1)
    tall = np.where(any_fits, _first(tall, fits), central_tall)
    wide = np.where(any_fits, _first(wide, fits), central_wide)
    tall, wide = np.maximum(tall, 1), np.maximum(wide, 1)  # of images of a few pixels, where timm's box can be empty
    top = np.where(any_fits, np.floor(drawn["top"] * (heights - tall + 1)), (heights - tall) // 2)
    left = np.where(any_fits, np.floor(drawn["left"] * (widths - wide + 1)), (widths - wide) // 2)
    return np.stack([top, left, tall, wide], 1).astype(np.int64)


def erasing_boxes(drawn: Array, size: int, probability: float) -> Array:
    """Boxes of random erasing, timm's `RandomErasing` with one box an image, for many images at once.

    From a table (B,) of `ERASING`, for images of `size` pixels a side: (B, 4) whole numbers, top, left, height, width; height 0
    where an image stays whole.
    """
    tall, wide = _sides(drawn, np.full(len(drawn), size * size), ERASED_AREA, ERASED_ASPECT)
    fits = (tall < size) & (wide < size)
    tall, wide = _first(tall, fits), _first(wide, fits)
    top, left = np.floor(drawn["top"] * (size - tall + 1)), np.floor(drawn["left"] * (size - wide + 1))
    erased = (drawn["erased"] <= probability) & fits.any(1)
    return (np.stack([top, left, tall, wide], 1) * erased[:, None]).astype(np.int64)


def _sides(drawn: Array, areas: Array, scale: Sequence[float], aspect: tuple[float, float]) -> tuple[Array, Array]:
    """Two sides (B, ATTEMPTS): area uniform between the parts `scale` of `areas`, first / second log-uniform in `aspect`."""
    area = (scale[0] + (scale[1] - scale[0]) * drawn["area"]) * areas[:, None]
    low, high = map(math.log, aspect)
    ratio = np.exp(low + (high - low) * drawn["aspect"])
    return np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))


def _first(values: Array, fits: Array) -> Array:
    return np.take_along_axis(values, fits.argmax(1)[:, None], 1)[:, 0]


# --- crops: Pillow's bicubic with antialiasing -----------------------------------------------------------------------


def resized_crops(pixels: Tensor, starts: Array, strides: Array, boxes: Array, flips: Array, size: int) -> Tensor:
    """Boxes cut out, resized and mirrored: to the last bit what Pillow makes with `crop`, `resize(BICUBIC)`, `transpose`.

    Args:
        pixels: Of all images, row after row, (P, 3) uint8.
        starts: Number of the first pixel of each image (B,).
        strides: Width of each image (B,).
        boxes: Top, left, height and width of the crops (B, 4).
        flips: Which to mirror (B,).
        size: Height and width of the results.

    Returns:
        (B, 3, size, size) uint8 on the device of `pixels`.

    """
    top, left, tall, wide = boxes.T
    crops = np.stack([starts + top * strides + left, strides, tall, wide, flips])
    if fused.usable(pixels):
        return _fused_crops(pixels, crops, size)
    resized = torch.empty((len(boxes), 3, size, size), dtype=torch.uint8, device=pixels.device)
    for members in _alike(tall, wide, PADDED[pixels.device.type]):
        chunk = _resize(pixels, crops[:, members], size)
        resized.index_copy_(0, send(members, pixels.device), chunk)
    return resized


def _fused_crops(pixels: Tensor, crops: Array, size: int) -> Tensor:
    _, _, tall, wide, _ = crops
    ends = np.cumsum(tall)
    rows = np.concatenate([crops, (ends - tall)[None]]).T
    reach = _reach(int(max(tall.max(), wide.max())), size)
    return fused.resized_crops(pixels, send(rows, pixels.device), reach, int(ends[-1]), int(tall.max()), size)


def _alike(tall: Array, wide: Array, most: int) -> Iterator[Array]:
    """The boxes in groups of similar size, which hold at most `most` pixels when padded to the largest side of each."""
    group: list[int] = []
    height = width = 0
    for member in np.argsort(tall * wide, kind="stable"):
        height, width = max(height, tall[member]), max(width, wide[member])
        if group and (len(group) + 1) * height * width > most:
            yield np.array(group)
            group, height, width = [], tall[member], wide[member]
        group.append(int(member))
    yield np.array(group)


def _resize(pixels: Tensor, crops: Array, size: int) -> Tensor:
    """Boxes that fit in memory together -> (B, 3, size, size).

    The weights are whole numbers, and so are all sums below 2**53, which float64 holds exactly. So neither the order of
    summation nor the padding can be seen in the result; and neither autocast nor TF32 touches float64.
    """
    height, width = (int(side) for side in crops[2:4].max(1))
    start, stride, tall, wide, flip = send(crops, pixels.device)
    boxes = _gather(pixels, start, stride, tall.view(-1, 1), wide.view(-1, 1), (height, width))  # (B, height, width, 3)
    planes = boxes.transpose(2, 3).to(torch.float64, memory_format=torch.contiguous_format)
    across = bicubic_weights(wide, flip, width, size)
    rows = _fixed_to_levels(torch.bmm(planes.view(-1, height * 3, width), across.mT))
    down = bicubic_weights(tall, torch.zeros_like(flip), height, size)
    levels = _fixed_to_levels(torch.bmm(down, rows.view(-1, height, 3 * size)))
    return levels.to(torch.uint8).view(-1, size, 3, size).transpose(1, 2)


def _gather(pixels: Tensor, start: Tensor, stride: Tensor, tall: Tensor, wide: Tensor, most: tuple[int, int]) -> Tensor:
    """Boxes (B, *most, 3), padded with their last row and column (which the weights do not look at)."""
    rows, columns = (torch.arange(side, device=pixels.device) for side in most)
    rows, columns = torch.minimum(rows, tall - 1), torch.minimum(columns, wide - 1)
    number = (start.view(-1, 1) + rows * stride.view(-1, 1)).unsqueeze(2) + columns.unsqueeze(1)
    return pixels.index_select(0, number.flatten()).view(*number.shape, 3)


def bicubic_weights(lengths: Tensor, flip: Tensor, most: int, size: int) -> Tensor:
    """Weights of Pillow's bicubic (a = -0.5), widened where it makes smaller, in units of 1 / FIXED.

    From `lengths` (B,) of at most `most` pixels to `size`, mirrored where `flip` (B,) is not 0: (B, size, most) whole numbers as
    float64; a row belongs to a pixel of the result and sums to FIXED but for rounding.
    """
    length = lengths.view(-1, 1, 1)
    scale = length / length.new_full((), size, dtype=torch.float64)  # a GPU divides by a Python number inexactly
    stretch = scale.clamp(min=1)
    pixel = torch.arange(size, dtype=torch.float64, device=lengths.device).view(1, -1, 1)
    centre = (torch.where(flip.view(-1, 1, 1) != 0, size - 1 - pixel, pixel) + 0.5) * scale
    first = (centre - TAPS * stretch + 0.5).trunc().clamp(min=0)
    end = torch.minimum((centre + TAPS * stretch + 0.5).trunc(), length)
    reach = _reach(most, size)
    taps = first + torch.arange(reach, device=lengths.device)
    weights = _keys((taps - centre + 0.5) / stretch) * (taps < end)
    total = reduce(torch.add, weights.unbind(2))  # one after another, so that the zeros of a longer row change no bit
    weights = weights / total.unsqueeze(2) * FIXED
    weights = (weights + torch.where(weights < 0, -0.5, 0.5)).trunc()
    matrix = weights.new_zeros((len(lengths), size, most + reach))
    return matrix.scatter_(2, taps.long(), weights)[..., :most]


def _reach(length: int, size: int) -> int:
    """No result looks at more pixels."""
    return 2 * max(TAPS, -(-TAPS * length // size)) + 1


def _keys(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _fixed_to_levels(sums: Tensor) -> Tensor:
    return sums.add_(FIXED // 2).div_(FIXED).floor_().clamp_(0, 255)


# --- normalisation and erasing ---------------------------------------------------------------------------------------


class NormalizeAndErase:
    """The last part of both pipelines, on the device: bytes are normalised, and boxes of some images erased (Table 5)."""

    def __init__(
        self,
        data: DataConfig,
        recipe: RecipeConfig,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.size, self.erasing, self.seed = data.image_size, recipe.random_erasing, seed
        self.device, self.memory_format = device, memory_format
        self.mean, self.std = (torch.tensor(triple, device=device).view(3, 1, 1) for triple in (data.mean, data.std))

    def draw(self, epoch: int, size: int) -> Array | None:
        """The random numbers of erasing in an epoch, for a data set of `size` images; None where nothing is erased."""
        return draws(ERASING, (size,), self.seed, epoch, ERASES) if self.erasing else None

    def __call__(self, images: Tensor, drawn: Array | None = None) -> Tensor:
        """Levels of 0..255 (B, 3, S, S) -> float32 on the device, normalised, and erased as their rows (B,) of `draw` say."""
        images = images.to(self.device, non_blocking=True)
        if fused.usable(images) and images.dtype == torch.uint8:
            return self._fused(images, drawn)
        images = normalise(images, self.mean, self.std, self.memory_format)
        return images if drawn is None else erase(images, erasing_boxes(drawn, self.size, self.erasing), drawn["noise"])

    def _fused(self, images: Tensor, drawn: Array | None) -> Tensor:
        boxes = None
        if drawn is not None:
            sides = erasing_boxes(drawn, self.size, self.erasing)
            boxes = send(np.column_stack([sides, _whole_keys(drawn["noise"])]), self.device)
        return fused.normalise_and_erase(images, self.mean, self.std, self.memory_format, boxes)


def normalise(images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    """Levels of 0..255 (B, 3, H, W) -> (level / 255 - mean) / std, float32; mean and std are (3, 1, 1)."""
    return images.to(torch.float32, memory_format=memory_format).div_(255).sub_(mean).div_(std)


def erase(images: Tensor, boxes: Array, keys: Array) -> Tensor:
    """Put standard normal noise, another for each pixel and channel, into boxes of `images` (B, C, H, W), in place; returns them.

    `boxes` are top, left, height, width (B, 4), of height 0 where an image stays whole; `keys` are what an image's noise depends
    on, numbers in [0, 1) (B,).
    """
    members = np.flatnonzero(boxes[:, 2])
    if not len(members):
        return images
    _, channels, height, width = images.shape
    index = send(members, images.device)
    top, left, tall, wide = send(boxes[members].T, images.device).view(4, -1, 1, 1, 1)
    row, column = torch.arange(height, device=images.device).view(-1, 1), torch.arange(width, device=images.device)
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)
    noise = normal_noise(send(_whole_keys(keys[members]), images.device), channels * height * width).view(-1, *images.shape[1:])
    erased = torch.where(inside, noise, images.index_select(0, index))
    return images.index_copy_(0, index, erased)


def _whole_keys(keys: Array) -> Array:
    return (keys * 2**53).astype(np.int64)


def normal_noise(keys: Tensor, count: int) -> Tensor:
    """Standard normal numbers, float32 (B, count), each a function of its key (B,) and its position in the row.

    SplitMix64 (Steele, Lea, Flood 2014) at all positions at once, and Box-Muller. The whole numbers are the same on every
    device, their logarithm and cosine to a few units in the last place.
    """
    steps = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    bits = splitmix(keys.view(-1, 1) + steps)
    high, low = _shifted(bits, 32), bits & 0xFFFFFFFF
    radius = ((high + 1).float() * 2**-32).log_().mul_(-2).sqrt_()
    return low.float().mul_(2 * math.pi * 2**-32).cos_().mul_(radius)


def splitmix(state: Tensor) -> Tensor:
    """SplitMix64's finaliser: 64 bits scrambled, one to one; int64 tensors, whose products wrap."""
    state = (state ^ _shifted(state, 30)) * MIX_1
    state = (state ^ _shifted(state, 27)) * MIX_2
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Right, with zeros from the left: int64's own shift repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
