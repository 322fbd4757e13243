"""Images to batches: timm's transforms over any source, random only in (seed, epoch, index).

The order of an epoch and every augmentation depend on nothing else, so a run comes out the same whatever the number
of loader processes, and can go on from the middle of an epoch.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from roadmap.data.sources import DIGITS_HELD_OUT, Inventory, Split
from roadmap.errors import Refused
from roadmap.schema import DataConfig, Experiment, Pipeline, RecipeConfig, Source

Batch = tuple[Tensor, Tensor]
AUTO_SHARE = 0.25  # of a GPU's memory, which decoded images may take unasked
MOST_SHARE = 0.75  # which they may take at all: the rest is the network's


def seed_all(*key: int) -> None:
    """Set the global generators of Python, NumPy and torch (CPU) from `key`, in some 20 microseconds.

    Transforms and mixup draw from all three. Whoever draws next seeds first: nobody relies on what another left.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


class Images(Dataset[tuple[Tensor, int] | Refused]):
    """One split: `images[(epoch, index)]` is a transformed image (3, H, W) and its class.

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


def batches(experiment: Experiment, found: Inventory, rank: int = 0, world: int = 1) -> tuple[Batches, Batches]:
    """The batch samplers of this process: for training (shuffled, whole updates), for evaluation (every image once, in order)."""
    recipe, seed = experiment.recipe, experiment.seed
    at_once = recipe.images_at_once
    train = Batches(found.train.size, recipe.batch_size, seed, True, at_once, rank, world)
    val = Batches(found.val.size, at_once * world, seed, False, at_once, rank, world)
    return train, val


class InputPipeline(Protocol):
    """Batches of training and evaluation, wherever they are made."""

    name: Pipeline

    @property
    def updates(self) -> int:
        """Updates in an epoch of training."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch, those of this process, from update `start` on."""
        ...

    def evaluation(self) -> Iterator[Batch]:
        """The share of this process in the evaluation split: every image once, in order."""
        ...


def input_pipeline(
    experiment: Experiment, found: Inventory, device: torch.device, rank: int = 0, world: int = 1
) -> InputPipeline:
    """The pipeline that the experiment asks for; `auto` keeps images on a GPU that has room for them.

    Raises:
        Refused: where the decoded images do not fit on the device that should hold them.

    """
    train, val = batches(experiment, found, rank, world)
    if _pick(experiment.data, found, device) == Pipeline.loader:
        return loaders(experiment, found, train, val)
    from roadmap.data.resident import Resident

    return Resident(experiment, found, train, val, device)


def _pick(data: DataConfig, found: Inventory, device: torch.device) -> Pipeline:
    if data.pipeline == Pipeline.loader or (data.pipeline == Pipeline.auto and device.type == "cpu"):
        return Pipeline.loader
    from roadmap.data.resident import bytes_needed

    needed, room = bytes_needed(data, found), _memory(device)
    if data.pipeline == Pipeline.auto:
        return Pipeline.device if needed < AUTO_SHARE * room else Pipeline.loader
    if needed > MOST_SHARE * room:
        raise Refused(
            f"data.pipeline=device: the decoded images need {needed / 2**30:.1f} GiB and this device has {room / 2**30:.1f} GiB "
            f"in all, of which they may take {MOST_SHARE:.0%}; data.pipeline=loader reads them from disk"
        )
    return Pipeline.device


def _memory(device: torch.device) -> int:
    """Bytes of memory in all, so that equal devices decide alike."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass
class Loaders:
    """The two splits of a run, decoded and transformed by processes of their own."""

    train: DataLoader[Any]
    val: DataLoader[Any]
    train_batches: Batches
    name: Pipeline = Pipeline.loader

    @property
    def updates(self) -> int:
        """Updates in an epoch."""
        return self.train_batches.updates

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch, those of this process, from update `start` on."""
        self.train_batches.epoch, self.train_batches.start = epoch, start
        return _whole(self.train)

    def evaluation(self) -> Iterator[Batch]:
        """The share of this process in the evaluation split: every image once, in order."""
        return _whole(self.val)


