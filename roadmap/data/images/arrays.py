"""Data sets that are arrays: scikit-learn's digits and CIFAR. No torch here until one is read or fetched."""

from __future__ import annotations

import gzip
import hashlib
import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Source
from roadmap.data.images.examine import examine_files, hash_file
from roadmap.data.images.inventory import Inventory, Reader, Split


class Digits:
    """scikit-learn's 1,797 digits; of every five images of a class the third and the fifth are for evaluation."""

    VAL = (2, 4)

    def list_images(self, data: DataConfig) -> Inventory:
        """Known without looking."""
        return Inventory(None, tuple("0123456789"), Split(1083), Split(714), picture_size=8)

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Of scikit-learn's file."""
        return hashlib.sha256(_content() + str(self.VAL).encode()).hexdigest()[:16]

    def reader(self, data: DataConfig, inventory: Inventory, split: str) -> Reader:
        """Levels of 0..16, stretched to 0..255."""
        from roadmap.data.images.readers import Arrays

        return Arrays(data.source, inventory, split, self.arrays)

    def arrays(self, split: str) -> tuple[Any, Any]:
        """The digits of a split, uint8 (N, 8, 8), and what each is (N,)."""
        import numpy as np

        lines = _lines()
        levels, targets = lines[:, :-1].reshape(-1, 8, 8), lines[:, -1].astype(int)
        is_val = np.zeros(len(targets), dtype=bool)
        for target in range(10):
            (members,) = np.nonzero(targets == target)
            is_val[members] = np.isin(np.arange(len(members)) % 5, self.VAL)
        chosen = is_val if split == "val" else ~is_val
        return (levels[chosen] * (255 / 16)).round().astype(np.uint8), targets[chosen]


def _content() -> bytes:
    """The file of the digits, lines of 64 levels and a class, without importing scikit-learn, which takes two seconds."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise Refused(f"data={Source.digits}: scikit-learn, which brings the digits, is not installed")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    return gzip.decompress(file.read_bytes())  # the archive's own header holds a date


@cache
def _lines() -> Any:
    """The same as numbers (1797, 65), for both splits."""
    import numpy as np

    return np.loadtxt(io.BytesIO(_content()), delimiter=",")


class Cifar:
    """CIFAR-10 or CIFAR-100 as torchvision leaves it in `data.path`: 50,000 and 10,000 images of 32 x 32 pixels."""

    def __init__(self, classes: int, folder: str) -> None:
        self.classes, self.folder, self.name = classes, folder, f"CIFAR{classes}"

    def list_images(self, data: DataConfig) -> Inventory:
        """The published numbers, where the folder is there or can be fetched."""
        assert data.path is not None
        root = Path(data.path).expanduser().absolute()
        if not (root / self.folder).is_dir():
            if not data.download:
                raise Refused(f"data.path={root}: no {self.folder}/ there; data.download=true fetches it")
            from_torchvision(data.source, self.name, root, download=True)
        return Inventory(root, tuple(map(str, range(self.classes))), Split(50_000), Split(10_000), picture_size=32)

    def fingerprint(self, data: DataConfig, inventory: Inventory) -> str:
        """Of every file in the folder."""
        files = sorted(path for path in (inventory.folder / self.folder).iterdir() if path.is_file())
        return examine_files(inventory.folder, files, hash_file)[0]

    def reader(self, data: DataConfig, inventory: Inventory, split: str) -> Reader:
        """A pickle can run anything: torchvision opens these only after it has found their MD5 right."""
        from roadmap.data.images.readers import Arrays

        def load(name: str) -> tuple[Any, Any]:
            content = from_torchvision(data.source, self.name, inventory.root, train=name == "train")
            return content.data, content.targets

        return Arrays(data.source, inventory, split, load)


def from_torchvision(source: str, name: str, root: Path | None, **settings: Any) -> Any:
    """A data set of torchvision's by the name of its class; Refused where it cannot be fetched, or is not what it should be."""
    from torchvision import datasets

    try:
        return getattr(datasets, name)(str(root), **settings)
    except (OSError, RuntimeError) as error:
        if settings.get("download"):
            raise Refused(f"data.download=true: {source} could not be fetched into {root}: {error}") from error
        raise Refused(f"data.path={root}: {source} cannot be read: {error}") from error
