"""A data set that fits on the device: decoded once, kept there, and augmented there in batches.

It takes the place of the loaders where decoding would be what a run waits for. Chance comes from other generators than
the loaders', so the two give different pictures of one distribution; either gives the same pictures whatever the batch,
the number of processes or the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Experiment, Pipeline, RecipeConfig
from roadmap.data.batches import Batch, Batches, ahead, indices_of
from roadmap.data.device import augment
from roadmap.data.device.augment import Array, Finish, send
from roadmap.data.device.randaugment import CHOICE, RandAugment
from roadmap.data.images.inventory import Inventory
from roadmap.data.images.sources import reader
from roadmap.data.loader import val_transform

CROPPING, CHOOSING = 1, 2  # what chance is for, with `augment.FINISHING`: to switch one off changes nothing in the others


class Resident:
    """The two splits of a run, on the device.

    Args:
        experiment: The run.
        found: The images.
        train_batches: This process's micro-batches of training.
        val_batches: Likewise of evaluation.
        device: Where the images are kept and the batches are made.

    Raises:
        Refused: for a picture that cannot be decoded, with its path.

    """

    def __init__(
        self, experiment: Experiment, found: Inventory, train_batches: Batches, val_batches: Batches, device: torch.device
    ) -> None:
        data, self.name, self.updates = experiment.data, Pipeline.device, train_batches.updates
        self.train_batches, self.val_batches, self.device = train_batches, val_batches, device
        self.augmentation = Augmentation(data, experiment.recipe, experiment.seed, device)
        self.train = decode(data, found, device)
        self.val, self.val_targets = _evaluation_split(data, found, device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of this process in an epoch, from those of update `start` on.

        Yields:
            Images (B, 3, S, S) float32, normalised, channels last, and classes (B,) int64, on the device.

        """
        self.train_batches.epoch, self.train_batches.start = epoch, start
        return ahead(self._training(epoch), self.device)

    def evaluation(self) -> Iterator[Batch]:
        """The share of this process in the evaluation split, every image once, in order; in the form of `epoch`'s batches."""
        for keys in self.val_batches:
            index = send(indices_of(keys), self.device)
            yield self.augmentation.finish(self.val.index_select(0, index)), self.val_targets.index_select(0, index)

    def _training(self, epoch: int) -> Iterator[Batch]:
        draws = self.augmentation.draw(epoch, len(self.train.starts))
        for keys in self.train_batches:
            indices = indices_of(keys)
            images = self.augmentation(self.train, indices, draws)
            yield images, self.train.targets.index_select(0, send(indices, self.device))


class Draws(NamedTuple):
    """The chance of an epoch: tables with a row for each image; None for what the recipe leaves out."""

    crop: Array
    choice: Array | None
    erasing: Array | None


class Augmentation:
    """A recipe's augmentation: random resized crop, flip, RandAugment, normalisation, random erasing, as in Table 5."""

    def __init__(self, data: DataConfig, recipe: RecipeConfig, seed: int, device: torch.device) -> None:
        self.size, self.hflip, self.seed, self.crop_scale = data.image_size, data.hflip, seed, recipe.crop_scale
        self.randaugment = RandAugment(recipe.randaugment, data.image_size, data.mean) if recipe.randaugment else None
        self.finish = Finish(data, recipe, seed, device)

    def draw(self, epoch: int, size: int) -> Draws:
        """The chance of an epoch for a data set of `size` images, a function of (seed, epoch, index)."""
        key = self.seed, epoch
        crop = augment.draws(augment.CROP, (size,), *key, CROPPING)
        choice = augment.draws(CHOICE, (size, self.randaugment.layers), *key, CHOOSING) if self.randaugment else None
        return Draws(crop, choice, self.finish.draw(epoch, size))

    def __call__(self, pictures: Pictures, indices: Array, draws: Draws) -> Tensor:
        """The pictures of these indices as a training batch (B, 3, S, S): float32, normalised, channels last."""
        crop, heights, widths = draws.crop[indices], pictures.heights[indices], pictures.widths[indices]
        boxes = augment.crop_boxes(crop, heights, widths, self.crop_scale)
        flips = crop["flip"] < self.hflip
        images = augment.resized_crops(pictures.pixels, pictures.starts[indices], widths, boxes, flips, self.size)
        if self.randaugment and draws.choice is not None:
            images = self.randaugment(images, draws.choice[indices])
        return self.finish(images, None if draws.erasing is None else draws.erasing[indices])


# --- decoding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures of any sizes: their pixels on the device, one picture after another and row by row; sizes on the host."""

    pixels: Tensor  # (P, 3) uint8
    targets: Tensor  # (N,) int64, on the device
    starts: Array  # number of each picture's first pixel (N,)
    heights: Array  # (N,)
    widths: Array  # (N,)


def decode(data: DataConfig, found: Inventory, device: torch.device) -> Pictures:
    """The training split, decoded; each picture straight to its place on the device, by as many threads as there are CPUs.

    Raises:
        Refused: for a picture that cannot be decoded, with its path.

    """
    sizes = _sizes(found)
    ends = np.cumsum(sizes.prod(1))
    starts = ends - sizes.prod(1)
    pixels = torch.empty((int(ends[-1]), 3), dtype=torch.uint8, device=device)
    read = reader(data, found, "train")

    def place(index: int) -> int:
        image, target = read(index)
        pixels[starts[index] : ends[index]] = _pixels(image).view(-1, 3)
        return target

    targets = _threaded(place, range(found.train.size))
    return Pictures(pixels, torch.tensor(targets, device=device), starts, *sizes.T)


def _evaluation_split(data: DataConfig, found: Inventory, device: torch.device) -> tuple[Tensor, Tensor]:
    """The evaluation split as the loaders' own transform leaves it: (N, 3, S, S) uint8, and classes."""
    read, transform, size = reader(data, found, "val"), val_transform(data), data.image_size
    images = torch.empty((found.val.size, 3, size, size), dtype=torch.uint8, device=device)

    def place(index: int) -> int:
        image, target = read(index)
        images[index] = torch.as_tensor(transform(image))
        return target

    targets = _threaded(place, range(found.val.size))
    return images, torch.tensor(targets, device=device)


def bytes_needed(data: DataConfig, found: Inventory) -> int:
    """Memory that `Resident` keeps, from the pictures' headers alone: the training split decoded, the other at its final size.

    Raises:
        Refused: for a picture whose header cannot be read, with its path.

    """
    return 3 * (int(_sizes(found).prod(1).sum()) + found.val.size * data.image_size**2)


def _sizes(found: Inventory) -> Array:
    """Heights and widths of the training pictures (N, 2)."""
    if found.picture_size is not None:
        return np.full((found.train.size, 2), found.picture_size)
    return np.array(_threaded(_size, [path for path, _ in found.train.files]))


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"{path}: cannot be decoded: {error}") from error


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def _threaded(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))
