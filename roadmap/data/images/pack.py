"""A packed data set: thousands of pictures a file, found through an index. No torch here.

    index.json     what is stored: format, classes, number of shards, how pictures were changed
    00000.tar      a shard, an ordinary tar of train/<class>/<file> and val/<class>/<file>
    00000.json     its SHA-256 and size, and each picture's name, place in the tar, size and SHA-256

A picture that was packed as it is keeps its name and bytes, so a data set packed like that keeps its fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from roadmap.base.errors import Refused
from roadmap.base.files import read_json, read_json_object
from roadmap.data.images.examine import FileReport, Finding, duplicates, examine_files, fingerprint_of, hash_file
from roadmap.data.images.inventory import Inventory, Split

FORMAT = 1
INDEX = "index.json"
AGAIN = "remove that file and run the command that packed it again, which writes only what is missing"

KEYS = {"format", "of", "side", "quality", "shards", "pictures", "classes", "findings"}

Header = dict[str, Any]  # what index.json holds


class Entry(NamedTuple):
    """One picture of a shard."""

    name: str  # train/<class>/<file>
    offset: int
    size: int
    digest: str  # the hexadecimal SHA-256 of its bytes


class Shard(NamedTuple):
    """One tar and what is in it."""

    path: Path
    digest: str
    size: int
    entries: tuple[Entry, ...]


def is_pack(root: Path) -> bool:
    """Whether a folder holds a packed data set, finished or not."""
    return (root / INDEX).is_file() and not (root / "train").is_dir()


def shard_path(root: Path, number: int) -> Path:
    """Where a shard lies; its index lies beside it, as .json."""
    return root / f"{number:05}.tar"


def read_shard(path: Path) -> Shard | None:
    """A shard by its own index, None where it was not finished; Refused where that is not of the form, or the tar is cut off."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    try:
        about = read_json(beside)
        shard = Shard(path, str(about["sha256"]), int(about["bytes"]), tuple(Entry(*row) for row in about["images"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{beside}: not the index of a shard ({error}); {AGAIN}") from error
    if path.stat().st_size != shard.size:
        raise Refused(f"{path}: cut off or changed, {path.stat().st_size:,} bytes in place of {shard.size:,}; {AGAIN}")
    return shard


class Pack:
    """A packed data set: where each file lies, which makes it a `Store`, and whether what lies there is what was packed."""

    def __init__(self, root: Path) -> None:
        self.root, self.header = root, read_json_object(root / INDEX)
        if self.header.get("format") != FORMAT or not self.header.keys() >= KEYS:
            raise Refused(f"{root / INDEX}: not the index of a packed data set of format {FORMAT}; pack it again")
        paths = [shard_path(root, number) for number in range(self.header["shards"])]
        self.shards = [shard for path in paths if (shard := read_shard(path))]
        if len(self.shards) < len(paths):
            raise Refused(
                f"data.path={root}: packed only in part, {len(self.shards)} of {len(paths)} shards; the command that packs it "
                "goes on when it is run again"
            )
        self.places = {str(root / entry.name): (shard, entry) for shard in self.shards for entry in shard.entries}

    @cached_property
    def inventory(self) -> Inventory:
        """The images of both splits, in the order in which they were packed."""
        classes = {name: number for number, name in enumerate(self.header["classes"])}
        files: dict[str, list[tuple[Path, int]]] = {"train": [], "val": []}
        for shard in self.shards:
            for entry in shard.entries:
                split, name, *_ = entry.name.split("/")
                if name not in classes or split not in files:
                    raise Refused(f"{shard.path}: {entry.name} in it is of none of the classes in {self.root / INDEX}; {AGAIN}")
                files[split].append((self.root / entry.name, classes[name]))
        train, val = (Split(len(rows), tuple(rows)) for rows in files.values())
        return Inventory(self.root, tuple(classes), train, val, store=self)

    def open(self, path: Path) -> BinaryIO:
        """The bytes of one file."""
        shard, entry = self.places[str(path)]
        with shard.path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            return BytesIO(file.read(entry.size))

    def bytes_of(self, path: Path) -> int:
        """How large it is."""
        return self.places[str(path)][1].size

    def examine(self, files: Sequence[Path], trained: int) -> tuple[str, list[Finding]]:
        """What `examine.examine_files` gives of the same files unpacked; each shard is read once, and compared with its index.

        Refused where a shard's bytes are not those that were packed.
        """
        expected = {shard.path: shard.digest for shard in self.shards}
        indices = [path.with_suffix(".json") for path in expected]  # a changed index asks for the comparison again

        def compare(path: Path) -> FileReport:
            report = hash_file(path)
            is_right = expected.get(path) in (None, report.digest)
            return report if is_right else FileReport(report.digest, (("changed", "not the bytes that were packed"),))

        _, changed = examine_files(self.root, [*expected, *indices], compare)
        if changed:
            names = ", ".join(finding.path for finding in changed)
            raise Refused(f"data.path={self.root}: shards whose SHA-256 is not that of their index: {names}; {AGAIN}")
        entries = [self.places[str(path)][1] for path in files]
        digests = [(entry.name, entry.digest) for entry in entries]
        return fingerprint_of(digests), [*self._findings(entries), *duplicates(self.root, digests, trained)]

    def _findings(self, entries: Sequence[Entry]) -> Iterator[Finding]:
        names = {entry.name for entry in entries}
        for kind, name, reason in self.header["findings"]:
            if name in names:
                yield Finding(kind, str(self.root / name), reason)

    @property
    def changes(self) -> str:
        """What was done to the pictures, for whoever trains on them; empty where they are as they were."""
        side, quality = self.header["side"], self.header["quality"]
        if side is None:
            return ""
        return f"packed from {self.header['of']} with a shorter side of at most {side} pixels, as JPEG of quality {quality}"


def load(root: Path) -> Pack:
    """The pack in a folder, read once by a process as long as none of its files changes."""
    files = sorted(path for path in root.iterdir() if path.suffix in (".json", ".tar"))
    return _load(root, tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=2)
def _load(root: Path, state: tuple[Any, ...]) -> Pack:
    return Pack(root)
