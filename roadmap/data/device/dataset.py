"""A data set that fits on the device: decoded once, kept there, and augmented there in batches.

For where a run would wait for decoding. It draws from other generators than the loaders do, so the two give different
pictures of one distribution; either gives the same pictures whatever the batch, the number of processes or the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from roadmap.config.schema import DataConfig, Pipeline, RecipeConfig
from roadmap.data.batches import BatchPlan, InputPipeline, LabelledImages, indices_of
from roadmap.data.device import augment
from roadmap.data.device.augment import Array, NormalizeAndErase, send
from roadmap.data.device.randaugment import CHOICE, RandAugment
from roadmap.data.images.inventory import Inventory
from roadmap.data.images.readers import size
from roadmap.data.images.sources import reader
from roadmap.data.transforms import val_transform

CROPPING, CHOOSING = 1, 2  # keys of random tables, with `augment.ERASES`: to switch one off changes nothing in the others


class DeviceDataset(InputPipeline):
    """The two splits of a run, on the device; Refused for a picture that cannot be decoded, with its path."""

    name = Pipeline.device

    def __init__(self, plan: BatchPlan) -> None:
        data, recipe, self.device = plan.data, plan.recipe, plan.device
        self.train_batches, self.val_batches = plan.samplers(data.image_size**2)
        last = NormalizeAndErase(data, recipe, plan.seed, plan.device, plan.memory_format)
        self.augmentation = Augmentation(data, recipe, plan.seed, last)
        self.train = decode(data, plan.inventory, self.device)
        self.val, self.val_targets = _evaluation_split(data, plan.inventory, self.device)

    def evaluation(self) -> Iterator[LabelledImages]:
        """See `InputPipeline.evaluation`."""
        for keys in self.val_batches:
            index = send(indices_of(keys), self.device)
            images = self.augmentation.normalize_and_erase(self.val.index_select(0, index))
            yield LabelledImages(images, self.val_targets.index_select(0, index))

    def _training(self, epoch: int) -> Iterator[LabelledImages]:
        draws = self.augmentation.draw(epoch, len(self.train.starts))
        for keys in self.train_batches:
            indices = indices_of(keys)
            images = self.augmentation(self.train, indices, draws)
            yield LabelledImages(images, self.train.targets.index_select(0, send(indices, self.device)))


class Draws(NamedTuple):
    """The random numbers of an epoch: tables with a row for each image; None for what the recipe leaves out."""

    crop: Array
    choice: Array | None
    erasing: Array | None


class Boxes(NamedTuple):
    """Boxes in pictures, as `augment.resized_crops` takes them."""

    pixels: Tensor  # of all pictures, row after row (P, 3)
    starts: Array  # number of the first pixel of each picture (B,)
    strides: Array  # width of each picture (B,)
    boxes: Array  # top, left, height and width (B, 4)


class Augmentation:
    """A recipe's augmentation: random resized crop, flip, RandAugment, normalisation, random erasing, as in Table 5."""

    def __init__(self, data: DataConfig, recipe: RecipeConfig, seed: int, normalize_and_erase: NormalizeAndErase) -> None:
        self.size, self.hflip, self.seed, self.crop_scale = data.image_size, data.hflip, seed, recipe.crop_scale
        self.randaugment = RandAugment(recipe.randaugment, data.image_size, data.mean) if recipe.randaugment else None
        self.normalize_and_erase = normalize_and_erase

    def draw(self, epoch: int, size: int) -> Draws:
        """The random numbers of an epoch for a data set of `size` images, a function of (seed, epoch, index)."""
        key = self.seed, epoch
        crop = augment.draws(augment.CROP, (size,), *key, CROPPING)
        choice = augment.draws(CHOICE, (size, self.randaugment.layers), *key, CHOOSING) if self.randaugment else None
        return Draws(crop, choice, self.normalize_and_erase.draw(epoch, size))

    def __call__(self, pictures: Pictures, indices: Array, draws: Draws) -> Tensor:
        """The pictures of these indices as training images (B, 3, S, S): float32, normalised."""
        heights, widths = pictures.heights[indices], pictures.widths[indices]
        boxes = augment.crop_boxes(draws.crop[indices], heights, widths, self.crop_scale)
        return self.of_boxes(Boxes(pictures.pixels, pictures.starts[indices], widths, boxes), indices, draws)

    def of_boxes(self, boxes: Boxes, indices: Array, draws: Draws) -> Tensor:
        """The same from boxes that are cut out already, those of the pictures of these indices."""
        images = augment.resized_crops(*boxes, draws.crop["flip"][indices] < self.hflip, self.size)
        if self.randaugment and draws.choice is not None:
            images = self.randaugment(images, draws.choice[indices])
        return self.normalize_and_erase(images, None if draws.erasing is None else draws.erasing[indices])


# --- decoding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures of any sizes: their pixels on the device, one picture after another and row by row; sizes on the host."""

    pixels: Tensor  # (P, 3) uint8
    targets: Tensor  # (N,) int64, on the device
    starts: Array  # number of each picture's first pixel (N,)
    heights: Array  # (N,)
    widths: Array  # (N,)


def decode(data: DataConfig, inventory: Inventory, device: torch.device) -> Pictures:
    """Decode the training split, each picture straight to where it stays on the device, in as many threads as there are CPUs.

    Refused for a picture that cannot be decoded, with its path.
    """
    sizes = _sizes(inventory)
    ends = np.cumsum(sizes.prod(1))
    starts = ends - sizes.prod(1)
    pixels = torch.empty((int(ends[-1]), 3), dtype=torch.uint8, device=device)
    read = reader(data, inventory, "train")

    def copy(index: int) -> int:
        image, target = read(index)
        pixels[starts[index] : ends[index]] = torch.from_numpy(np.array(image)).view(-1, 3)
        return target

    targets = _threaded(copy, range(inventory.train.size))
    return Pictures(pixels, torch.tensor(targets, device=device), starts, *sizes.T)


def _evaluation_split(data: DataConfig, inventory: Inventory, device: torch.device) -> tuple[Tensor, Tensor]:
    """The evaluation split as the loaders' own transform leaves it: (N, 3, S, S) uint8, and classes (N,)."""
    read, transform, size = reader(data, inventory, "val"), val_transform(data), data.image_size
    images = torch.empty((inventory.val.size, 3, size, size), dtype=torch.uint8, device=device)

    def copy(index: int) -> int:
        image, target = read(index)
        images[index] = torch.as_tensor(transform(image))
        return target

    targets = _threaded(copy, range(inventory.val.size))
    return images, torch.tensor(targets, device=device)


def bytes_needed(data: DataConfig, inventory: Inventory) -> int:
    """Bytes that `DeviceDataset` keeps, from headers of files alone: the training split decoded, the other at its final size.

    Refused for a picture whose header cannot be read, with its path.
    """
    pixels = int(_sizes(inventory).prod(1).sum())
    return 3 * (pixels + inventory.val.size * data.image_size**2)


def _sizes(inventory: Inventory) -> Array:
    """Heights and widths of the training pictures (N, 2)."""
    if inventory.picture_size is not None:
        return np.full((inventory.train.size, 2), inventory.picture_size)
    return np.array(_threaded(partial(size, inventory.store), inventory.train.paths))


def _threaded(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))
