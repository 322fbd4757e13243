"""Pictures with objects, as COCO's JSON describes them. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig
from roadmap.data.images import archives
from roadmap.data.images.annotations import Annotations, Picture, objects_of, read_annotations
from roadmap.data.images.examine import FileReport, examine_image, examine_splits, hash_file, refuse_findings, warn
from roadmap.data.images.inventory import NO_CLASS, Inventory, ObjectReader, Objects, Split

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDERS = {"train": ("train", "train2017"), "val": ("val", "val2017")}  # ours, and COCO's own
FILES = ("instances_{}.json", "annotations/instances_{}.json", "annotations/instances_{}2017.json")


class Coco:
    """One's own pictures with COCO's JSON, or COCO itself; every picture and every annotation is examined before training."""

    def list_images(self, data: DataConfig) -> Inventory:
        """The pictures in the order of the files; categories in the order of their ids."""
        root = archives.root_of(data, list(zip(*FOLDERS.values(), strict=True)))
        train, val = (read_annotations(_file(root, split)) for split in FOLDERS)
        findings = [*train.findings, *val.findings]
        refuse_findings(root, findings, data.accept, "annotations")
        if train.categories != val.categories:
            differ = sorted(set(train.categories) ^ set(val.categories))[:3]
            raise Refused(f"data.path={root}: the categories of train and val differ, for example in {differ}")
        names = tuple(name for _, name in train.categories)
        return Inventory(root, names, self._split(_folder(root, "train"), train), self._split(_folder(root, "val"), val))

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Of every picture's name and bytes, and of both JSON files."""
        root = inventory.folder
        known = self._pictures(root)

        def examine(path: Path) -> FileReport:
            return examine_sized(path, known[path].size, "the JSON says") if path in known else hash_file(path)

        fingerprint, findings = examine_splits(inventory, examine, [_file(root, split) for split in FOLDERS])
        warnings = refuse_findings(root, findings, data.accept)
        for split in FOLDERS:
            warnings += refuse_findings(root, read_annotations(_file(root, split)).findings, data.accept, "annotations")
        warn(warnings)
        return fingerprint

    def object_reader(self, data: DataConfig, inventory: Inventory, split: str) -> ObjectReader:
        """Each picture and its masks are decoded when they are asked for."""
        from roadmap.data.images.readers import read_picture

        known = self._pictures(inventory.folder)
        pictures = [(path, known[path]) for path in inventory.split(split).paths]

        def read(index: int) -> tuple[Image, Objects]:
            path, picture = pictures[index]
            return read_picture(inventory.store, path), objects_of(picture)

        return read

    def _pictures(self, root: Path) -> dict[Path, Picture]:
        return {
            _folder(root, split) / picture.name: picture
            for split in FOLDERS
            for picture in read_annotations(_file(root, split)).pictures
        }

    def _split(self, folder: Path, known: Annotations) -> Split:
        paths = [folder / picture.name for picture in known.pictures]
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise Refused(f"{folder}: {len(missing)} pictures of its JSON are not there: {', '.join(missing[:5])}")
        return Split(len(paths), tuple((path, NO_CLASS) for path in paths))


def examine_sized(path: Path, size: tuple[int, int], says: str) -> FileReport:
    """An image file, which must have this height and width, as `says` says."""
    from PIL import Image

    report = examine_image(path)
    if report.faults:
        return report
    with Image.open(path) as image:
        found = image.height, image.width
    reason = f"height, width {list(found)}; {says} {list(size)}"
    return report if found == size else FileReport(report.digest, (("size", reason),))


# --- where things are ------------------------------------------------------------------------------------------------


def _folder(root: Path, split: str) -> Path:
    return _first(root, FOLDERS[split], Path.is_dir, "folder")


def _file(root: Path, split: str) -> Path:
    return _first(root, [name.format(split) for name in FILES], Path.is_file, "file")


def _first(root: Path, names: Sequence[str], is_there: Callable[[Path], bool], what: str) -> Path:
    for name in names:
        if is_there(root / name):
            return root / name
    raise Refused(f"data.path={root}: there is no {what} {names[0]}, nor {', '.join(names[1:])}")