def _whole(batches: Iterable[Batch | Refused]) -> Iterator[Batch]:
    """The batches, up to the first with a picture that cannot be read."""
    for batch in batches:
        if isinstance(batch, Refused):
            raise batch
        yield batch


def _collate(items: list[tuple[Tensor, int] | Refused]) -> Batch | Refused:
    fault = next((item for item in items if isinstance(item, Refused)), None)
    return fault or default_collate(items)


def loaders(experiment: Experiment, found: Inventory, train_batches: Batches, val_batches: Batches) -> Loaders:
    """Loaders with timm's transforms, over the batches of this process."""
    data, recipe, seed = experiment.data, experiment.recipe, experiment.seed
    load = {name: reader(data, found, name) for name in ("train", "val")}
    train = Images(load["train"], found.train.size, train_transform(data, recipe), seed)
    val = Images(load["val"], found.val.size, val_transform(data), seed)
    return Loaders(_loader(train, train_batches, data, seed), _loader(val, val_batches, data, seed), train_batches)


def _loader(images: Images, batches: Batches, data: DataConfig, seed: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)  # or the loader draws from, and moves, the global generator
    return DataLoader(
        images,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_collate,
        num_workers=data.workers,
        persistent_workers=data.workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=generator,
        worker_init_fn=_single_thread if data.workers else None,
    )


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)


def train_transform(data: DataConfig, recipe: RecipeConfig) -> Any:
    """Random resized crop (bicubic), flip, RandAugment, normalisation, random erasing: timm's, as in Table 5."""
    return create_transform(
        (3, data.image_size, data.image_size),
        is_training=True,
        scale=(recipe.crop_scale[0], recipe.crop_scale[1]),
        hflip=data.hflip,
        color_jitter=None,
        auto_augment=recipe.randaugment,
        interpolation="bicubic",
        mean=tuple(data.mean),
        std=tuple(data.std),
        re_prob=recipe.random_erasing,
        re_mode="pixel",
    )


def val_transform(data: DataConfig) -> Any:
    """Resize the shorter side to image_size / crop_pct (bicubic), cut the centre, normalise."""
    return create_transform(
        (3, data.image_size, data.image_size),
        interpolation="bicubic",
        mean=tuple(data.mean),
        std=tuple(data.std),
        crop_pct=data.crop_pct,
    )


# --- readers: index to (picture, class) ------------------------------------------------------------------------------


def reader(data: DataConfig, found: Inventory, split: str) -> Callable[[int], tuple[Image.Image, int]]:
    """How one split is read: by index, always the same picture for the same index."""
    if data.source == Source.digits:
        return _digits(split)
    if data.source in (Source.cifar10, Source.cifar100):
        return _cifar(data, found, split)
    return _Files(found.train if split == "train" else found.val)


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
    """Pictures in memory: uint8, (N, H, W) or (N, H, W, 3)."""

    def __init__(self, images: np.ndarray[Any, Any], targets: Sequence[int]) -> None:
        self.images, self.targets = images, [int(target) for target in targets]

    def __call__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]).convert("RGB"), self.targets[index]


def _digits(split: str) -> _Arrays:
    """scikit-learn's digits, 0..16 stretched to 0..255; of every five images of a class two are for evaluation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = np.zeros(len(digits.target), dtype=bool)
    for target in range(10):
        (members,) = np.nonzero(digits.target == target)
        held_out[members] = np.isin(np.arange(len(members)) % 5, DIGITS_HELD_OUT)
    chosen = held_out if split == "val" else ~held_out
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    return _Arrays(pixels[chosen], digits.target[chosen])


def _cifar(data: DataConfig, found: Inventory, split: str) -> _Arrays:
    from torchvision import datasets

    kind = datasets.CIFAR10 if data.source == Source.cifar10 else datasets.CIFAR100
    try:
        content = kind(str(found.root), train=split == "train")
    except (OSError, RuntimeError) as error:
        raise Refused(f"data.path={found.root}: {data.source} cannot be read: {error}") from error
    return _Arrays(content.data, content.targets)
