"""Which images make up which batch, and what chance depends on: (seed, epoch, index) and nothing else.

So a run comes out the same whatever the number of loader processes or devices, and can go on from the middle of an
epoch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from roadmap.config.schema import DataConfig, Pipeline, RecipeConfig
from roadmap.data.images.inventory import Inventory

# Pixels, 128 images of 32 px: below, a forward pass of a small network spends a third of its time on starting.
WORTH_A_PASS = 2**17


class Batch(Protocol):
    """A micro-batch on its device, in the memory format of the run. What its parts are is between a task and its pipeline."""

    @property
    def images(self) -> Any:
        """What the network takes."""

    @property
    def targets(self) -> Any:
        """What the task's loss and scorer compare the network's outputs with."""

    def tensors(self) -> Iterable[Tensor]:
        """Everything that lies on the device."""


BatchType = TypeVar("BatchType", bound=Batch)


class LabelledImages(NamedTuple):
    """Images, each with one class."""

    images: Tensor  # (B, 3, S, S) float32, normalised
    targets: Tensor  # (B,) int64

    def tensors(self) -> Iterable[Tensor]:
        """Both."""
        return self


def seed_all(*key: int) -> None:
    """Set the global generators of Python, NumPy and torch (CPU) from `key`, in some 20 microseconds.

    Transforms and mixup draw from all three. Whoever draws next seeds first: nobody relies on what another left.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@dataclass
class Batches:
    """The batch sampler of one epoch: a list of (epoch, index) for each micro-batch of this process.

    The images are shuffled by (seed, epoch), then cut into updates and these into micro-batches, of which process
    `rank` gets every `world`-th: an update holds the same micro-batches however many processes share them.
    """

    size: int
    batch_size: int  # images of one update
    seed: int
    shuffle: bool
    micro_batch: int
    rank: int = 0
    world: int = 1
    epoch: int = 0
    start: int = 0  # the update to start from

    @property
    def updates(self) -> int:
        """Updates in a whole epoch; a training epoch leaves out what does not fill one."""
        return self.size // self.batch_size if self.shuffle else -(-self.size // self.batch_size)

    def __len__(self) -> int:
        """Micro-batches of this process in a whole epoch, the last one of an evaluation included."""
        return self.updates * (self.batch_size // self.micro_batch // self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for update in range(self.start, self.updates):
            images = order[update * self.batch_size : (update + 1) * self.batch_size]
            for first in range(self.rank * self.micro_batch, len(images), self.world * self.micro_batch):
                yield [(self.epoch, int(index)) for index in images[first : first + self.micro_batch]]


@dataclass(frozen=True)
class BatchPlan:
    """What the batches of process `rank` among `world` are made from, and the device that they are made for."""

    data: DataConfig
    recipe: RecipeConfig
    seed: int  # of the run
    inventory: Inventory
    device: torch.device
    rank: int = 0
    world: int = 1
    memory_format: torch.memory_format = torch.channels_last

    def samplers(self, pixels: int | None = None) -> tuple[Batches, Batches]:
        """For training (shuffled, whole updates), and for evaluation (every image once, in order).

        Where an image has few `pixels`, more are evaluated at once than are trained on.
        """
        inventory, at_once, share = self.inventory, self.recipe.images_at_once, (self.rank, self.world)
        evaluated = max(at_once, WORTH_A_PASS // pixels) if pixels else at_once
        train = Batches(inventory.train.size, self.recipe.batch_size, self.seed, True, at_once, *share)
        return train, Batches(inventory.val.size, evaluated * self.world, self.seed, False, evaluated, *share)


def indices_of(keys: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """The indices of a micro-batch (B,)."""
    return np.array([index for _, index in keys])


def ahead(batches: Iterator[BatchType], device: torch.device) -> Iterator[BatchType]:
    """The same batches; on a GPU each is prepared on a stream of its own while the one before it is trained on."""
    if device.type != "cuda":
        yield from batches
        return
    beside, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    batch = _prepared(batches, beside)
    while batch is not None:
        main.wait_stream(beside)
        for tensor in batch.tensors():
            tensor.record_stream(main)  # its memory is not taken for the next before the network is done with it
        following = _prepared(batches, beside)
        yield batch
        batch = following


def _prepared(batches: Iterator[BatchType], stream: torch.cuda.Stream) -> BatchType | None:
    with torch.cuda.stream(stream):
        return next(batches, None)


class InputPipeline:
    """Batches of training and evaluation, wherever they are made."""

    name: Pipeline
    device: torch.device
    train_batches: Batches

    @property
    def updates(self) -> int:
        """Updates in an epoch of training."""
        return self.train_batches.updates

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch, those of this process, from update `start` on; on the device."""
        self.train_batches.epoch, self.train_batches.start = epoch, start
        return ahead(self._training(epoch), self.device)

    def _training(self, epoch: int) -> Iterator[Batch]:
        raise NotImplementedError

    def evaluation(self) -> Iterator[Batch]:
        """The share of this process in the evaluation split: every image once, in order; on the device."""
        raise NotImplementedError
