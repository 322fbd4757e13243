"""Data sets that are files, train/<class>/ and val/<class>/ in a folder, an archive or a pack. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Fault
from roadmap.data.images import archives, pack
from roadmap.data.images.arrays import from_torchvision
from roadmap.data.images.examine import Finding, examine_image, examine_splits, refuse_findings, warn
from roadmap.data.images.inventory import Inventory, Reader, Split

SPLITS = ("train", "val")
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LEFT_BY_DESKTOPS = {".DS_Store", "Thumbs.db", "desktop.ini"}


class ImageFolder:
    """One's own photographs, or ImageNet; every image is examined before training."""

    def list_images(self, data: DataConfig) -> Inventory:
        """Every file in the order of names, walked over once by a process as long as no folder changes; or those of a pack."""
        root, any_order = self.root(data), Fault.numeric_order in data.accept
        if pack.is_pack(root):
            inventory = pack.load(root).inventory
            _check_order(root, inventory.classes, any_order)
            return inventory
        key = root, any_order
        if key not in _listings or not _listings[key].holds():
            _listings[key] = Listing(*key)
        return _listings[key].inventory

    def root(self, data: DataConfig) -> Path:
        """The folder with train/ and val/; an archive is unpacked."""
        return archives.root_of(data)

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Of every file's name and bytes."""
        fingerprint, findings = examined(inventory)
        warnings = refuse_findings(inventory.folder, findings, data.accept)
        if isinstance(inventory.store, pack.Pack) and inventory.store.changes:
            warnings.append(f"data.path={inventory.root} is {inventory.store.changes}: another data set than those pictures")
        if _out_of_order(inventory.classes):
            warnings.append(f"data.accept={Fault.numeric_order} lets through classes in the order {_first(inventory.classes)}")
        warn(warnings)
        return fingerprint

    def reader(self, data: DataConfig, inventory: Inventory, split: str) -> Reader:
        """Each picture is decoded when it is asked for."""
        from roadmap.data.images.readers import Files

        return Files(inventory.split(split), inventory.store)


class Imagenette(ImageFolder):
    """Ten classes of ImageNet, also in the folder that torchvision unpacks into `data.path`."""

    def root(self, data: DataConfig) -> Path:
        """The folder with train/ and val/, fetched where it may be."""
        path = super().root(data)
        if pack.is_pack(path):
            return path
        if data.download and not _torchvision_root(path):
            from_torchvision(data.source, "Imagenette", path, size="160px", download=True)
        root = _torchvision_root(path)
        if root is None:
            raise Refused(
                f"data.path={path}: no train/ and val/ there, nor in its imagenette2-160/; data.download=true fetches them"
            )
        return root


def examined(inventory: Inventory) -> tuple[str, list[Finding]]:
    """The fingerprint of all names and bytes, and what is wrong with which image; see `examine.examine_files`."""
    if isinstance(inventory.store, pack.Pack):
        train, val = inventory.train.paths, inventory.val.paths
        return inventory.store.examine(train + val, len(train))
    return examine_splits(inventory, examine_image)


def _torchvision_root(path: Path) -> Path | None:
    folders = [path, *(path / name for name in ("imagenette2-160", "imagenette2-320", "imagenette2"))]
    return next((folder for folder in folders if all((folder / split).is_dir() for split in SPLITS)), None)


# --- listing ---------------------------------------------------------------------------------------------------------


