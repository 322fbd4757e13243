"""The data sets by name: what images there are, what they hash to, how they are read. No torch here.

Faults are refused with their path; an image that cannot be used is never replaced by another.
"""

from __future__ import annotations

from typing import Protocol

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Source
from roadmap.data.images.arrays import Cifar, Digits
from roadmap.data.images.folder import ImageFolder, Imagenette
from roadmap.data.images.inventory import Inventory, Reader, apply_held_out


class DataSet(Protocol):
    """What a data set does. A new one is a class, its line below, a YAML in conf/data/, and a line of `config.schema.Source`."""

    def list_images(self, data: DataConfig) -> Inventory:
        """The images of both splits, checked as far as names and numbers go; Refused where they are not as they should be."""
        ...

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Sixteen hex digits of the images' bytes and their classes; Refused where an image read on the way cannot be used."""
        ...

    def reader(self, data: DataConfig, inventory: Inventory, split: str) -> Reader:
        """How the split `train` or `val` is read; Refused, then or later, where a picture cannot be."""
        ...


DATA_SETS: dict[str, DataSet] = {
    Source.digits: Digits(),
    Source.folder: ImageFolder(),
    Source.imagenette: Imagenette(),
    Source.cifar10: Cifar(10, "cifar-10-batches-py"),
    Source.cifar100: Cifar(100, "cifar-100-python"),
    Source.imagenet: ImageFolder(),
}


def list_images(data: DataConfig) -> Inventory:
    """The data set's own splits; see `DataSet`."""
    return DATA_SETS[data.source].list_images(data)


def checked_images(data: DataConfig, batch_size: int) -> Inventory:
    """What a run trains on and scores, `data.held_out` applied; Refused where `DataSet` says so, or for too few for a batch."""
    inventory = apply_held_out(list_images(data), data.held_out)
    size = inventory.train.size
    if batch_size > size:
        raise Refused(
            f"recipe.batch_size={batch_size}: larger than the training split, which has {size} images; must be at most {size}"
        )
    return inventory


def fingerprint(data: DataConfig, inventory: Inventory) -> str:
    """Identifies the images whatever their path; see `DataSet`."""
    return DATA_SETS[data.source].fingerprint(data, inventory)


def reader(data: DataConfig, inventory: Inventory, split: str) -> Reader:
    """A picture and its class by index; see `DataSet`."""
    return DATA_SETS[data.source].reader(data, inventory, split)
