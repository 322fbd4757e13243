"""Pictures read, decoded and augmented by timm's transforms, in processes beside the run."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from roadmap.base.errors import Refused
from roadmap.base.processes import cores, local_world_size
from roadmap.base.signals import RUN_SIGNALS
from roadmap.config.schema import DataConfig, Pipeline
from roadmap.data.batches import Batches, BatchPlan, InputPipeline, LabelledImages, indices_of, seed_all
from roadmap.data.device.augment import Array, NormalizeAndErase
from roadmap.data.images.sources import reader
from roadmap.data.transforms import train_transform, val_transform

MOST_WORKERS = 16  # unasked: more decode than a GPU takes
KEPT = 2**26  # bytes of evaluation images, transformed, up to which they are kept: 20,000 of 32 px


class Items(Dataset[Any]):
    """One split: `items[(epoch, index)]` is what `make` makes of a picture, what is known of it, epoch and index.

    A picture that cannot be read is returned as its error: raised in a loader's process, the exception would lose its type.
    """

    def __init__(self, load: Callable[[int], tuple[Image.Image, Any]], size: int, make: Callable[..., Any]) -> None:
        self.load, self.size, self.make = load, size, make

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            picture, known = self.load(key[1])
        except Refused as fault:
            return fault
        return self.make(picture, known, *key)


def _transformed(transform: Any, seed: int, image: Image.Image, target: int, epoch: int, index: int) -> tuple[Tensor, int]:
    """A transformed image, bytes (3, H, W), and its class."""
    seed_all(seed, epoch, index)
    return transform(image), target


class Loaders(InputPipeline):
    """The two splits of a run: decoded and transformed to bytes in processes of their own, the rest on the device."""

    name = Pipeline.loader

    def __init__(self, plan: BatchPlan) -> None:
        data, recipe, self.device = plan.data, plan.recipe, plan.device
        self.train_batches, val_batches = plan.samplers(data.image_size**2)
        self.normalize_and_erase = NormalizeAndErase(data, recipe, plan.seed, plan.device, plan.memory_format)
        self.train = self._train_loader(plan)
        self.val = split_loader(plan, "val", val_transform(data, recipe.interpolation), val_batches)
        self.kept: list[Any] = []  # the evaluation split, where it is small

    def _train_loader(self, plan: BatchPlan) -> DataLoader[Any]:
        return split_loader(plan, "train", train_transform(plan.data, plan.recipe), self.train_batches)

    def evaluation(self) -> Iterator[LabelledImages]:
        """See `InputPipeline.evaluation`."""
        for images, targets in self.kept or self._read_and_keep():
            yield self._on_device(images, targets)

    def _read_and_keep(self) -> Iterator[Any]:
        """Evaluation images are the same every time, so few of them are decoded once."""
        batches, room = list[Any](), KEPT
        for batch in read(self.val):
            room -= batch[0].nbytes
            batches.append(batch)
            if room < 0:
                batches.clear()
            yield batch
        self.kept = batches

    def _training(self, epoch: int) -> Iterator[LabelledImages]:
        drawn = self.normalize_and_erase.draw(epoch, self.train_batches.size)
        for keys, (images, targets) in zip(self.train_batches, read(self.train), strict=True):
            yield self._on_device(images, targets, None if drawn is None else drawn[indices_of(keys)])

    def _on_device(self, images: Tensor, targets: Tensor, drawn: Array | None = None) -> LabelledImages:
        images = self.normalize_and_erase(images, drawn)
        return LabelledImages(images, targets.to(images.device, non_blocking=True))


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """What the loader makes, batch after batch: images as bytes and classes, or `roadmap.data.stream.Crops`.

    Refused at the first batch with a picture that cannot be read.
    """
    with _signals_wait():
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, Refused):
            raise batch
        yield batch


def collate(together: Callable[[list[Any]], Any], items: list[Any | Refused]) -> Any | Refused:
    """The batch of items, or the error for the first of them that could not be read."""
    return next((item for item in items if isinstance(item, Refused)), None) or together(items)


def split_loader(plan: BatchPlan, name: str, transform: Any, sampler: Batches) -> DataLoader[Any]:
    """The split `train` or `val` through a transform of timm's."""
    make = partial(_transformed, transform, plan.seed)
    images = Items(reader(plan.data, plan.inventory, name), plan.inventory.split(name).size, make)
    return make_loader(plan, images, batch_sampler=sampler, collate_fn=partial(collate, default_collate))


def make_loader(plan: BatchPlan, images: Dataset[Any], **batching: Any) -> DataLoader[Any]:
    """A loader with `data.workers` processes that live and die with the run, and pinned memory for a GPU."""
    workers = worker_count(plan.data)
    if workers:
        Finalize(None, _end_workers, exitpriority=1)
    generator = torch.Generator().manual_seed(plan.seed)  # or the loader draws from, and moves, the global generator
    return DataLoader(
        images,
        **batching,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=plan.device.type == "cuda",
        generator=generator,
        worker_init_fn=_begin_worker if workers else None,
        # A run of a sweep is forked itself from a server; there the default would start another server for the loader.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def worker_count(data: DataConfig) -> int:
    """`data.workers`, or one for each core that this process may use and does not share with others of its run."""
    return min(MOST_WORKERS, max(1, len(cores()) // local_world_size())) if data.workers is None else data.workers


def _end_workers() -> None:
    """Kill the workers as the process ends: Python would send them a SIGTERM, which they ignore, and wait for them."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would take the end of one for a fault
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def _begin_worker(worker: int) -> None:
    """One thread; signals that the whole process group gets are left to the run, which saves and then ends its loader."""
    torch.set_num_threads(1)
    for number in RUN_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold the run's signals back while workers start: they inherit that, and no signal kills one before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RUN_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
