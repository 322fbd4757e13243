"""Images in an archive: looked through before anything is written, then unpacked once into the user's cache folder.

Python unpacks: its zipfile, and its tarfile under the filter for data, keep names inside the folder and write no more of
a file than its header says. What they would mend in silence or do not look at is refused before. No torch here.
"""

from __future__ import annotations

import lzma
import os
import re
import secrets
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from roadmap.base.errors import Refused
from roadmap.base.files import PARTIAL
from roadmap.config.schema import DataConfig
from roadmap.data.images import cache
from roadmap.data.images.examine import hash_file

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
MOST_MEMBERS = 2_000_000  # ImageNet has 1.3 million
MOST_RATIO = 200  # bytes unpacked for each byte of the archive; photographs: 1
FREELY = 2**20  # bytes unpacked that need no reason
BLOCK = 4096  # bytes on the disk that a file takes at least
DEEPEST = 100  # folders in a name
LONGEST_NAME = 2**16  # bytes of a header that tells a name
AT_ONCE, PADDING = 2**20, 2**26  # bytes read at once, and in all, of what a tar has after its end
ADDED_BY_MACOS = ("__MACOSX",)  # a folder in a zip
TYPES = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a pipe"}
TYPES |= dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE), "a device")
NAMES = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
DAMAGED = (  # what the standard library raises
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, LookupError, ArithmeticError, RuntimeError),
)

Parts = tuple[str, ...]  # of a name, folder by folder
SPLITS = (("train", "val"),)


class Member(NamedTuple):
    """One entry of an archive: its name as it is written, its bytes when unpacked, and what makes it unfit."""

    name: str
    parts: Parts
    size: int
    is_folder: bool
    fault: str = ""


def unpacked(path: Path, layouts: Sequence[Parts] = SPLITS) -> Path:
    """The folder with the train/ and val/ of an archive, or the folders of another of the layouts; any other path as it is.

    Refused: an archive that is damaged, holds no such folders, or anything that is not a plain file.
    """
    if not path.name.lower().endswith(SUFFIXES) or path.is_dir():
        return path
    if not path.is_file():
        raise Refused(f"data.path={path}: there is no such archive")
    folder = cache.folder("archives") / _digest(path)[:16]
    with cache.lock(folder.with_suffix(".lock")) as is_held:
        for left in folder.parent.glob(f"{folder.name}{PARTIAL}*") if is_held else []:  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():
            _unpack(path, folder, layouts)
    return folder


def root_of(data: DataConfig, layouts: Sequence[Parts] = SPLITS) -> Path:
    """The folder that `data.path` is or holds; see `unpacked`."""
    assert data.path is not None
    return unpacked(Path(data.path).expanduser().absolute(), layouts)


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are equal, or one to Windows or macOS: `cat` and `Cat`, and to macOS two ways of writing `é`."""
    known: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in known:
            return known[plain], name
        known[plain] = name
    return None


def _digest(path: Path) -> str:
    def is_valid(content: cache.Content) -> bool:
        return bool(re.fullmatch("[0-9a-f]{64}", str(content.get("digest"))))

    key = [str(path), path.stat().st_size, path.stat().st_mtime_ns]
    return cache.cached("digests", key, lambda: {"digest": hash_file(path).digest}, is_valid)["digest"]


def _unpack(path: Path, folder: Path, layouts: Sequence[Parts]) -> None:
    """Into a folder beside it; what holds the folders of a layout takes the name when it is whole."""
    beside = folder.with_name(f"{folder.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with _opened(path) as (entries, extract):
            members = _checked(path, entries)
            folders = {member.parts[:n] for member in members for n in range(len(member.parts) + member.is_folder)}
            _check_twins(path, members, folders)
            top = _top(path, members, folders, layouts)
            _check_room(path, members, folder.parent)
            extract(beside)
            os.sync()  # a folder with its name holds all of its files, after a power cut too
            _rename(beside.joinpath(*top), folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _rename(unpacked: Path, folder: Path) -> None:
    try:
        unpacked.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, where there can be no lock
            raise


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[Member], Callable[[Path], None]]]:
    """The members of an archive, and a function that unpacks it into a folder."""
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                yield map(_of_zip, archive.infolist()), archive.extractall
        elif not hasattr(tarfile, "data_filter"):
            raise Refused(f"data.path={path}: a tar is unpacked by Python 3.11.4 or newer; unpack it, and give its folder")
        else:
            with tarfile.open(path, tarinfo=_Header) as archive:
                yield _of_tar(archive), partial(archive.extractall, filter="data")
    except DAMAGED as error:
        raise Refused(f"data.path={path}: cannot be unpacked: {error}") from error


def _of_zip(entry: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    fault = "encrypted" if entry.flag_bits & 1 else "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
    name = entry.orig_filename if "\0" in entry.orig_filename else entry.filename  # zipfile cuts a name there
    return Member(name, PurePosixPath(name).parts, entry.file_size, entry.is_dir(), fault)


def _of_tar(archive: tarfile.TarFile) -> Iterator[Member]:
    for entry in archive:
        is_plain = entry.isdir() or (entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse())
        fault = "" if is_plain and entry.size >= 0 else TYPES.get(entry.type, "no plain file")
        yield Member(entry.name, PurePosixPath(entry.name).parts, 0 if entry.isdir() else entry.size, entry.isdir(), fault)
    assert archive.fileobj is not None
    for _ in range(PADDING // AT_ONCE):  # to the end, where the checksum of the compression is
        if not archive.fileobj.read(AT_ONCE):
            break


class _Header(tarfile.TarInfo):
    """A header that is damaged ends the reading with an error; tarfile takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf) == bytes(tarfile.BLOCKSIZE):  # the true end
                raise
            raise tarfile.ReadError(f"a damaged header, or an archive that was cut off ({error})") from error
        if header.type in NAMES and header.size > LONGEST_NAME:  # it would be read into memory
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        return header


