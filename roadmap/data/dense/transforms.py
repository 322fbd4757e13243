"""What of a picture is seen, at which size: drawn for training, fixed for evaluation; objects and maps go along.

Every recipe here comes down to one box of the stored picture, resized once and perhaps mirrored (`View`). A crop between two
resizings is such a box too, so nothing is interpolated twice and no mask is enlarged to be cut away again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional
from torchvision.tv_tensors import Image, Mask

from roadmap.data.dense.targets import IGNORED, Instances
from roadmap.data.images.inventory import Objects
from roadmap.data.images.scenes import fit_boxes

Array = np.ndarray[Any, Any]
Size = tuple[int, int]  # height and width
Part = TypeVar("Part", Image, Mask)

CROP_TRIES = 10  # at a crop in which no class has more than its share
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 0.1  # of 255; factors; of the circle


@dataclass(frozen=True)
class DetectionTransforms:
    """The paper's for COCO (appendix A.3, after DETR); for small pictures `shorter` is their size and `crop_shorter` empty."""

    shorter: tuple[int, ...] = tuple(range(480, 801, 32))  # pixels of the shorter side, one drawn for each picture
    longest: int = 1333  # pixels, the most that the longer side gets by it
    crop_shorter: tuple[int, ...] = (400, 500, 600)  # half the pictures are resized to one of these and cut first; empty: none
    crop_sides: tuple[int, int] = (384, 600)  # least and most of that crop's height and width
    # In place of all these: scale to `canvas`, times a factor from here, cut and padded.
    jitter: tuple[float, float] | None = None
    canvas: int = 1024
    hflip: float = 0.5
    test_shorter: int = 800
    test_longest: int = 1333


@dataclass(frozen=True)
class SegmentationTransforms:
    """The paper's for ADE20K (appendix A.3)."""

    scale: Size = (2048, 512)  # the most of the longer and of the shorter side, before `ratios`; evaluation's scale
    ratios: tuple[float, float] = (0.5, 2.0)
    crop: int = 512  # pixels of a side; what is smaller is padded
    most_of_one: float = 0.75  # of a crop, that one class may have; 1: any
    hflip: float = 0.5
    distortion: bool = True  # of brightness, contrast, saturation and hue


class View(NamedTuple):
    """A box of a picture, in its pixels, and how it is shown."""

    top: int
    left: int
    height: int
    width: int
    shown: Size
    mirrored: bool = False


# --- views: drawn ----------------------------------------------------------------------------------------------------


def detection_view(settings: DetectionTransforms, size: Size, random: np.random.Generator) -> View:
    """What a training picture of this size shows."""
    mirrored = bool(random.random() < settings.hflip)
    if settings.jitter is not None:
        scale = random.uniform(*settings.jitter) * settings.canvas / max(size)
        return _cut(size, _times(size, scale), (settings.canvas, settings.canvas), random)._replace(mirrored=mirrored)
    view = View(0, 0, *size, size)
    if settings.crop_shorter and random.random() < 0.5:
        resized = fitting(size, int(random.choice(settings.crop_shorter)), None)
        least, most = settings.crop_sides
        sides = [int(random.integers(min(side, least), min(side, most) + 1)) for side in resized]
        view = _cut(size, resized, (sides[0], sides[1]), random)
    shown = fitting(view.shown, int(random.choice(settings.shorter)), settings.longest)
    return view._replace(shown=shown, mirrored=mirrored)


