"""What images there are: found, counted, checked and fingerprinted before any training. No torch here.

A source knows its classes, its two splits and a fingerprint of its bytes. Faults are refused with their path; an
image that cannot be used is never replaced by another.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from roadmap.errors import Refused
from roadmap.schema import DataConfig, Experiment, Source

log = logging.getLogger("roadmap")

SPLITS = ("train", "val")
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
LEFT_BY_DESKTOPS = {".DS_Store", "Thumbs.db", "desktop.ini"}
CIFAR_FOLDERS = {Source.cifar10: "cifar-10-batches-py", Source.cifar100: "cifar-100-python"}
DIGITS_HELD_OUT = (2, 4)  # of every five images of a class, these (from 0) are for evaluation
DIGITS_SIZES = {"train": 1083, "val": 714}


@dataclass(frozen=True)
class Split:
    """The images of one split: files with the index of their class, or only their number where there are no files."""

    size: int
    files: tuple[tuple[Path, int], ...] = ()


@dataclass(frozen=True)
class Inventory:
    """What a source holds."""

    root: Path | None
    classes: tuple[str, ...]
    train: Split
    val: Split


def inspect(data: DataConfig) -> Inventory:
    """Find the images and check them as far as names and numbers go.

    Raises:
        Refused: for missing folders, classes that differ between the splits, empty classes, files that are no images.

    """
    if data.source == Source.digits:
        return Inventory(None, tuple("0123456789"), Split(DIGITS_SIZES["train"]), Split(DIGITS_SIZES["val"]))
    assert data.path is not None
    root = Path(data.path).expanduser().absolute()
    if data.source in CIFAR_FOLDERS:
        return _cifar(data, root)
    if data.source == Source.imagenette:
        root = _imagenette(data, root)
    return _folder(root)


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
    """Sixteen hex digits of every byte of the source and of its split into classes.

    Files are hashed once: a cache in the user's cache folder remembers names, sizes and times of modification.
    """
    if data.source == Source.digits:
        return _hash_digits()
    assert found.root is not None
    if data.source in CIFAR_FOLDERS:
        folder = found.root / CIFAR_FOLDERS[data.source]
        return _hash_files(found.root, sorted(path for path in folder.iterdir() if path.is_file()), _hash_file)
    files = [path for split in (found.train, found.val) for path, _ in split.files]
    return _hash_files(found.root, files, _hash_image)


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(root: Path) -> Inventory:
    for split in SPLITS:
        if not (root / split).is_dir():
            raise Refused(f"data.path={root}: there is no folder {root / split}; needed: train/<class>/ and val/<class>/")
    classes = {split: _classes(root / split) for split in SPLITS}
    if classes["train"] != classes["val"]:
        only = {s: sorted(set(classes[s]) - set(classes[o])) for s, o in (("train", "val"), ("val", "train"))}
        raise Refused(
            f"data.path={root}: the classes of train and val differ: "
            f"only in train {', '.join(only['train']) or 'none'}; only in val {', '.join(only['val']) or 'none'}"
        )
    if len(classes["train"]) < 2:
        raise Refused(f"data.path={root}: found {len(classes['train'])} classes in train; at least 2 are needed")
    train, val = (_split(root / split, classes["train"]) for split in SPLITS)
    return Inventory(root, tuple(classes["train"]), train, val)


def _classes(folder: Path) -> list[str]:
    names = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            raise Refused(f"{entry.path}: a hidden entry among the classes; remove it")
        if not entry.is_dir():
            raise Refused(f"{entry.path}: a file among the classes; {folder} may only hold a folder for each class")
        names.append(entry.name)
    return names


def _split(folder: Path, classes: list[str]) -> Split:
    files = [(path, index) for index, name in enumerate(classes) for path in _images(folder / name)]
    return Split(len(files), tuple(files))


def _images(folder: Path) -> list[Path]:
    walked = os.walk(folder, followlinks=True, onerror=_unreadable)
    found = sorted(Path(where) / name for where, _, names in walked for name in names if name not in LEFT_BY_DESKTOPS)
    for path in found:
        if path.suffix.lower() not in EXTENSIONS:
            raise Refused(f"{path}: not an image by its name; known are {', '.join(sorted(EXTENSIONS))}")
        if not path.is_file():
            raise Refused(f"{path}: not a file, or a link to one that is not there")
    if not found:
        raise Refused(f"{folder}: a class without images")
    return found


def _unreadable(error: OSError) -> None:
    raise Refused(f"{error.filename}: cannot be read: {error.strerror}") from error


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


def _hash_files(root: Path, files: Sequence[Path], hash_one: Callable[[Path], str]) -> str:
    listed = [(path, path.stat()) for path in files]
    state = [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in listed]
    key = hashlib.sha256(json.dumps([str(root), state]).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "roadmap" / "fingerprints" / key
    with _alone(cache.with_suffix(".lock")):
        if cache.is_file() and len(cached := cache.read_text().strip()) == 16:
            return cached
        value = _hash_all(root, files, hash_one)
        try:
            partial = cache.with_suffix(f".{os.getpid()}")
            partial.write_text(value)
            partial.replace(cache)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
        return value


def _hash_all(root: Path, files: Sequence[Path], hash_one: Callable[[Path], str]) -> str:
    if len(files) > 5000:
        log.warning("reading %d files in %s once, to know them again", len(files), root)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(hash_one, files))
    content = [[str(path.relative_to(root)), found] for path, found in zip(files, hashes, strict=True)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time: the eight of a node need not read ImageNet eight times."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from error


def _hash_image(path: Path) -> str:
    """Hash an image file, and refuse one that is no image or is damaged where its format can tell without decoding."""
    from PIL import Image

    digest = _hash_file(path)
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"{path}: not an image that can be read: {error}") from error
    return digest
