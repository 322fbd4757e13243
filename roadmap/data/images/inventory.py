"""What a data set holds: its classes, and the images of its two splits. No torch here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.base.errors import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

Reader = Callable[[int], tuple["Image", int]]  # from an index to a picture and its class, always the same


@dataclass(frozen=True)
class Split:
    """The images of one split: files with the index of their class, or only their number where there are no files."""

    size: int
    files: tuple[tuple[Path, int], ...] = ()
    chosen: tuple[int, ...] | None = None  # without files: their numbers in the set's training split; None: all of a split

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

    def split(self, name: str) -> Split:
        """The split called `train` or `val`."""
        return self.train if name == "train" else self.val


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
    lost = [name for index, name in enumerate(inventory.classes) if images.files and index not in in_both]
    if lost or val.size < len(inventory.classes):
        raise Refused(
            f"data.held_out={share:g}: leaves no image of {', '.join(lost[:5]) or 'any class'} to train on or to score; "
            "it must be a share that holds one of each class, or 0"
        )
    return replace(inventory, train=train, val=val)
