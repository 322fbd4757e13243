"""What images there are: found, counted, checked and fingerprinted before any training. No torch here.

A source knows its classes, its two splits and a fingerprint of its bytes. Faults are refused with their path; an
image that cannot be used is never replaced by another.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from roadmap.base import processes
from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Experiment, Fault, Source
from roadmap.data.images import archives
from roadmap.data.images.examine import examined, hash_file, judge, look_at_image

log = logging.getLogger("roadmap")

SPLITS = ("train", "val")
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LEFT_BY_DESKTOPS = {".DS_Store", "Thumbs.db", "desktop.ini"}
CIFAR_FOLDERS = {Source.cifar10: "cifar-10-batches-py", Source.cifar100: "cifar-100-python"}
DIGITS_HELD_OUT = (2, 4)  # of every five images of a class, these (from 0) are for evaluation
DIGITS_SIZES = {"train": 1083, "val": 714}


@dataclass(frozen=True)
class Split:
    """The images of one split: files with the index of their class, or only their number where there are no files."""

    size: int
    files: tuple[tuple[Path, int], ...] = ()
    chosen: tuple[int, ...] | None = None  # without files: their numbers in the source's training split; None: all of a split


@dataclass(frozen=True)
class Inventory:
    """What a source holds."""

    root: Path | None
    classes: tuple[str, ...]
    train: Split
    val: Split


def inspect(data: DataConfig) -> Inventory:
    """`find`, and a part of the training images in place of the evaluation split where `data.held_out` asks for one."""
    found = find(data)
    if not data.held_out:
        return found
    train, val = _parted(found.train, data.held_out)
    kept, scored = ({target for _, target in split.files} for split in (train, val))
    lost = [name for index, name in enumerate(found.classes) if found.train.files and not {index} <= kept & scored]
    if lost or val.size < len(found.classes):
        raise Refused(
            f"data.held_out={data.held_out:g}: leaves no image of {', '.join(lost[:5]) or 'any class'} to train on or to score; "
            "it must be a share that holds one of each class, or 0"
        )
    return replace(found, train=train, val=val)


def _parted(split: Split, share: float) -> tuple[Split, Split]:
    """What is left and what is held out: evenly spread over each class, or over all images where there are no files."""

    def out(number: int) -> bool:
        return math.floor((number + 1) * share) > math.floor(number * share)

    if not split.files:
        parts = [tuple(i for i in range(split.size) if out(i) == wanted) for wanted in (False, True)]
        left, held = (Split(len(part), chosen=part) for part in parts)
        return left, held
    seen: Counter[int] = Counter()
    files: dict[bool, list[tuple[Path, int]]] = {False: [], True: []}
    for path, target in split.files:
        files[out(seen[target])].append((path, target))
        seen[target] += 1
    left, held = (Split(len(files[wanted]), tuple(files[wanted])) for wanted in (False, True))
    return left, held


def find(data: DataConfig) -> Inventory:
    """Find the images and check them as far as names and numbers go; an archive is unpacked first.

    Raises:
        Refused: for missing folders, classes that differ between the splits, names that not every system keeps apart,
            empty classes, files that are no images by their names.

    """
    if data.source == Source.digits:
        return Inventory(None, tuple("0123456789"), Split(DIGITS_SIZES["train"]), Split(DIGITS_SIZES["val"]))
    assert data.path is not None
    root = Path(data.path).expanduser().absolute()
    if data.source in CIFAR_FOLDERS:
        return _cifar(data, root)
    root = archives.unpacked(root)
    if data.source == Source.imagenette:
        root = _imagenette(data, root)
    return _folder(data, root)


def check(experiment: Experiment) -> Inventory:
    """`inspect`, and the settings that depend on what was found."""
    found = inspect(experiment.data)
    batch = experiment.recipe.batch_size
    if batch > found.train.size:
        raise Refused(
            f"recipe.batch_size={batch}: larger than the training split, which has {found.train.size} images; "
            f"must be at most {found.train.size}"
        )
    return found


def fingerprint(data: DataConfig, found: Inventory) -> str:
    """Sixteen hex digits of every byte of the source and of its split into classes; images are examined on the way.

    Files are read once: a cache in the user's cache folder remembers names, sizes and times of modification.

    Raises:
        Refused: for images that cannot be used, and for those that `data.accept` does not let through.

    """
    if data.source == Source.digits:
        return _hash_digits()
    assert found.root is not None
    if data.source in CIFAR_FOLDERS:
        folder = found.root / CIFAR_FOLDERS[data.source]
        return examined(found.root, sorted(path for path in folder.iterdir() if path.is_file()), hash_file).fingerprint
    files = [path for split in (found.train, found.val) for path, _ in split.files]
    known = examined(found.root, files, look_at_image, len(found.train.files))
    said = judge(found.root, known.findings, data.accept)
    if _out_of_order(found.classes):
        said.append(f"data.accept={Fault.numeric_order} lets through classes in the order {_first(found.classes)}")
    for warning in said if processes.rank() == 0 else []:
        log.warning("warning: %s", warning)
    return known.fingerprint


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(data: DataConfig, root: Path) -> Inventory:
    for split in SPLITS:
        if not (root / split).is_dir():
            raise Refused(f"data.path={root}: there is no folder {root / split}; needed: train/<class>/ and val/<class>/")
    if (root / "train").samefile(root / "val"):
        raise Refused(f"data.path={root}: train and val are the same folder: images that are trained on cannot be held out")
    classes = {split: _classes(root / split) for split in SPLITS}
    _check_classes(root, classes)
    _check_order(data, root, classes["train"])
    train, val = (_split(root / split, classes["train"]) for split in SPLITS)
    return Inventory(root, tuple(classes["train"]), train, val)


def _classes(folder: Path) -> list[str]:
    names = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            raise Refused(f"{entry.path}: a hidden entry among the classes; remove it")
        if not entry.is_dir():
            raise Refused(f"{entry.path}: a file among the classes; {folder} may only hold a folder for each class")
        names.append(entry.name)
    _check_letters(folder, names)
    return names


def _check_letters(folder: Path, names: Sequence[str]) -> None:
    """Windows and macOS take `cat` and `Cat` for one folder, and macOS two ways of writing `é`."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise Refused(
                f"{folder}: the classes {other} and {name} differ in upper and lower case only, and are one folder on other "
                "file systems; rename one, or merge them"
            )


