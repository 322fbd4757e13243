"""Scenes of scikit-learn's handwritten digits: objects and maps without a download. No torch here.

Each scene is a noisy background with two to five digits of varied size on it, later ones in front of earlier ones. The
scenes of a split show the digits of that split alone, and each depends on the split and its number only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from roadmap.config.schema import DataConfig
from roadmap.data.images.arrays import Digits
from roadmap.data.images.inventory import Inventory, MapReader, ObjectReader, Objects, Split

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

RULES = 1  # a higher number when the same seed makes other scenes
SIZE = 96  # pixels of a side
SCENES = {"train": 400, "val": 200}
DIGITS = (2, 5)  # in a scene, least and most
SIDES = (20, 44)  # pixels of a digit's square, whose margins are empty
OVERLAP = 0.25  # of the smaller of two boxes, the most that lies in the other
TRIES = 10  # at a place for a digit, which is left out after that
SOLID = 96  # of 255: a digit's pixels from here on belong to its mask
BACKGROUND = 10  # the class of pixels that belong to no digit


class Scene(NamedTuple):
    """One picture with its digits."""

    picture: Image  # RGB, SIZE x SIZE
    objects: Objects


class Scenes:
    """Digits in scenes: 400 to train on, 200 to score."""

    def list_images(self, data: DataConfig) -> Inventory:
        """Known without looking."""
        names = tuple("0123456789")
        splits = Split(SCENES["train"]), Split(SCENES["val"])
        return Inventory(None, names, *splits, picture_size=SIZE, map_classes=(*names, "background"))

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Of the digits and the rules by which scenes are made."""
        rules = [RULES, SIZE, SCENES, DIGITS, SIDES, OVERLAP, TRIES, SOLID]
        return hashlib.sha256(f"{Digits().fingerprint(data, inventory)} {rules}".encode()).hexdigest()[:16]

    def object_reader(self, data: DataConfig, inventory: Inventory, split: str) -> ObjectReader:
        """All scenes are made when the first is asked for, in about a second."""
        return SceneReader(inventory.split(split), split).objects

    def map_reader(self, data: DataConfig, inventory: Inventory, split: str) -> MapReader:
        """The same scenes."""
        return SceneReader(inventory.split(split), split).map


class SceneReader:
    """The scenes of one split, in memory; what is held out comes from the training split."""

    def __init__(self, split: Split, name: str) -> None:
        self.numbers = range(split.size) if split.chosen is None else split.chosen
        self.name = name if split.chosen is None else "train"

    def objects(self, index: int) -> tuple[Image, Objects]:
        """A scene and its digits."""
        return scenes(self.name)[self.numbers[index]]

    def map(self, index: int) -> tuple[Image, np.ndarray[Any, Any]]:
        """A scene and its pixels' classes: a digit, or `BACKGROUND`."""
        import numpy as np

        picture, objects = self.objects(index)
        classes = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
        for mask, label in zip(objects.masks, objects.labels, strict=True):
            classes[mask > 0] = label
        return picture, classes


@cache
def scenes(split: str) -> list[Scene]:
    """The whole split `train` or `val`, made once by a process."""
    pixels, targets = Digits().arrays(split)
    return [make_scene(pixels, targets, list(SCENES).index(split), number) for number in range(SCENES[split])]


def make_scene(pixels: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], *key: int) -> Scene:
    """A scene of some of these digits (N, 8, 8), whose classes are `targets` (N,), from `key` alone."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(key)
    picture = random.uniform(30, 110, 3) + random.normal(0, 14, (SIZE, SIZE, 3))
    masks: list[np.ndarray[Any, Any]] = []
    boxes: list[np.ndarray[Any, Any]] = []  # of whole digits
    labels: list[int] = []
    for chosen in random.integers(len(pixels), size=random.integers(DIGITS[0], DIGITS[1] + 1)):
        colour = random.uniform(150, 255) + random.uniform(-25, 25, 3)
        for opacity in _placements(pixels[chosen], random):
            mask = opacity >= SOLID
            box = fit_boxes(mask[None])[0]
            if all(_overlap(box, other) <= OVERLAP for other in boxes):
                masks = [*(before & ~mask for before in masks), mask]
                boxes, labels = [*boxes, box], [*labels, int(targets[chosen])]
                picture += (colour - picture) * (opacity[..., None] / 255)
                break
    stacked = np.array(masks)
    crowd = np.zeros(len(masks), bool)
    objects = Objects(fit_boxes(stacked), np.array(labels), stacked.astype(np.uint8), crowd, stacked.sum((1, 2)).astype(float))
    return Scene(Image.fromarray(picture.round().clip(0, 255).astype(np.uint8)), objects)


def _placements(digit: np.ndarray[Any, Any], random: np.random.Generator) -> Iterator[np.ndarray[Any, Any]]:
    """The digit at one size and at random places, as the opacity 0..255 of each pixel of the scene."""
    import numpy as np
    from PIL import Image

    side = int(random.integers(SIDES[0], SIDES[1] + 1))
    large = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))
    for top, left in random.integers(SIZE - side + 1, size=(TRIES, 2)):
        opacity = np.zeros((SIZE, SIZE))
        opacity[top : top + side, left : left + side] = large
        yield opacity


def _overlap(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """What the smaller of two boxes has in common with the other, as a share of it."""
    import numpy as np

    common = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return common.clip(0).prod() / min((box[2:] - box[:2]).prod() for box in (one, other))


def fit_boxes(masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The boxes (n, 4) around masks (n, H, W): left, top, right, bottom in pixels; 0 0 0 0 around an empty one."""
    import numpy as np

    sides = []
    for touched in (np.asarray(masks.any(1)), np.asarray(masks.any(2))):  # columns, then rows
        sides += [touched.argmax(1), touched.shape[1] - touched[:, ::-1].argmax(1)]
    left, right, top, bottom = sides
    return np.stack([left, top, right, bottom], 1) * np.asarray(masks.any((1, 2)), float)[:, None]
