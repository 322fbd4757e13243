"""What of a picture is seen, at which size: drawn for training, fixed for evaluation; objects and maps go along.

Every recipe here comes down to one box of the stored picture, resized once and perhaps mirrored (`View`). A crop between two
resizings is such a box too, so nothing is interpolated twice and no mask is enlarged to be cut away again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional
from torchvision.tv_tensors import Image, Mask

from roadmap.config.schema import DataConfig, RecipeConfig
from roadmap.data.dense.targets import Instances
from roadmap.data.images.inventory import IGNORED, Objects
from roadmap.data.images.scenes import fit_boxes

Array = np.ndarray[Any, Any]
Size = tuple[int, int]  # height and width
Part = TypeVar("Part", Image, Mask)

UNBOUNDED = 2**16  # pixels, of a longer side that nothing bounds
CROP_TRIES = 10  # at a crop in which no class has more than its share


class View(NamedTuple):
    """A box of a picture, in its pixels, and how it is shown."""

    top: int
    left: int
    height: int
    width: int
    shown: Size
    mirrored: bool = False


# --- views: drawn ----------------------------------------------------------------------------------------------------


def detection_view(data: DataConfig, recipe: RecipeConfig, size: Size, random: np.random.Generator) -> View:
    """What a training picture of this size shows."""
    mirrored = bool(random.random() < data.hflip)
    if recipe.jitter:
        (low, high), side = recipe.jitter, crop_side(data, recipe)
        scale = random.uniform(low, high) * side / max(size)
        return _cut(size, _times(size, scale), (side, side), random)._replace(mirrored=mirrored)
    view = View(0, 0, *size, size)
    if recipe.crop_sides and random.random() < 0.5:
        resized = fitting(size, int(random.choice(recipe.crop_sides)), None)
        least, most = recipe.crop_range
        sides = [int(random.integers(min(side, least), min(side, most) + 1)) for side in resized]
        view = _cut(size, resized, (sides[0], sides[1]), random)
    shorter = int(random.choice(recipe.short_sides or [data.image_size]))
    return view._replace(shown=fitting(view.shown, shorter, data.longest_side or UNBOUNDED), mirrored=mirrored)


def segmentation_view(data: DataConfig, recipe: RecipeConfig, classes: Array, random: np.random.Generator) -> View:
    """What a training picture with this map (H, W) shows: the first of ten crops in which no class has too large a share."""
    low, high = recipe.jitter or (1.0, 1.0)
    ratio, size = random.uniform(low, high), (classes.shape[0], classes.shape[1])
    mirrored = bool(random.random() < data.hflip)
    resized = fitting(size, ratio * data.image_size, ratio * (data.longest_side or UNBOUNDED))
    side, share = crop_side(data, recipe), recipe.class_share or 1.0
    for _ in range(CROP_TRIES):
        view = _cut(size, resized, (side, side), random)
        seen = classes[view.top : view.top + view.height, view.left : view.left + view.width]
        counts = np.bincount(seen.ravel(), minlength=IGNORED + 1)[:IGNORED]
        if share >= 1 or counts.max() < share * max(counts.sum(), 1):
            break
    return view._replace(mirrored=mirrored)


def crop_side(data: DataConfig, recipe: RecipeConfig) -> int:
    """Pixels a side of what is cut out and padded, where anything is."""
    return recipe.crop_size or data.image_size


def fitting(size: Size, shorter: float, longest: float | None) -> Size:
    """The size at which the shorter side is so long, or less where the longer side would be longer than `longest`."""
    scale = shorter / min(size)
    return _times(size, scale if longest is None else min(scale, longest / max(size)))


def _times(size: Size, scale: float) -> Size:
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def _cut(size: Size, resized: Size, most: Size, random: np.random.Generator) -> View:
    """A box of at most `most` pixels, at a random place of the picture as it would be resized."""
    spans = []
    for side, scaled, limit in zip(size, resized, most, strict=True):
        shown = min(scaled, limit)
        first = int(random.integers(scaled - shown + 1))
        start, end = round(first * side / scaled), round((first + shown) * side / scaled)
        start = min(start, side - 1)
        spans.append((start, max(1, end - start), shown))
    (top, height, tall), (left, width, wide) = spans
    return View(top, left, height, width, (tall, wide))


# --- views: shown ----------------------------------------------------------------------------------------------------


def show(part: Part, view: View) -> Part:
    """What the view shows of a picture (3, H, W) or of masks (n, H, W): bilinear with antialiasing, or the nearest pixel."""
    if not part.shape[0]:
        return type(part)(part.new_zeros((0, *view.shown)))
    # Of a tv_tensor's mask torchvision takes the pixel before the nearest, which moves it by up to half a pixel.
    how = InterpolationMode.NEAREST_EXACT if isinstance(part, Mask) else InterpolationMode.BILINEAR
    box = view.top, view.left, view.height, view.width
    seen = functional.resized_crop(part.as_subclass(Tensor), *box, list(view.shown), how, antialias=True)
    return type(part)(seen.flip(-1) if view.mirrored else seen)


def show_objects(objects: Objects, view: View, index: int) -> Instances:
    """The objects that the view shows, without crowds and what is empty, in the pixels of the view.

    Boxes that the view cuts are fitted to what is left of their mask, and are gone with it; others are moved and scaled.
    """
    scale = np.array(view.shown) / (view.height, view.width)
    moved = (objects.boxes - np.tile((view.left, view.top), 2)) * np.tile(scale[::-1], 2)
    limits = np.tile(view.shown[::-1], 2)
    clipped = moved.clip(0, limits)
    chosen = (clipped[:, 2:] > clipped[:, :2]).all(1) & ~objects.crowd
    masks = show(Mask(torch.from_numpy(objects.masks[chosen])), view._replace(mirrored=False)).as_subclass(Tensor)
    boxes, moved = clipped[chosen], moved[chosen]
    cut = ((moved < -0.5) | (moved > limits + 0.5)).any(1)
    boxes[cut] = fit_boxes(masks.numpy()[cut])
    if view.mirrored:
        boxes[:, [0, 2]] = view.shown[1] - boxes[:, [2, 0]]
        masks = masks.flip(2)
    left = masks.flatten(1).any(1).bool().numpy() & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    labels, kept = torch.from_numpy(objects.labels[chosen][left]), torch.from_numpy(left)
    crowd = torch.zeros(len(labels), dtype=torch.bool)
    return Instances(torch.from_numpy(boxes[left]).float(), labels, masks[kept], crowd, view.shown, index)


# --- training and evaluation -----------------------------------------------------------------------------------------


def train_detection(
    data: DataConfig, recipe: RecipeConfig, pixels: Image, objects: Objects, index: int, random: np.random.Generator
) -> tuple[Tensor, Instances]:
    """A picture (3, h, w) uint8 and its objects; under `jitter` these lie on the whole canvas, which the picture may not fill."""
    view = detection_view(data, recipe, _size(pixels), random)
    target = show_objects(objects, view, index)
    if recipe.jitter:
        canvas = (crop_side(data, recipe),) * 2
        target = target._replace(masks=pad(target.masks, canvas), size=canvas)
    return show(pixels, view).as_subclass(Tensor), target


def test_detection(
    data: DataConfig, recipe: RecipeConfig, pixels: Image, objects: Objects, index: int, random: object
) -> tuple[Tensor, Instances]:
    """A picture resized, (3, h, w) uint8, and its objects as they are stored, crowds too."""
    boxes, labels, masks, crowd, areas = map(torch.from_numpy, objects)
    return show_whole(data, pixels), Instances(boxes, labels, masks, crowd, _size(pixels), index, areas)


def show_whole(data: DataConfig, pixels: Image) -> Tensor:
    """A picture (3, h, w) uint8 as it is scored."""
    size = _size(pixels)
    shown = fitting(size, data.image_size, data.longest_side or UNBOUNDED)
    return show(pixels, View(0, 0, *size, shown)).as_subclass(Tensor)


def train_segmentation(
    data: DataConfig, recipe: RecipeConfig, pixels: Image, classes: Array, index: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A picture (3, h, w) uint8 of at most `crop_side` pixels a side, and its map, padded to it."""
    view, side = segmentation_view(data, recipe, classes, random), crop_side(data, recipe)
    seen = show(pixels, view).as_subclass(Tensor)
    shown = show(Mask(torch.from_numpy(classes)[None]), view).as_subclass(Tensor)[0]
    if recipe.photometric:
        seen = distort(seen, random)
    return seen, pad(shown, (side, side), IGNORED)


