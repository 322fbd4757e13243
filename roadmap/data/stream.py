"""Pictures read and decoded in processes beside the run, and augmented on its device like those that are kept there.

For data sets that no GPU has room for. A picture's box is drawn before it is decoded, so it is decoded as far as the box
reaches, and only the box travels. The pictures are to the bit those of `roadmap.data.device.dataset`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from roadmap.base.errors import Refused
from roadmap.config.schema import Pipeline
from roadmap.data.batches import Batches, BatchPlan, LabelledImages, indices_of
from roadmap.data.device import augment
from roadmap.data.device.augment import Array
from roadmap.data.device.dataset import Augmentation, Boxes, Draws
from roadmap.data.images.inventory import Picture, Reader
from roadmap.data.images.sources import reader
from roadmap.data.loader import Loaders, make_loader, read


class Request(NamedTuple):
    """What a process is asked for: the pictures of a micro-batch, and the random numbers of their boxes."""

    indices: Array  # (B,)
    drawn: Array  # a table (B,) of `augment.CROP`


class Crops(NamedTuple):
    """The boxes of a micro-batch, cut out of their pictures: one after another, row by row."""

    pixels: Tensor  # (P, 3) uint8; pinned where a GPU will fetch it
    sides: Array  # height and width of each (B, 2)
    targets: Tensor  # (B,) int64


class Stream(Loaders):
    """The two splits of a run: training pictures decoded in processes and augmented on the device, evaluation the loaders'."""

    name = Pipeline.stream

    def _train_loader(self, plan: BatchPlan) -> DataLoader[Any]:
        self.augmentation = Augmentation(plan.data, plan.recipe, plan.seed, self.normalize_and_erase)
        self.requests = Requests(self.train_batches)
        crops = CropReader(reader(plan.data, plan.inventory, "train"), plan.recipe.crop_scale)
        return make_loader(plan, crops, sampler=self.requests, batch_size=None, collate_fn=_as_it_is)

    def _training(self, epoch: int) -> Iterator[LabelledImages]:
        draws = self.requests.draws = self.augmentation.draw(epoch, self.train_batches.size)
        for request, crops in zip(self.requests, read(self.train), strict=True):
            boxes = _boxes(crops, crops.pixels.to(self.device, non_blocking=True))
            images = self.augmentation.of_boxes(boxes, request.indices, draws)
            yield LabelledImages(images, crops.targets.to(self.device, non_blocking=True))


def _boxes(crops: Crops, pixels: Tensor) -> Boxes:
    ends = crops.sides.prod(1).cumsum()
    return Boxes(pixels, ends - crops.sides.prod(1), crops.sides[:, 1], np.pad(crops.sides, ((0, 0), (2, 0))))


class Requests:
    """The sampler of an epoch, once `draws` are those of the epoch: a request for each micro-batch of this process."""

    draws: Draws

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Request]:
        for keys in self.batches:
            indices = indices_of(keys)
            yield Request(indices, self.draws.crop[indices])


def _as_it_is(crops: Crops | Refused) -> Crops | Refused:
    return crops


# --- in a process beside the run -------------------------------------------------------------------------------------


class CropReader(Dataset[Crops | Refused]):
    """One split: `reader[request]` are the boxes of its pictures, or the fault of the first that cannot be decoded."""

    def __init__(self, read: Reader, scale: Sequence[float]) -> None:
        self.read, self.scale = read, scale

    def __getitem__(self, request: Request) -> Crops | Refused:
        try:
            pictures, targets = zip(*(self.read.open(int(index)) for index in request.indices), strict=True)
            heights, widths = np.array([picture.size for picture in pictures]).T
            boxes = augment.crop_boxes(request.drawn, heights, widths, self.scale)
            return Crops(_cut(pictures, boxes), boxes[:, 2:], torch.tensor(targets))
        except Refused as fault:
            return fault


def _cut(pictures: Sequence[Picture], boxes: Array) -> Tensor:
    pixels = _empty(int(boxes[:, 2:].prod(1).sum()))
    flat, start = pixels.numpy(), 0
    for picture, (top, left, tall, wide) in zip(pictures, boxes.tolist(), strict=True):
        rows = picture.first_rows(top + tall)
        flat[start : start + tall * wide].reshape(tall, wide, 3)[:] = rows[top : top + tall, left : left + wide]
        start += tall * wide
    return pixels


def _empty(count: int) -> Tensor:
    """(count, 3) uint8, in a loader's process in memory that it shares with the run: nothing is copied on the way."""
    if get_worker_info() is None:
        return torch.empty((count, 3), dtype=torch.uint8)
    storage: Any = torch.UntypedStorage._new_shared(3 * count)
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(count, 3)
