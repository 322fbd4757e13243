"""Batches for dense prediction: pictures read, decoded and transformed in processes beside the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image

from roadmap.config.schema import DataConfig, Pipeline
from roadmap.data.batches import Batch, Batches, BatchPlan, InputPipeline
from roadmap.data.dense import transforms
from roadmap.data.dense.targets import DetectionBatch, Instances, SegmentationBatch
from roadmap.data.dense.transforms import pad
from roadmap.data.device.augment import normalise
from roadmap.data.images.inventory import Inventory
from roadmap.data.images.sources import map_reader, object_reader
from roadmap.data.loader import Items, collate, make_loader, read

Item = tuple[Tensor, Any]  # a picture (3, h, w) uint8, and what is known of it
DENSE = 5  # the key of these transforms' random numbers, beside those of `data.device`


def _transformed(transform: Callable[..., Item], seed: int, picture: Any, known: Any, epoch: int, index: int) -> Item:
    random = np.random.default_rng([seed, epoch, index, DENSE])
    return transform(Image(functional.pil_to_tensor(picture)), known, index, random)


class Kind(NamedTuple):
    """How pictures of one kind of targets become batches."""

    read: Callable[[DataConfig, Inventory, str], Callable[[int], tuple[Any, Any]]]
    train: Callable[..., Item]
    test: Callable[..., Item]
    finish: Callable[..., Batch]  # the batch of items, of training or not


class DensePipeline(InputPipeline):
    """The two splits of a run, decoded and transformed to bytes in processes of their own, normalised on the device.

    Its batches are those of the kind: `WITH_OBJECTS` `DetectionBatch`es, `WITH_MAPS` `SegmentationBatch`es.
    """

    name = Pipeline.loader

    def __init__(self, kind: Kind, plan: BatchPlan) -> None:
        self.device, (self.train_batches, val_batches) = plan.device, plan.samplers()
        self.train = _loader(kind, plan, "train", kind.train, self.train_batches)
        self.val = _loader(kind, plan, "val", kind.test, val_batches)
        levels = [torch.tensor(triple, device=plan.device).view(3, 1, 1) for triple in (plan.data.mean, plan.data.std)]
        self.finish = partial(kind.finish, plan.device, levels)

    def evaluation(self) -> Iterator[Batch]:
        """See `InputPipeline.evaluation`."""
        for items in read(self.val):
            yield self.finish(items, False)

    def _training(self, epoch: int) -> Iterator[Batch]:
        for items in read(self.train):
            yield self.finish(items, True)


def _loader(kind: Kind, plan: BatchPlan, name: str, transform: Callable[..., Item], sampler: Batches) -> DataLoader[Any]:
    make = partial(_transformed, partial(transform, plan.data, plan.recipe), plan.seed)
    pictures = Items(kind.read(plan.data, plan.inventory, name), plan.inventory.split(name).size, make)
    return make_loader(plan, pictures, batch_sampler=sampler, collate_fn=partial(collate, list))


# --- batches ---------------------------------------------------------------------------------------------------------


def _detection_batch(device: torch.device, levels: list[Tensor], items: list[Item], training: bool) -> DetectionBatch:
    """Evaluation's objects stay on the host, where they are scored."""
    sizes = [target.size if training else pixels.shape[1:] for pixels, target in items]
    images = (_on_device(pixels, device, levels, size) for (pixels, _), size in zip(items, sizes, strict=True))
    return DetectionBatch(tuple(images), tuple(_to(target, device) if training else target for _, target in items))


def _segmentation_batch(device: torch.device, levels: list[Tensor], items: list[Item], training: bool) -> SegmentationBatch:
    targets = [classes.to(device, non_blocking=True).long() for _, classes in items]
    sizes = [classes.shape if training else pixels.shape[1:] for pixels, classes in items]
    images = [_on_device(pixels, device, levels, size) for (pixels, _), size in zip(items, sizes, strict=True)]
    if training:
        return SegmentationBatch(torch.stack(images), torch.stack(targets))
    return SegmentationBatch(tuple(images), tuple(targets))


def _on_device(pixels: Tensor, device: torch.device, levels: list[Tensor], size: Sequence[int]) -> Tensor:
    """Normalised, then padded with zeros: the mean colour."""
    mean, std = levels
    image = normalise(pixels.to(device, non_blocking=True)[None], mean, std, torch.contiguous_format)[0]
    return pad(image, (size[0], size[1]))


def _to(target: Instances, device: torch.device) -> Instances:
    boxes, labels, masks, crowd = (part.to(device, non_blocking=True) for part in target[:4])
    return target._replace(boxes=boxes, labels=labels, masks=masks, crowd=crowd)


WITH_OBJECTS = Kind(object_reader, transforms.train_detection, transforms.test_detection, _detection_batch)
WITH_MAPS = Kind(map_reader, transforms.train_segmentation, transforms.test_segmentation, _segmentation_batch)