def segmentation_view(settings: SegmentationTransforms, classes: Array, random: np.random.Generator) -> View:
    """What a training picture with this map (H, W) shows: the first of ten crops in which no class has too large a share."""
    ratio, size = random.uniform(*settings.ratios), (classes.shape[0], classes.shape[1])
    mirrored = bool(random.random() < settings.hflip)
    longest, shorter = settings.scale
    resized = fitting(size, ratio * shorter, ratio * longest)
    for _ in range(CROP_TRIES):
        view = _cut(size, resized, (settings.crop, settings.crop), random)
        seen = classes[view.top : view.top + view.height, view.left : view.left + view.width]
        counts = np.bincount(seen.ravel(), minlength=IGNORED + 1)[:IGNORED]
        if settings.most_of_one >= 1 or counts.max() < settings.most_of_one * max(counts.sum(), 1):
            break
    return view._replace(mirrored=mirrored)


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
    settings: DetectionTransforms, pixels: Image, objects: Objects, index: int, random: np.random.Generator
) -> tuple[Tensor, Instances]:
    """A picture (3, h, w) uint8 and its objects; under `jitter` these lie on the whole canvas, which the picture may not fill."""
    view = detection_view(settings, _size(pixels), random)
    target = show_objects(objects, view, index)
    if settings.jitter is not None:
        target = target._replace(masks=pad(target.masks, (settings.canvas, settings.canvas)), size=(settings.canvas,) * 2)
    return show(pixels, view).as_subclass(Tensor), target


def test_detection(
    settings: DetectionTransforms, pixels: Image, objects: Objects, index: int, random: object = None
) -> tuple[Tensor, Instances]:
    """A picture resized, (3, h, w) uint8, and its objects as they are stored, crowds too."""
    boxes, labels, masks, crowd, areas = map(torch.from_numpy, objects)
    return show_whole(settings, pixels), Instances(boxes, labels, masks, crowd, _size(pixels), index, areas)


def show_whole(settings: DetectionTransforms | SegmentationTransforms, pixels: Image) -> Tensor:
    """A picture (3, h, w) uint8 as it is scored."""
    if isinstance(settings, DetectionTransforms):
        shorter, longest = settings.test_shorter, settings.test_longest
    else:
        longest, shorter = settings.scale
    size = _size(pixels)
    return show(pixels, View(0, 0, *size, fitting(size, shorter, longest))).as_subclass(Tensor)


def train_segmentation(
    settings: SegmentationTransforms, pixels: Image, classes: Array, index: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A picture (3, h, w) uint8 of at most `crop` pixels a side, and its map, padded to (crop, crop)."""
    view = segmentation_view(settings, classes, random)
    seen = show(pixels, view).as_subclass(Tensor)
    shown = show(Mask(torch.from_numpy(classes)[None]), view).as_subclass(Tensor)[0]
    if settings.distortion:
        seen = distort(seen, random)
    return seen, pad(shown, (settings.crop, settings.crop), IGNORED)


def test_segmentation(
    settings: SegmentationTransforms, pixels: Image, classes: Array, index: int, random: object = None
) -> tuple[Tensor, Tensor]:
    """A picture resized, (3, h, w) uint8, and its map (H, W) as it is stored."""
    return show_whole(settings, pixels), torch.from_numpy(classes)


def pad(part: Tensor, size: Size, value: float = 0) -> Tensor:
    """The last two sides made `size` long, below and to the right."""
    return torch.nn.functional.pad(part, (0, size[1] - part.shape[-1], 0, size[0] - part.shape[-2]), value=value)


def distort(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Each with probability 1/2: brightness, contrast (now or last), saturation and hue changed; (3, h, w) uint8 to the same."""
    contrast_last = random.random() < 0.5
    for change in _changes(contrast_last):
        amount = random.random()
        if random.random() < 0.5:
            pixels = change(pixels, amount)
    return pixels


def _changes(contrast_last: bool) -> Iterator[Callable[[Tensor, float], Tensor]]:
    def contrast(pixels: Tensor, amount: float) -> Tensor:
        return (pixels * _between(CONTRAST, amount)).clamp(0, 255).to(torch.uint8)

    yield lambda pixels, amount: (pixels + _between((-BRIGHTNESS, BRIGHTNESS), amount)).clamp(0, 255).to(torch.uint8)
    if not contrast_last:
        yield contrast
    yield lambda pixels, amount: functional.adjust_saturation(pixels, _between(SATURATION, amount))
    yield lambda pixels, amount: functional.adjust_hue(pixels, _between((-HUE, HUE), amount))
    if contrast_last:
        yield contrast


def _between(limits: tuple[float, float], amount: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * amount


def _size(pixels: Tensor) -> Size:
    return pixels.shape[-2], pixels.shape[-1]