def _check_classes(root: Path, classes: dict[str, list[str]]) -> None:
    if classes["train"] != classes["val"]:
        only = {s: sorted(set(classes[s]) - set(classes[o])) for s, o in (("train", "val"), ("val", "train"))}
        raise Refused(
            f"data.path={root}: the classes of train and val differ: "
            f"only in train {', '.join(only['train']) or 'none'}; only in val {', '.join(only['val']) or 'none'}"
        )
    if len(classes["train"]) < 2:
        raise Refused(f"data.path={root}: found {len(classes['train'])} classes in train; at least 2 are needed")


def _check_order(data: DataConfig, root: Path, classes: Sequence[str]) -> None:
    if not _out_of_order(classes) or Fault.numeric_order in data.accept:
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


def _split(folder: Path, classes: Sequence[str]) -> Split:
    files = [(path, index) for index, name in enumerate(classes) for path in _images(folder / name)]
    return Split(len(files), tuple(files))


def _images(folder: Path) -> list[Path]:
    found = [Path(path) for path in _walk(folder, ())]
    if not found:
        raise Refused(f"{folder}: a class without images")
    return found


def _walk(folder: Path, above: tuple[os.stat_result, ...]) -> Iterator[str]:
    """Paths of the images in a folder and the folders in it, in order; links are followed."""
    here = folder.stat()
    if any(os.path.samestat(here, other) for other in above):
        raise Refused(f"{folder}: a link to a folder that it lies in; remove it")
    for entry in _entries(folder):
        if entry.is_dir():
            if entry.name.startswith("."):
                raise Refused(f"{entry.path}: a hidden folder among the images; remove it")
            yield from _walk(Path(entry.path), (*above, here))
        elif entry.name not in LEFT_BY_DESKTOPS:
            _check_file(entry)
            yield entry.path


def _check_file(entry: os.DirEntry[str]) -> None:
    if not entry.name.lower().endswith(EXTENSIONS):
        raise Refused(f"{entry.path}: not an image by its name; known are {', '.join(EXTENSIONS)}")
    if not entry.is_file():
        raise Refused(f"{entry.path}: not a file, or a link to one that is not there")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise Refused(f"{folder}: cannot be read: {error.strerror}") from error


def _imagenette(data: DataConfig, root: Path) -> Path:
    candidates = [root, *(root / name for name in ("imagenette2-160", "imagenette2-320", "imagenette2"))]
    for folder in candidates:
        if all((folder / split).is_dir() for split in SPLITS):
            return folder
    if data.download:
        _download(data.source, root)
        return _imagenette(replace(data, download=False), root)
    raise Refused(f"data.path={root}: no train/ and val/ there, nor in its imagenette2-160/; data.download=true fetches them")


# --- through torchvision ---------------------------------------------------------------------------------------------


def _cifar(data: DataConfig, root: Path) -> Inventory:
    if not (root / CIFAR_FOLDERS[data.source]).is_dir():
        if not data.download:
            raise Refused(f"data.path={root}: no {CIFAR_FOLDERS[data.source]}/ there; data.download=true fetches it")
        _download(data.source, root)
    number = 10 if data.source == Source.cifar10 else 100
    return Inventory(root, tuple(map(str, range(number))), Split(50_000), Split(10_000))


def _download(source: Source, root: Path) -> None:
    """Let torchvision fetch and check a data set; the only place here that needs torch."""
    from torchvision import datasets

    fetch = {
        Source.imagenette: lambda: datasets.Imagenette(root, size="160px", download=True),
        Source.cifar10: lambda: datasets.CIFAR10(root, download=True),
        Source.cifar100: lambda: datasets.CIFAR100(root, download=True),
    }
    try:
        fetch[source]()
    except (OSError, RuntimeError) as error:
        raise Refused(f"data.download=true: {source} could not be fetched into {root}: {error}") from error


# --- fingerprints ----------------------------------------------------------------------------------------------------


def _hash_digits() -> str:
    """Hash scikit-learn's file without importing scikit-learn, which takes two seconds."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise Refused("data=digits: scikit-learn, which brings the digits, is not installed")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    content = gzip.decompress(file.read_bytes())  # the archive's own header holds a date
    return hashlib.sha256(content + str(DIGITS_HELD_OUT).encode()).hexdigest()[:16]