def test_segmentation(
    data: DataConfig, recipe: RecipeConfig, pixels: Image, classes: Array, index: int, random: object
) -> tuple[Tensor, Tensor]:
    """A picture resized, (3, h, w) uint8, and its map (H, W) as it is stored."""
    return show_whole(data, pixels), torch.from_numpy(classes)


def pad(part: Tensor, size: Size, value: float = 0) -> Tensor:
    """The last two sides made `size` long, below and to the right."""
    return torch.nn.functional.pad(part, (0, size[1] - part.shape[-1], 0, size[0] - part.shape[-2]), value=value)


def distort(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Each with probability 1/2: brightness, contrast (now or last), saturation and hue changed; (3, h, w) uint8 to the same."""
    changes = list(DISTORTIONS)
    if random.random() < 0.5:
        changes.append(changes.pop(1))
    for (low, high), change in changes:
        amount = low + (high - low) * random.random()
        if random.random() < 0.5:
            pixels = change(pixels, amount)
    return pixels


def _as_bytes(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 255).to(torch.uint8)


DISTORTIONS: tuple[tuple[tuple[float, float], Callable[[Tensor, float], Tensor]], ...] = (
    ((-32, 32), lambda pixels, added: _as_bytes(pixels + added)),  # brightness, of 255
    ((0.5, 1.5), lambda pixels, factor: _as_bytes(pixels * factor)),  # contrast
    ((0.5, 1.5), functional.adjust_saturation),
    ((-0.1, 0.1), functional.adjust_hue),  # of the circle
)


def _size(pixels: Tensor) -> Size:
    return pixels.shape[-2], pixels.shape[-1]
