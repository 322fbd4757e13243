"""What a data set holds: its classes, and the images of its two splits. No torch here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeGuard
from unicodedata import category

from roadmap.base.errors import Refused
from roadmap.base.files import regular

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

NO_CLASS = -1  # of a picture that shows several things
IGNORED = 255  # the level of a map's pixels that are neither trained on nor scored


class Picture(Protocol):
    """A picture whose size is known and whose pixels are decoded when they are asked for."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    def first_rows(self, end: int) -> np.ndarray[Any, Any]:
        """At least the first `end` rows, (end or more, width, 3) uint8: those of the whole picture, bit for bit."""


class Reader(Protocol):
    """From an index to a picture and its class, always the same."""

    def __call__(self, index: int) -> tuple[Image, int]:
        """Decoded, as RGB."""

    def open(self, index: int) -> tuple[Picture, int]:
        """The same picture, decoded later and as far as it is asked for."""


class Objects(NamedTuple):
    """The objects of a picture, as they are stored."""

    boxes: np.ndarray[Any, Any]  # (n, 4) float64: left, top, right, bottom in pixels
    labels: np.ndarray[Any, Any]  # (n,) int64 from 0
    masks: np.ndarray[Any, Any]  # (n, H, W) uint8
    crowd: np.ndarray[Any, Any]  # (n,) bool: a group, which is neither trained on nor counted as missed
    areas: np.ndarray[Any, Any]  # (n,) float64 in pixels, by which objects are small, medium or large


ObjectReader = Callable[[int], tuple["Image", Objects]]
"""From an index to a picture, decoded, as RGB, and its objects; always the same."""
MapReader = Callable[[int], tuple["Image", "np.ndarray[Any, Any]"]]
"""From an index to a picture, decoded, as RGB, and the class of each pixel (H, W) uint8; always the same."""


class Store(Protocol):
    """Where the bytes of files are."""

    def open(self, path: Path) -> BinaryIO:
        """One file, to read."""

    def bytes_of(self, path: Path) -> int:
        """How large it is."""


class Disk:
    """Each in a file of its own."""

    def open(self, path: Path) -> BinaryIO:
        """The file."""
        return regular(path).open("rb")

    def bytes_of(self, path: Path) -> int:
        """As the disk says."""
        return path.stat().st_size


@dataclass(frozen=True)
class Split:
    """The images of one split: files with the index of their class, or only their number where there are no files."""

    size: int
    files: tuple[tuple[Path, int], ...] = ()
    chosen: tuple[int, ...] | None = None  # without files: their numbers in the set's training split; None: all of a split

    @property
    def paths(self) -> list[Path]:
        """Of its files."""
        return [path for path, _ in self.files]

    def part(self, indices: list[int]) -> Split:
        """These images only."""
        if self.files:
            return Split(len(indices), tuple(self.files[index] for index in indices))
        return Split(len(indices), chosen=tuple(indices))


@dataclass(frozen=True)
class Inventory:
    """The classes of a data set and its two splits."""

    root: Path | None
    classes: tuple[str, ...]
    train: Split
    val: Split
    picture_size: int | None = None  # pixels, height = width, where the pictures are arrays; None: files of any size
    store: Store = Disk()  # noqa: RUF009
    map_classes: tuple[str, ...] = ()  # of pixels, where the data set has maps beside objects

    @property
    def folder(self) -> Path:
        """The root of a data set that is files."""
        assert self.root is not None
        return self.root

    def split(self, name: str) -> Split:
        """The split called `train` or `val`."""
        return self.train if name == "train" else self.val


def is_word(name: Any) -> TypeGuard[str]:
    """Whether a class can be called so in tables and files: text that is not empty, in one line, and can be written."""
    return isinstance(name, str) and bool(name.strip()) and not {category(letter) for letter in name} & {"Cc", "Cs"}


def apply_held_out(inventory: Inventory, share: float) -> Inventory:
    """Put a share of the training images, spread evenly over each class, in place of the evaluation split; 0 changes nothing.

    Refused where a class would have no image to train on, or none to score.
    """
    if not share:
        return inventory
    images = inventory.train
    sides: dict[bool, list[int]] = {False: [], True: []}
    counts: Counter[int] = Counter()
    for index, target in enumerate([target for _, target in images.files] or [0] * images.size):  # no files: spread over all
        sides[math.floor((counts[target] + 1) * share) > math.floor(counts[target] * share)].append(index)
        counts[target] += 1
    train, val = (images.part(indices) for indices in sides.values())
    in_both = {target for _, target in train.files} & {target for _, target in val.files}
    classed = any(target != NO_CLASS for _, target in images.files)
    lost = [name for index, name in enumerate(inventory.classes) if classed and index not in in_both]
    if lost or val.size < (len(inventory.classes) if classed or not images.files else 1):
        raise Refused(
            f"data.held_out={share:g}: leaves no image of {', '.join(lost[:5]) or 'any class'} to train on or to score; "
            "it must be a share that holds one of each class, or 0"
        )
    return replace(inventory, train=train, val=val)
