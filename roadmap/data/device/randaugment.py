"""timm's RandAugment on batches of uint8 images, each image with operations and magnitudes of its own.

An operation is a kernel and the arguments that timm's magnitude gives it. Which images get which is decided on the host; a kernel
then runs once for all its images, so that a layer of fifteen operations costs seven kernels. The arithmetic is Pillow's
own, with its order of operations and its truncations, so pixels are equal to timm's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtri  # the inverse of the normal distribution function
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms.v2.functional import equalize_image

from roadmap.data.device import fused
from roadmap.data.device.augment import Array, send

CHOICE = np.dtype([("operation", "f8"), ("applied", "f8"), ("magnitude", "f8"), ("sign", "f8")])
LEVELS = 10  # timm's magnitudes run from 0 to 10 where the description sets no other limit
VALUES = np.arange(256)
RECORD = np.dtype([("operation", "f8"), ("arguments", "f8", 9), ("table", "u1", 256)])  # of an image, for fused kernels


class Canvas(NamedTuple):
    """What operations must know of the images: height = width, and the colour of what lies outside (3,)."""

    size: int
    fill: Array


Kernel = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) uint8, arguments (B, K) -> images
Arguments = Callable[[Array, Array, Canvas], Array]  # magnitudes (B,) in parts of 10, signs (B,) -> arguments (B, K)


class RandAugment:
    """One description, ready for images of one size.

    Args:
        text: timm's, e.g. rand-m9-mstd0.5-inc1, and read by timm.
        size: Height and width of the images.
        mean: Of the data, in 0..1, one a colour; fills what shears, shifts and rotations bring in from outside.

    """

    def __init__(self, text: str, size: int, mean: Sequence[float]) -> None:
        policy = rand_augment_transform(text)
        self.layers: int = policy.num_layers
        self.names = [op.name for op in policy.ops]
        first = policy.ops[0]
        self.probability, self.magnitude, self.deviation = first.prob, first.magnitude, first.magnitude_std
        self.most = first.magnitude_max or LEVELS
        self.canvas = Canvas(size, np.array([min(255, round(255 * value)) for value in mean], dtype=np.float64))

    def __call__(self, images: Tensor, drawn: Array) -> Tensor:
        """Augment (B, 3, size, size) uint8 by a table (B, layers) of `CHOICE`; what is given is overwritten."""
        if fused.usable(images):
            return self._fused(images, drawn)
        for layer in range(self.layers):
            for kernel, members, arguments in self._groups(drawn[:, layer]):
                index = send(members, images.device)
                images.index_copy_(0, index, kernel(images.index_select(0, index), send(arguments, images.device)))
        return images

    def _fused(self, images: Tensor, drawn: Array) -> Tensor:
        records = np.zeros((self.layers, len(drawn)), RECORD)
        needs = [self._record(records[layer], drawn[:, layer]) for layer in range(self.layers)]
        target = torch.empty_like(images)
        sent = send(records.view(np.uint8).reshape(*records.shape, RECORD.itemsize), images.device)
        for layer_records, layer_needs in zip(sent, needs, strict=True):
            fused.randaugment_layer(images, target, layer_records, layer_needs)
            images, target = target, images
        return images

    def _record(self, records: Array, drawn: Array) -> tuple[bool, bool]:
        """One layer, written into its records (B,); whether an image is moved, and whether an image's levels are counted."""
        groups = self._groups(drawn)
        for kernel, members, arguments in groups:
            records["operation"][members] = 1 + FUSED.index(kernel)
            if kernel is lookup:
                records["table"][members] = arguments
            else:
                records["arguments"][members, : arguments.shape[1]] = arguments
        kernels = {kernel for kernel, _, _ in groups}
        return affine in kernels, not kernels.isdisjoint((equalize, autocontrast, contrast))

    def choose(self, drawn: Array) -> Array:
        """Operations as numbers in `names`, -1 where none is applied, of the same shape as the table."""
        applied = drawn["applied"] <= self.probability
        return np.where(applied, np.floor(drawn["operation"] * len(self.names)), -1).astype(np.int64)

    def magnitudes(self, drawn: Array) -> Array:
        """Magnitudes 0..`most`, of the same shape as the table: exact, normal, or uniform from 0, as described."""
        if self.deviation == float("inf"):
            magnitudes = drawn["magnitude"] * self.magnitude
        elif self.deviation > 0:
            magnitudes = self.magnitude + self.deviation * ndtri(drawn["magnitude"])
        else:
            magnitudes = np.full(drawn.shape, float(self.magnitude))
        return magnitudes.clip(0, self.most)

    def _groups(self, drawn: Array) -> list[tuple[Kernel, Array, Array]]:
        """For one layer (B,): each kernel that has work, its images and their arguments."""
        chosen, parts = self.choose(drawn), self.magnitudes(drawn) / LEVELS
        signs = np.where(drawn["sign"] > 0.5, -1.0, 1.0)
        work: dict[Kernel, list[tuple[Array, Array]]] = defaultdict(list)
        for number, name in enumerate(self.names):
            members = np.flatnonzero(chosen == number)
            if len(members):
                kernel, arguments = OPERATIONS[name]
                work[kernel].append((members, arguments(parts[members], signs[members], self.canvas)))
        return [(kernel, *_concatenated(groups)) for kernel, groups in work.items()]


