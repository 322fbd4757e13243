"""From an index to a picture and its class: always the same picture for the same index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Source
from roadmap.data.images.sources import DIGITS_HELD_OUT, Inventory, Split


def reader(data: DataConfig, found: Inventory, split: str) -> Callable[[int], tuple[Image.Image, int]]:
    """How one split is read: by index, always the same picture for the same index."""
    part = found.train if split == "train" else found.val
    if data.source not in (Source.digits, Source.cifar10, Source.cifar100):
        return _Files(part)
    arrays = (_digits if data.source == Source.digits else _cifar)(data, found, split if part.chosen is None else "train")
    return arrays if part.chosen is None else arrays.only(part.chosen)


class _Files:
    """Pictures in files; one that cannot be decoded ends the run with its path."""

    def __init__(self, split: Split) -> None:
        self.files = split.files

    def __call__(self, index: int) -> tuple[Image.Image, int]:
        path, target = self.files[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB"), target
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(f"{path}: cannot be decoded: {error}") from error


class _Arrays:
    """Pictures in memory: uint8, (N, H, W) or (N, H, W, 3), each with the number of its class."""

    def __init__(self, data: DataConfig, images: np.ndarray[Any, Any], targets: Sequence[int], classes: int) -> None:
        self.images, self.targets = images, [int(target) for target in targets]
        for index, target in enumerate(self.targets):
            if not 0 <= target < classes:
                raise Refused(f"data={data.source}: image {index} is of class {target}; must be 0 to {classes - 1}")
        if len(images) != len(self.targets):
            raise Refused(f"data={data.source}: {len(images)} images with {len(self.targets)} classes; must be equally many")

    def only(self, chosen: Sequence[int]) -> _Arrays:
        """Those images, in that order."""
        self.images, self.targets = self.images[list(chosen)], [self.targets[index] for index in chosen]
        return self

    def __call__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]).convert("RGB"), self.targets[index]


def _digits(data: DataConfig, found: Inventory, split: str) -> _Arrays:
    """scikit-learn's digits, 0..16 stretched to 0..255; of every five images of a class two are for evaluation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = np.zeros(len(digits.target), dtype=bool)
    for target in range(10):
        (members,) = np.nonzero(digits.target == target)
        held_out[members] = np.isin(np.arange(len(members)) % 5, DIGITS_HELD_OUT)
    chosen = held_out if split == "val" else ~held_out
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    return _Arrays(data, pixels[chosen], digits.target[chosen], len(found.classes))


def _cifar(data: DataConfig, found: Inventory, split: str) -> _Arrays:
    """A pickle can run anything: torchvision opens these only after it has found their MD5 right."""
    from torchvision import datasets

    kind = datasets.CIFAR10 if data.source == Source.cifar10 else datasets.CIFAR100
    try:
        content = kind(str(found.root), train=split == "train")
    except (OSError, RuntimeError) as error:
        raise Refused(f"data.path={found.root}: {data.source} cannot be read: {error}") from error
    return _Arrays(data, content.data, content.targets, len(found.classes))