# --- what is refused -------------------------------------------------------------------------------------------------


def _checked(path: Path, members: Iterable[Member]) -> list[Member]:
    """All members, or a refusal at the first that is unfit: what follows it is not even read."""
    checked: list[Member] = []
    size, total = path.stat().st_size, 0
    for member in members:
        total += member.size
        if fault := member.fault or _fault_of_name(member):
            raise Refused(f"data.path={path}: {member.name!r} in it is {fault}; only files and folders are unpacked")
        if len(checked) == MOST_MEMBERS:
            raise Refused(f"data.path={path}: more than {MOST_MEMBERS:,} files and folders in it")
        if total > max(MOST_RATIO * size, FREELY):
            raise Refused(
                f"data.path={path}: its {size:,} bytes would unpack to {total:,} or more, over {MOST_RATIO} times as many; "
                "photographs do not compress like that"
            )
        checked.append(member)
    return checked


def _fault_of_name(member: Member) -> str:
    if re.match(r"/|[A-Za-z]:|.*\\", member.name, re.DOTALL):
        return "an absolute name, or one of another system"
    if ".." in member.parts:
        return "a name that leads out of the folder"
    is_name = (member.is_folder or member.parts) and not re.search(r"[\x00-\x1f\x7f]", member.name)
    return "" if is_name and len(member.parts) <= DEEPEST else "no name that a file can have"


def _check_twins(path: Path, members: Iterable[Member], folders: Iterable[Parts]) -> None:
    files = (member.parts for member in members if not member.is_folder)
    if pair := twins("/".join(parts) for parts in (*sorted(folders), *files)):
        one, other = map(repr, pair)
        capitals = f"{one} too on other file systems: the names differ in upper and lower case only"
        raise Refused(f"data.path={path}: {other} in it is {'there twice' if one == other else capitals}")


def _top(path: Path, members: Iterable[Member], folders: set[Parts], layouts: Sequence[Parts]) -> Parts:
    """The folder in the archive that holds train/ and val/, or another layout: none, or one."""
    tops = sorted({folder[:-1] for folder in folders if len(folder) in (1, 2)} - {ADDED_BY_MACOS})
    holding = [top for top in tops if any({(*top, name) for name in layout} <= folders for layout in layouts)]
    if not holding or (holding[0] and len(holding) > 1):
        names = ", ".join(sorted({member.parts[0] for member in members if member.parts})[:10]) or "nothing"
        needed = ", or ".join(" and ".join(f"{name}/" for name in layout) for layout in layouts)
        raise Refused(f"data.path={path}: needs {needed} at its top or in one folder there; at its top: {names}")
    return holding[0]


def _check_room(path: Path, members: Sequence[Member], folder: Path) -> None:
    needed = sum(-(-member.size // BLOCK) * BLOCK + BLOCK for member in members)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Refused(f"data.path={path}: unpacking takes {needed:,} bytes in {folder}, where {free:,} are free")
