"""From an index to a picture and its class: always the same picture for the same index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from roadmap.base.errors import Refused
from roadmap.data.images.inventory import Inventory, Split


class Files:
    """Pictures in files; one that cannot be decoded ends the run with its path."""

    def __init__(self, split: Split) -> None:
        self.files = split.files

    def __call__(self, index: int) -> tuple[Image.Image, int]:
        """Decode one, as RGB."""
        path, target = self.files[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB"), target
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(f"{path}: cannot be decoded: {error}") from error


class Arrays:
    """Pictures in memory, those of one split; what is held out comes from the training split.

    `load` gives the pictures of a whole split, uint8 (N, H, W) or (N, H, W, 3), and the class of each (N,).
    """

    def __init__(self, source: str, inventory: Inventory, split: str, load: Callable[[str], tuple[Any, Any]]) -> None:
        chosen, classes = inventory.split(split).chosen, len(inventory.classes)
        images, targets = load(split if chosen is None else "train")
        for index, target in enumerate(targets):
            if not 0 <= target < classes:
                raise Refused(f"data={source}: image {index} is of class {target}; must be 0 to {classes - 1}")
        if len(images) != len(targets):
            raise Refused(f"data={source}: {len(images)} images with {len(targets)} classes; must be equally many")
        self.images = images if chosen is None else images[list(chosen)]
        self.targets = [int(targets[index]) for index in (range(len(targets)) if chosen is None else chosen)]

    def __call__(self, index: int) -> tuple[Image.Image, int]:
        """One of them, as RGB."""
        return Image.fromarray(self.images[index]).convert("RGB"), self.targets[index]