def _concatenated(groups: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    members, arguments = zip(*groups, strict=True)
    return np.concatenate(members), np.concatenate(arguments)


# --- kernels ---------------------------------------------------------------------------------------------------------


def affine(images: Tensor, arguments: Tensor) -> Tensor:
    """Pillow's `transform(AFFINE, BICUBIC)`: arguments are its matrix (6) and the colour (3) of what lies outside."""
    height, width = images.shape[-2:]
    a, b, c, d, e, f, *fill = arguments.T[..., None, None]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device).view(-1, 1) + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    sampled = _bicubic(images, x - 0.5, y - 0.5).clamp_(0, 255)
    return torch.where(inside.unsqueeze(1), sampled, torch.stack(fill, 1)).to(torch.uint8)


def _bicubic(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of (B, 3, H, W) at positions (B, H, W), where 0 is a centre; beyond the edge lies the edge."""
    height, width = images.shape[-2:]
    column, row = x.floor(), y.floor()
    dx, dy = (x - column).unsqueeze(1), (y - row).unsqueeze(1)
    columns = [(column + tap).clamp_(0, width - 1).long() for tap in range(-1, 3)]
    rows = [(row + tap).clamp_(0, height - 1).long() * width for tap in range(-1, 3)]
    flat = images.flatten(2)

    def value(index: Tensor) -> Tensor:
        return flat.gather(2, index.flatten(1).unsqueeze(1).expand(-1, 3, -1)).view_as(images).double()

    return _cubic(dy, *(_cubic(dx, *(value(r + c) for c in columns)) for r in rows))


def _cubic(t: Tensor, v1: Tensor, v2: Tensor, v3: Tensor, v4: Tensor) -> Tensor:
    """Between v2 and v3, with a = -1: sharper than Pillow's own for resizing, or torch's grid_sample (-0.75)."""
    square = (v1 - v2).mul_(2).add_(v3).sub_(v4)
    cube = (v2 - v1).sub_(v3).add_(v4)
    return cube.mul_(t).add_(square).mul_(t).add_(v3 - v1).mul_(t).add_(v2)


def lookup(images: Tensor, tables: Tensor) -> Tensor:
    """Another value for each value, by a table (256) for each image."""
    return tables.to(torch.uint8).gather(1, images.flatten(1).long()).view_as(images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Levels equally frequent, in each channel; torchvision's kernel is Pillow's for uint8."""
    return equalize_image(images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to 0..255; torchvision's kernel rounds otherwise than Pillow."""
    levels = images.double()
    low, high = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    scale = torch.full_like(low, 255) / (high - low)  # a Python number would be multiplied by the reciprocal
    stretched = (levels * scale + -low * scale).clamp_(0, 255)
    return torch.where(high > low, stretched, levels).to(torch.uint8)


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Away from, or towards, the image in grey."""
    return _blend(_grey(images), images, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Away from, or towards, the mean grey, rounded."""
    grey = _grey(images)
    pixels = grey[0].numel()
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return _blend((2 * total + pixels) // (2 * pixels), images, factors)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Away from, or towards, black."""
    return _blend(torch.zeros((), dtype=torch.int32, device=images.device), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Away from, or towards, the image smoothed; the pixels of its border stay as they are."""
    levels = images.int()
    across = levels[..., :-2] + levels[..., 1:-1] + levels[..., 2:]
    total = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :] + 4 * levels[..., 1:-1, 1:-1]
    smooth = levels.clone()
    smooth[..., 1:-1, 1:-1] = (total + 6) // 13  # weights 1, and 5 in the middle, of 13; rounded
    return _blend(smooth, images, factors)


FUSED = (affine, lookup, equalize, autocontrast, color, contrast, brightness, sharpness)  # in the order of `kernels`


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601's luma, int32 (B, 1, H, W)."""
    red, green, blue = images.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unsqueeze(1)


def _blend(degenerate: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Pillow's `Image.blend`: degenerate + factor * (image - degenerate), in float32, truncated."""
    factor = factors.float().view(-1, 1, 1, 1)
    return (degenerate + factor * (images.int() - degenerate)).clamp_(0, 255).to(torch.uint8)


# --- a kernel's arguments from a magnitude ---------------------------------------------------------------------------


def _nothing(part: Array, sign: Array, canvas: Canvas) -> Array:
    return np.zeros((len(part), 1))


def _rotation(part: Array, sign: Array, canvas: Canvas) -> Array:
    """Up to 30 degrees about the centre."""
    angle = -np.radians(part * 30 * sign)
    cos, sin, half = np.cos(angle).round(15), np.sin(angle).round(15), canvas.size / 2
    return _matrix(canvas, cos, sin, cos * -half + sin * -half + half, -sin, cos, -sin * -half + cos * -half + half)


def _matrix(canvas: Canvas, *coefficients: Any) -> Array:
    """Six coefficients, source x = a x + b y + c and source y = d x + e y + f, and the colour of what lies outside."""
    return np.stack(np.broadcast_arrays(*coefficients, *canvas.fill), 1)


def _enhancement(part: Array, sign: Array, canvas: Canvas) -> Array:
    return (part * 1.8 + 0.1)[:, None]


def _increasing_enhancement(part: Array, sign: Array, canvas: Canvas) -> Array:
    return np.maximum(0.1, 1 + part * 0.9 * sign)[:, None]


def _keep_bits(bits: Array) -> Array:
    lost = 8 - bits.clip(0, 8).astype(np.int64)
    return VALUES >> lost[:, None] << lost[:, None]


def _invert_from(threshold: Array) -> Array:
    return np.where(threshold[:, None] > VALUES, VALUES, 255 - VALUES)


def _solar_addition(part: Array, sign: Array, canvas: Canvas) -> Array:
    added = np.minimum(128, np.trunc(part * 110))[:, None]
    return np.where(VALUES < 128, np.minimum(255, VALUES + added), VALUES)


OPERATIONS: dict[str, tuple[Kernel, Arguments]] = {
    "AutoContrast": (autocontrast, _nothing),
    "Equalize": (equalize, _nothing),
    "Invert": (lookup, lambda part, sign, canvas: np.broadcast_to(255 - VALUES, (len(part), 256))),
    "Rotate": (affine, _rotation),
    "Posterize": (lookup, lambda part, sign, canvas: _keep_bits(np.trunc(part * 4))),
    "PosterizeIncreasing": (lookup, lambda part, sign, canvas: _keep_bits(4 - np.trunc(part * 4))),
    "Solarize": (lookup, lambda part, sign, canvas: _invert_from(np.minimum(256, np.trunc(part * 256)))),
    "SolarizeIncreasing": (lookup, lambda part, sign, canvas: _invert_from(256 - np.minimum(256, np.trunc(part * 256)))),
    "SolarizeAdd": (lookup, _solar_addition),
    "Color": (color, _enhancement),
    "ColorIncreasing": (color, _increasing_enhancement),
    "Contrast": (contrast, _enhancement),
    "ContrastIncreasing": (contrast, _increasing_enhancement),
    "Brightness": (brightness, _enhancement),
    "BrightnessIncreasing": (brightness, _increasing_enhancement),
    "Sharpness": (sharpness, _enhancement),
    "SharpnessIncreasing": (sharpness, _increasing_enhancement),
    "ShearX": (affine, lambda part, sign, canvas: _matrix(canvas, 1, part * 0.3 * sign, 0, 0, 1, 0)),
    "ShearY": (affine, lambda part, sign, canvas: _matrix(canvas, 1, 0, 0, part * 0.3 * sign, 1, 0)),
    "TranslateXRel": (affine, lambda part, sign, canvas: _matrix(canvas, 1, 0, part * 0.45 * sign * canvas.size, 0, 1, 0)),
    "TranslateYRel": (affine, lambda part, sign, canvas: _matrix(canvas, 1, 0, 0, 0, 1, part * 0.45 * sign * canvas.size)),
}
