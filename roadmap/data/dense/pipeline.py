"""Batches for dense prediction: pictures read, decoded and transformed in processes beside the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
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
    size: Callable[[Any], tuple[int, int]]  # height and width to which a picture with this target is padded in training
    batch: Callable[[list[Tensor], list[Any], torch.device, bool], Batch]  # of images on the device


class DensePipeline(InputPipeline):
    """The two splits of a run, decoded and transformed to bytes in processes of their own, normalised on the device.

    Its batches are those of the kind: `WITH_OBJECTS` `DetectionBatch`es, `WITH_MAPS` `SegmentationBatch`es.
    """

    name = Pipeline.loader

    def __init__(self, kind: Kind, plan: BatchPlan) -> None:
        self.kind, self.device = kind, plan.device
        self.train_batches, val_batches = plan.samplers()
        self.train = _loader(kind, plan, "train", kind.train, self.train_batches)
        self.val = _loader(kind, plan, "val", kind.test, val_batches)
        self.mean, self.std = (torch.tensor(level, device=plan.device).view(3, 1, 1) for level in (plan.data.mean, plan.data.std))

    def evaluation(self) -> Iterator[Batch]:
        """See `InputPipeline.evaluation`."""
        for items in read(self.val):
            yield self._batch(items, training=False)

    def _training(self, epoch: int) -> Iterator[Batch]:
        for items in read(self.train):
            yield self._batch(items, training=True)

    def _batch(self, items: list[Item], training: bool) -> Batch:
        """Images are normalised, and in training then padded with zeros: the mean colour."""
        images = []
        for pixels, target in items:
            image = normalise(pixels.to(self.device, non_blocking=True)[None], self.mean, self.std, torch.contiguous_format)[0]
            images.append(pad(image, self.kind.size(target)) if training else image)
        return self.kind.batch(images, [target for _, target in items], self.device, training)


def _loader(kind: Kind, plan: BatchPlan, name: str, transform: Callable[..., Item], sampler: Batches) -> DataLoader[Any]:
    make = partial(_transformed, partial(transform, plan.data, plan.recipe), plan.seed)
    pictures = Items(kind.read(plan.data, plan.inventory, name), plan.inventory.split(name).size, make)
    return make_loader(plan, pictures, batch_sampler=sampler, collate_fn=partial(collate, list))


# --- batches ---------------------------------------------------------------------------------------------------------


def _object_batch(images: list[Tensor], targets: list[Instances], device: torch.device, training: bool) -> DetectionBatch:
    """Evaluation's objects stay on the host, where they are scored."""
    return DetectionBatch(tuple(images), tuple(_to(target, device) if training else target for target in targets))


def _map_batch(images: list[Tensor], maps: list[Tensor], device: torch.device, training: bool) -> SegmentationBatch:
    maps = [classes.to(device, non_blocking=True).long() for classes in maps]
    if training:
        return SegmentationBatch(torch.stack(images), torch.stack(maps))
    return SegmentationBatch(tuple(images), tuple(maps))


def _to(target: Instances, device: torch.device) -> Instances:
    boxes, labels, masks, crowd = (part.to(device, non_blocking=True) for part in target[:4])
    return target._replace(boxes=boxes, labels=labels, masks=masks, crowd=crowd)


WITH_OBJECTS = Kind(object_reader, transforms.train_detection, transforms.test_detection, attrgetter("size"), _object_batch)
WITH_MAPS = Kind(map_reader, transforms.train_segmentation, transforms.test_segmentation, attrgetter("shape"), _map_batch)
