"""Pictures read, decoded and augmented by timm's transforms, in processes beside the run."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from roadmap.base.errors import Refused
from roadmap.base.signals import RUN_SIGNALS
from roadmap.config.schema import DataConfig, Experiment, Pipeline, RecipeConfig
from roadmap.data.batches import Batch, Batches, ahead, indices_of, seed_all
from roadmap.data.device.augment import Finish
from roadmap.data.images.inventory import Inventory
from roadmap.data.images.sources import reader


class Images(Dataset[tuple[Tensor, int] | Refused]):
    """One split: `images[(epoch, index)]` is a transformed image, bytes (3, H, W), and its class.

    A picture that cannot be read is handed on as its fault, for an exception in a loader's process would lose its form.
    """

    def __init__(self, load: Callable[[int], tuple[Image.Image, int]], size: int, transform: Any, seed: int) -> None:
        self.load, self.size, self.transform, self.seed = load, size, transform, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | Refused:
        epoch, index = key
        try:
            image, target = self.load(index)
        except Refused as fault:
            return fault
        seed_all(self.seed, epoch, index)
        return self.transform(image), target


@dataclass
class Loaders:
    """The two splits of a run, decoded and transformed to bytes by processes of their own, finished on the device."""

    train: DataLoader[Any]
    val: DataLoader[Any]
    train_batches: Batches
    finish: Finish
    name: Pipeline = Pipeline.loader

    @property
    def updates(self) -> int:
        """Updates in an epoch."""
        return self.train_batches.updates

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch, those of this process, from update `start` on."""
        self.train_batches.epoch, self.train_batches.start = epoch, start
        return ahead(self._training(epoch), self.finish.device)

    def evaluation(self) -> Iterator[Batch]:
        """The share of this process in the evaluation split: every image once, in order."""
        for images, targets in _whole(self.val):
            yield self.finish(images), targets.to(self.finish.device, non_blocking=True)

    def _training(self, epoch: int) -> Iterator[Batch]:
        drawn = self.finish.draw(epoch, self.train_batches.size)
        for keys, (images, targets) in zip(self.train_batches, _whole(self.train), strict=True):
            rows = None if drawn is None else drawn[indices_of(keys)]
            yield self.finish(images, rows), targets.to(self.finish.device, non_blocking=True)


def _whole(loader: DataLoader[Any]) -> Iterator[Batch]:
    """The batches, up to the first with a picture that cannot be read."""
    with _signals_wait():
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, Refused):
            raise batch
        yield batch


def _collate(items: list[tuple[Tensor, int] | Refused]) -> Batch | Refused:
    fault = next((item for item in items if isinstance(item, Refused)), None)
    return fault or default_collate(items)


def loaders(
    experiment: Experiment, found: Inventory, train_batches: Batches, val_batches: Batches, device: torch.device
) -> Loaders:
    """Loaders with timm's transforms, over the batches of this process."""
    data, recipe, seed = experiment.data, experiment.recipe, experiment.seed
    load = {name: reader(data, found, name) for name in ("train", "val")}
    train = Images(load["train"], found.train.size, train_transform(data, recipe), seed)
    val = Images(load["val"], found.val.size, val_transform(data), seed)
    finish = Finish(data, recipe, seed, device)
    pin = device.type == "cuda"
    load_train, load_val = _loader(train, train_batches, data, seed, pin), _loader(val, val_batches, data, seed, pin)
    return Loaders(load_train, load_val, train_batches, finish)


def _loader(images: Images, batches: Batches, data: DataConfig, seed: int, pin: bool) -> DataLoader[Any]:
    if data.workers:
        Finalize(None, _end_workers, exitpriority=1)
    generator = torch.Generator().manual_seed(seed)  # or the loader draws from, and moves, the global generator
    return DataLoader(
        images,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_collate,
        num_workers=data.workers,
        persistent_workers=data.workers > 0,
        pin_memory=pin,
        generator=generator,
        worker_init_fn=_begin_worker if data.workers else None,
        # A run of a sweep is forked itself from a server; there the default would start another server for the loader.
        multiprocessing_context="fork" if data.workers and sys.platform == "linux" else None,
    )


def _end_workers() -> None:
    """At the end of the process, before Python sends the workers a SIGTERM that they ignore and waits for them."""
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def _begin_worker(worker: int) -> None:
    """One thread; and signals to a whole group of processes are the run's, which ends its loader when it has saved."""
    torch.set_num_threads(1)
    for number in RUN_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """The run's signals come after this: a worker inherits that, or one would kill it before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RUN_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def train_transform(data: DataConfig, recipe: RecipeConfig) -> Any:
    """Random resized crop (bicubic), flip, RandAugment: timm's, as in Table 5, to bytes (3, S, S).

    Normalisation and erasing follow on the device (`augment.Finish`): bytes are a quarter of the way there.
    """
    return create_transform(
        (3, data.image_size, data.image_size),
        is_training=True,
        scale=(recipe.crop_scale[0], recipe.crop_scale[1]),
        hflip=data.hflip,
        color_jitter=None,
        auto_augment=recipe.randaugment,
        interpolation="bicubic",
        mean=tuple(data.mean),  # what RandAugment fills with
        use_prefetcher=True,
    )


def val_transform(data: DataConfig) -> Any:
    """Resize the shorter side to image_size / crop_pct (bicubic), cut the centre, to bytes (3, S, S)."""
    size = (3, data.image_size, data.image_size)
    return create_transform(size, interpolation="bicubic", crop_pct=data.crop_pct, use_prefetcher=True)