class Listing:
    """The images under a folder, and the state of every folder on the way.

    A file that is added, removed or renamed changes its folder. Other bytes in a file do not: the fingerprint, which looks
    at every file's size and time, shows them. So a run trains on what its fingerprint says, however old the listing is.
    """

    def __init__(self, root: Path, any_order: bool) -> None:
        self._states: dict[str, tuple[int, ...]] = {}
        for split in SPLITS:
            if not (root / split).is_dir():
                raise Refused(f"data.path={root}: there is no folder {root / split}; needed: train/<class>/ and val/<class>/")
        if (root / "train").samefile(root / "val"):
            raise Refused(f"data.path={root}: train and val are the same folder: images that are trained on cannot be held out")
        classes, val_classes = (self._classes(root / split) for split in SPLITS)
        _check_classes(root, classes, val_classes)
        _check_order(root, classes, any_order)
        train, val = (self._split(root / split, classes) for split in SPLITS)
        self.inventory = Inventory(root, tuple(classes), train, val)

    def holds(self) -> bool:
        """Whether no folder has changed since."""
        try:
            return all(_state(folder) == state for folder, state in self._states.items())
        except OSError:
            return False

    def _classes(self, folder: Path) -> list[str]:
        entries = self._entries(str(folder))
        for entry in entries:
            if entry.name.startswith("."):
                raise Refused(f"{entry.path}: a hidden entry among the classes; remove it")
            if not entry.is_dir():
                raise Refused(f"{entry.path}: a file among the classes; {folder} may only hold a folder for each class")
        names = [entry.name for entry in entries]
        if twins := archives.twins(names):
            raise Refused(
                f"{folder}: the classes {' and '.join(twins)} differ in upper and lower case only, and are one folder on other "
                "file systems; rename one, or merge them"
            )
        return names

    def _split(self, folder: Path, classes: Sequence[str]) -> Split:
        files: list[tuple[Path, int]] = []
        for index, name in enumerate(classes):
            before = len(files)
            files += [(Path(path), index) for path in self._images(str(folder / name), ())]
            if len(files) == before:
                raise Refused(f"{folder / name}: a class without images")
        return Split(len(files), tuple(files))

    def _images(self, folder: str, parents: tuple[tuple[int, ...], ...]) -> Iterator[str]:
        """Paths of the images in a folder and the folders in it, in order; links are followed."""
        entries, identity = self._entries(folder), self._states[folder][:2]
        if identity in parents:
            raise Refused(f"{folder}: a link to a folder that it lies in; remove it")
        for entry in entries:
            if entry.is_dir():
                if entry.name.startswith("."):
                    raise Refused(f"{entry.path}: a hidden folder among the images; remove it")
                yield from self._images(entry.path, (*parents, identity))
            elif entry.name not in LEFT_BY_DESKTOPS:
                if not entry.name.lower().endswith(EXTENSIONS):
                    raise Refused(f"{entry.path}: not an image by its name; known are {', '.join(EXTENSIONS)}")
                if not entry.is_file():
                    raise Refused(f"{entry.path}: not a file, or a link to one that is not there")
                yield entry.path

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            self._states[folder] = _state(folder)
            with os.scandir(folder) as entries:
                return sorted(entries, key=attrgetter("name"))
        except OSError as error:
            raise Refused(f"{folder}: cannot be read: {error.strerror}") from error


_listings: dict[tuple[Path, bool], Listing] = {}  # of this process


def _state(folder: str) -> tuple[int, ...]:
    """Which folder it is, and when it was last changed."""
    stat = Path(folder).stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _check_classes(root: Path, train: Sequence[str], val: Sequence[str]) -> None:
    if train != val:
        only = [", ".join(sorted(set(one) - set(other))) or "none" for one, other in ((train, val), (val, train))]
        raise Refused(f"data.path={root}: the classes of train and val differ: only in train {only[0]}; only in val {only[1]}")
    if len(train) < 2:
        raise Refused(f"data.path={root}: found {len(train)} classes in train; at least 2 are needed")


def _check_order(root: Path, classes: Sequence[str], any_order: bool) -> None:
    if any_order or not _out_of_order(classes):
        return
    width = max(map(len, classes))
    moved = next(name for name in classes if len(name) < width)
    raise Refused(
        f"data.path={root}: classes are numbered in the order of their letters, here {_first(classes)}, which is not that of "
        f"the numbers they are named by; rename them with {width} digits ({moved} to {moved.zfill(width)}) in train and val, "
        f"or accept it with data.accept=[{Fault.numeric_order}]"
    )


def _out_of_order(classes: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdecimal() for name in classes) and list(classes) != sorted(classes, key=int)


def _first(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
