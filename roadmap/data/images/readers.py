"""From an index to a picture and its class: always the same picture for the same index."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from roadmap.base.errors import Refused
from roadmap.data.images import jpeg
from roadmap.data.images.inventory import Inventory, Picture, Split, Store
from roadmap.data.images.jpeg import Array

UNDECODABLE = OSError, SyntaxError, ValueError, Image.DecompressionBombError


class Decoded:
    """A picture that there is no way to decode in part."""

    def __init__(self, image: Image.Image) -> None:
        self.size, self.pixels = (image.height, image.width), np.asarray(image)

    def first_rows(self, end: int) -> Array:
        """All there are."""
        return self.pixels


class Jpeg:
    """A JPEG that `roadmap.data.images.jpeg` can read; `whole` is what Pillow makes of it."""

    def __init__(self, content: bytes, header: jpeg.Frame, whole: Callable[[], Image.Image]) -> None:
        self.content, self.header, self.whole = content, header, whole
        self.size = header.height, header.width

    def first_rows(self, end: int) -> Array:
        """Decoded to a little beyond `end`; where that fails, Pillow finds the reason or gives its own pixels."""
        rows = jpeg.first_rows(self.content, self.header, end)
        return np.asarray(self.whole()) if rows is None else rows


class Files:
    """Pictures in files; one that cannot be decoded ends the run with its path."""

    def __init__(self, split: Split, store: Store) -> None:
        self.files, self.store = split.files, store

    def __call__(self, index: int) -> tuple[Image.Image, int]:
        """Decode one, as RGB."""
        path, target = self.files[index]
        return read_picture(self.store, path), target

    def open(self, index: int) -> tuple[Picture, int]:
        """Read one, and decode what has no header of a JPEG."""
        path, target = self.files[index]
        content = read_bytes(self.store, path)
        header = jpeg.frame(content)
        if header is None:
            return Decoded(decode(path, content)), target
        return Jpeg(content, header, lambda: decode(path, content)), target


def read_bytes(store: Store, path: Path) -> bytes:
    """A file; Refused where it cannot be read."""
    try:
        with store.open(path) as file:
            return file.read()
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror or error}") from error


def decode(path: Path, content: bytes) -> Image.Image:
    """A picture as RGB; Refused, with its path, where it cannot be decoded."""
    try:
        with Image.open(BytesIO(content)) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise Refused(f"{path}: cannot be decoded: it is no picture of a known kind") from error
    except UNDECODABLE as error:
        raise Refused(f"{path}: cannot be decoded: {error}") from error


def read_picture(store: Store, path: Path) -> Image.Image:
    """A picture in a file as RGB; Refused where it cannot be read or decoded."""
    return decode(path, read_bytes(store, path))


def size(store: Store, path: Path) -> tuple[int, int]:
    """Height and width of a picture in a file, from its header; Refused where that cannot be read."""
    try:
        with store.open(path) as file, Image.open(file) as image:
            return image.height, image.width
    except UNDECODABLE as error:
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

    def open(self, index: int) -> tuple[Picture, int]:
        """One of them."""
        image, target = self(index)
        return Decoded(image), target
