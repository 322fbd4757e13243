"""Pictures with a class for each pixel, as PNG maps beside them. No torch here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig
from roadmap.data.images import archives
from roadmap.data.images.coco import examine_sized
from roadmap.data.images.examine import FileReport, examine_image, examine_splits, refuse_findings, warn
from roadmap.data.images.folder import EXTENSIONS, LEFT_BY_DESKTOPS
from roadmap.data.images.inventory import IGNORED, NO_CLASS, Disk, Inventory, MapReader, Split, is_word

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SHOWN = 5  # paths in a message


@dataclass(frozen=True)
class Maps:
    """Pictures in one folder a split and their maps in another, each of its picture's name and with the ending .png.

    A pixel's level is its class; with `from_one` it is that of the class before, and 0 is ignored. 255 is ignored either way.
    """

    pictures: dict[str, str]  # folders, by split
    maps: dict[str, str]
    from_one: bool = False
    names: str = "classes.txt"  # the file of the classes' names, one a line
    classes: int | None = None  # of a published data set

    def list_images(self, data: DataConfig) -> Inventory:
        """Every picture in the order of names, each with its map; classes by their names, or their numbers."""
        layout = tuple(dict.fromkeys(folder.split("/")[0] for folder in (*self.pictures.values(), *self.maps.values())))
        root = archives.root_of(data, [layout])
        train, val = (self._split(root, split) for split in self.pictures)
        return Inventory(root, self._classes(root, data), train, val)

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Of the names and bytes of every picture and every map."""
        root = inventory.folder
        pictures = {self._map_of(root, path): path for path in (*inventory.train.paths, *inventory.val.paths)}
        most = len(inventory.classes) - 1 + self.from_one

        def examine(path: Path) -> FileReport:
            return _examine_map(path, pictures[path], most) if path in pictures else examine_image(path)

        fingerprint, findings = examine_splits(inventory, examine, pictures, "maps", most)
        warn(refuse_findings(root, findings, data.accept))
        unknown = {IGNORED, 0} if self.from_one else {IGNORED}
        for split in self.maps:
            seen = (_seen(self._map_of(root, path)) for path in inventory.split(split).paths)
            if all(levels <= unknown for levels in seen):  # the first has a class, as a rule
                raise Refused(f"{root / self.maps[split]}: no map has a pixel of a class, all of them are ignored")
        return fingerprint

    def map_reader(self, data: DataConfig, inventory: Inventory, split: str) -> MapReader:
        """Each picture and its map are decoded when they are asked for."""
        root, paths = inventory.folder, inventory.split(split).paths

        def read(index: int) -> tuple[Image, np.ndarray[Any, Any]]:
            import numpy as np

            from roadmap.data.images.readers import read_picture

            levels = np.array(_levels(self._map_of(root, paths[index])), np.uint8)
            if self.from_one:
                levels -= 1  # and 0 becomes `IGNORED`
            return read_picture(inventory.store, paths[index]), levels

        return read

    def _split(self, root: Path, split: str) -> Split:
        folder, maps = root / self.pictures[split], root / self.maps[split]
        for needed in (folder, maps):
            if not needed.is_dir():
                raise Refused(f"data.path={root}: there is no folder {needed}")
        paths = sorted(path for path in folder.rglob("*") if path.name not in LEFT_BY_DESKTOPS and not path.is_dir())
        for path in paths:
            if not path.name.lower().endswith(EXTENSIONS):
                raise Refused(f"{path}: not an image by its name; known are {', '.join(EXTENSIONS)}")
        if not paths:
            raise Refused(f"{folder}: no pictures there")
        expected = [self._map_of(root, path) for path in paths]
        twice = [str(path) for path, n in Counter(expected).items() if n > 1]
        _refuse_some(f"{folder}: pictures of which two have one map", twice)
        _refuse_some(f"{maps}: maps that are not there", [str(path) for path in expected if not path.is_file()])
        return Split(len(paths), tuple((path, NO_CLASS) for path in paths))

    def _map_of(self, root: Path, picture: Path) -> Path:
        for split, name in self.pictures.items():
            if picture.is_relative_to(root / name):
                return (root / self.maps[split] / picture.relative_to(root / name)).with_suffix(".png")
        raise ValueError(picture)

    def _classes(self, root: Path, data: DataConfig) -> tuple[str, ...]:
        names = _names(root, self.names)
        count = data.classes or self.classes or len(names)
        if not count:
            raise Refused(
                f"data.path={root}: how many classes its maps have is in no {self.names} (one name a line), nor in "
                f"semantic_classes of instances_train.json; data.classes=N says it"
            )
        if names and len(names) != count:
            raise Refused(f"data.classes={count}: {root} names {len(names)} classes")
        return names or tuple(map(str, range(count)))


