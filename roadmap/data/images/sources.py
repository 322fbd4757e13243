"""The data sets by name: what images there are, what they hash to, how they are read. No torch here.

Faults are refused with their path; an image that cannot be used is never replaced by another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Source, Target
from roadmap.data.images import maps
from roadmap.data.images.arrays import Cifar, Digits
from roadmap.data.images.coco import Coco
from roadmap.data.images.folder import ImageFolder, Imagenette
from roadmap.data.images.inventory import Inventory, MapReader, ObjectReader, Reader, apply_held_out
from roadmap.data.images.scenes import Scenes


class DataSet(Protocol):
    """What a data set does, beside reading its targets, as below. A new one is a class, its line in one of the tables, a YAML in
    conf/data/, and a line of `config.schema.Source`.
    """

    def list_images(self, data: DataConfig) -> Inventory:
        """The images of both splits, checked as far as names and numbers go; Refused where they are not as they should be."""

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Sixteen hex digits of the images' bytes and their classes; Refused where an image read on the way cannot be used."""


LABELLED: dict[str, Digits | ImageFolder | Cifar] = {
    Source.digits: Digits(),
    Source.folder: ImageFolder(),
    Source.imagenette: Imagenette(),
    Source.cifar10: Cifar(10, "cifar-10-batches-py"),
    Source.cifar100: Cifar(100, "cifar-100-python"),
    Source.imagenet: ImageFolder(),
}
WITH_OBJECTS: dict[str, Scenes | Coco] = {Source.scenes: Scenes(), Source.coco: Coco()}
WITH_MAPS: dict[str, Scenes | maps.Maps] = {Source.scenes: Scenes(), Source.maps: maps.FOLDERS, Source.ade20k: maps.ADE20K}
DATA_SETS: dict[str, DataSet] = {**LABELLED, **WITH_OBJECTS, **WITH_MAPS}


def list_images(data: DataConfig) -> Inventory:
    """The data set's own splits; see `DataSet`."""
    return DATA_SETS[data.source].list_images(data)


def checked_images(data: DataConfig, batch_size: int, target: Target = Target.label) -> Inventory:
    """What a run learns `target` from and is scored on, `data.held_out` applied; its classes are those of the target.

    Refused where `DataSet` says so, where the data set does not have such targets, or for too few images for a batch.
    """
    known = data.source.facts.targets
    if target not in known:
        having = ", ".join(source for source in Source if target in source.facts.targets)
        raise Refused(
            f"data={data.source}: has a {' and a '.join(sorted(known))} for each picture; a {target} is in data={having}"
        )
    inventory = apply_held_out(list_images(data), data.held_out)
    if target == Target.map and inventory.map_classes:
        inventory = replace(inventory, classes=inventory.map_classes)
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
    """A picture and its class by index, of the split `train` or `val`; Refused, then or later, where one cannot be read."""
    return LABELLED[data.source].reader(data, inventory, split)


def object_reader(data: DataConfig, inventory: Inventory, split: str) -> ObjectReader:
    """A picture and its objects by index; see `reader`."""
    return WITH_OBJECTS[data.source].object_reader(data, inventory, split)


def map_reader(data: DataConfig, inventory: Inventory, split: str) -> MapReader:
    """A picture and its map by index; see `reader`."""
    return WITH_MAPS[data.source].map_reader(data, inventory, split)