FOLDERS = Maps({"train": "train", "val": "val"}, {"train": "semantic_train", "val": "semantic_val"})
ADE20K = Maps(
    {"train": "images/training", "val": "images/validation"},
    {"train": "annotations/training", "val": "annotations/validation"},
    from_one=True,
    classes=150,
)


def _refuse_some(what: str, paths: list[str]) -> None:
    if paths:
        raise Refused(f"{what}: {len(paths)}: {', '.join(paths[:SHOWN])}{', ...' if len(paths) > SHOWN else ''}")


def _names(root: Path, file: str) -> tuple[str, ...]:
    """From the file of names, or COCO's JSON where it has `semantic_classes`; none where there is neither."""
    path, described = root / file, root / "instances_train.json"
    listed = path.is_file()
    if not listed and not described.is_file():
        return ()
    path = path if listed else described
    try:
        names: Any = _lines(path) if listed else json.loads(path.read_bytes()).get("semantic_classes", [])
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise Refused(f"{path}: its names of classes cannot be read: {error}") from error
    if not isinstance(names, list):
        raise Refused(f"{path}: semantic_classes={names!r:.40}: must be a list of the classes' names")
    odd = [name for name in names if not is_word(name)]
    doubled = [name for name, number in Counter(map(str, names)).items() if number > 1]
    if odd or doubled or len(names) > IGNORED:
        found = f"{len(names)} names of classes{f', among them {(odd or doubled)[:3]!r:.60}' if odd or doubled else ''}"
        raise Refused(f"{path}: {found}; must be words, each once, at most {IGNORED}")
    return tuple(names)


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    return [line.strip() for line in text.splitlines() if line.strip()]


# --- one map ---------------------------------------------------------------------------------------------------------


def _examine_map(path: Path, picture: Path, most: int) -> FileReport:
    """A map, which must have the size of its picture and levels of 0 to `most`, or `IGNORED`."""
    from roadmap.data.images.readers import size

    try:
        report = examine_sized(path, size(Disk(), picture), "its picture has")
    except Refused:  # the picture's own fault is found where that is examined
        report = examine_image(path)
    return report if report.faults else FileReport(report.digest, tuple(_faults_of_map(path, most)))


def _faults_of_map(path: Path, most: int) -> Iterator[tuple[str, str]]:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode not in ("L", "P"):
            yield "map", f"of mode {image.mode}; must be of one level a pixel, 8 bits (L), or of a palette (P)"
            return
    if wrong := sorted(level for level in _seen(path) if level > most and level != IGNORED):
        yield "label", f"has levels {wrong[:SHOWN]}; classes are 0 to {most}, and {IGNORED} is ignored"


def _seen(path: Path) -> set[int]:
    """The levels that a map has."""
    return {level for level, number in enumerate(_levels(path).histogram()[:256]) if number}


def _levels(path: Path) -> Image:
    """A map's levels; Refused where it cannot be decoded."""
    from PIL import Image

    from roadmap.data.images.readers import UNDECODABLE

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UNDECODABLE as error:
        raise Refused(f"{path}: cannot be decoded: {error}") from error
