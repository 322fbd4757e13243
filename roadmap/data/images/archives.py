"""Images in an archive: looked through before anything is written, then unpacked once into the user's cache folder.

An archive is a list of names and contents that somebody else wrote: a name may point out of the folder, an entry may be
a link or a device, and a small file may hold terabytes. What is no plain file or folder is refused, and so is an archive
that does not reach its own end. No torch here.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from roadmap.base.errors import Refused
from roadmap.base.files import PARTIAL
from roadmap.data.images import cache
from roadmap.data.images.examine import hash_file

TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
SUFFIXES = (".zip", *TARS)
MOST_MEMBERS = 2_000_000  # ImageNet has 1.3 million
MOST_RATIO = 200  # bytes unpacked for each byte of the archive; photographs: 1
FREELY = 2**20  # bytes unpacked that need no reason
BLOCK = 4096  # bytes on the disk that a file takes at least
LONGEST_NAME = 2**16  # bytes of a header that tells a name
AT_ONCE = 2**20  # bytes
PADDING = 2**26  # bytes that a tar may have after its end
NO_DATA = {"__MACOSX"}  # what macOS adds to a zip
HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
BROKEN = (  # what the standard library says of damaged archives
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, LookupError, ArithmeticError, RuntimeError),
)
TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


@dataclass(frozen=True)
class Member:
    """One entry: its name as it is written, bytes when unpacked, and what makes it unfit, if anything does."""

    name: str
    size: int
    is_folder: bool
    entry: Any  # zipfile's or tarfile's own
    fault: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The name, folder by folder."""
        return PurePosixPath(self.name).parts


@dataclass(frozen=True)
class Opened:
    """An archive of either kind."""

    members: Iterator[Member]
    open: Callable[[Any], IO[bytes]]


def unpacked(path: Path) -> Path:
    """The folder with the train/ and val/ of an archive; any other path as it is.

    Raises:
        Refused: for an archive that is damaged, holds no train/ and val/, or anything that is not a plain file.

    """
    if not path.name.lower().endswith(SUFFIXES) or path.is_dir():
        return path
    if not path.is_file():
        raise Refused(f"data.path={path}: there is no such archive")
    folder = cache.folder("archives") / _digest(path)[:16]
    with cache.alone(folder.with_suffix(".lock")) as sure:
        if sure:
            for left in folder.parent.glob(f"{folder.name}{PARTIAL}*"):  # by one who was killed
                shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():
            _unpack(path, folder)
    return folder


def _digest(path: Path) -> str:
    state = path.stat()
    key = [str(path), state.st_size, state.st_mtime_ns]
    return cache.remembered("digests", key, lambda: hash_file(path).digest, str, lambda known: _sha256(known))


def _sha256(known: Any) -> str | None:
    return known if isinstance(known, str) and re.fullmatch("[0-9a-f]{64}", known) else None


def _unpack(path: Path, folder: Path) -> None:
    """Into a folder beside it, which takes its name when it is whole."""
    with _opened(path) as archive:
        members = _checked(path, archive.members)
        inner = _inner(path, members)
        partial = folder.with_name(f"{folder.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
        _check_room(path, members, folder)
        try:
            for member in members:
                if member.parts[: len(inner)] == inner:
                    _write(archive, member, partial.joinpath(*member.parts[len(inner) :]))
            os.sync()  # a folder with its name holds all of its files, after a power cut too
            _rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(archive: Opened, member: Member, target: Path) -> None:
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with archive.open(member.entry) as content, target.open("xb") as file:
        while chunk := content.read(min(AT_ONCE, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise ValueError(f"{member.name} is {'longer' if left < 0 else 'shorter'} than its header says, {member.size} bytes")


def _rename(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, where there can be no lock
            raise


# --- what is refused -------------------------------------------------------------------------------------------------


def _checked(path: Path, members: Iterator[Member]) -> list[Member]:
    """All members, or a refusal at the first that is unfit: what follows it is not even read."""
    checked: list[Member] = []
    spelt: dict[str, tuple[str, bool]] = {}
    held, total = path.stat().st_size, 0
    for member in members:
        total += member.size
        if fault := member.fault or _fault_of_name(member) or _fault_of_twice(member, spelt):
            raise Refused(f"data.path={path}: {member.name!r} in it is {fault}; only files and folders are unpacked")
        if len(checked) == MOST_MEMBERS:
            raise Refused(f"data.path={path}: more than {MOST_MEMBERS:,} files and folders in it")
        if total > max(MOST_RATIO * held, FREELY):
            raise Refused(
                f"data.path={path}: its {held:,} bytes would unpack to {total:,} or more, over {MOST_RATIO} times as many; "
                "photographs do not compress like that"
            )
        checked.append(member)
    return checked


def _fault_of_name(member: Member) -> str:
    name = member.name
    if name.startswith("/") or re.match("[A-Za-z]:", name) or "\\" in name:
        return "an absolute name, or one of another system"
    if ".." in member.parts:
        return "a name that leads out of the folder"
    named = member.is_folder or bool(member.parts)
    return "" if named and not re.search(r"[\x00-\x1f\x7f]", name) else "no name that a file can have"


def _fault_of_twice(member: Member, spelt: dict[str, tuple[str, bool]]) -> str:
    """Whether a file is there twice, or once more in other letters; `spelt` has the paths so far, by their plain form."""
    parts = member.parts
    for depth in range(1, len(parts) + 1):
        name, is_folder = "/".join(parts[:depth]), depth < len(parts) or member.is_folder
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain not in spelt:
            spelt[plain] = name, is_folder
        elif spelt[plain][0] != name:
            return f"{spelt[plain][0]!r} too on other file systems: the names differ in upper and lower case only"
        elif not (is_folder and spelt[plain][1]):
            return "there twice"
    return ""


def _inner(path: Path, members: Sequence[Member]) -> tuple[str, ...]:
    """The folder in the archive that holds train/ and val/: none, or one."""
    folders = {m.parts[:n] for m in members for n in (1, 2) if len(m.parts) > n or (m.is_folder and len(m.parts) == n)}
    tops = [(), *sorted(folder for folder in folders if len(folder) == 1 and folder[0] not in NO_DATA)]
    holding = [top for top in tops if {(*top, "train"), (*top, "val")} <= folders]
    if not holding or (holding[0] and len(holding) > 1):
        names = ", ".join(sorted({m.parts[0] for m in members if m.parts})[:10]) or "nothing"
        raise Refused(f"data.path={path}: needs train/ and val/ at its top or in one folder there; at its top: {names}")
    return holding[0]


def _check_room(path: Path, members: Sequence[Member], folder: Path) -> None:
    needed = sum(-(-member.size // BLOCK) * BLOCK + BLOCK for member in members)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise Refused(f"data.path={path}: unpacking takes {needed:,} bytes in {folder.parent}, where {free:,} are free")


# --- the two kinds of archive ----------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[Opened]:
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as content:
                yield Opened(map(_of_zip, content.infolist()), content.open)
        else:
            with tarfile.open(path, tarinfo=_Header) as content:
                yield Opened(_of_tar(content), content.extractfile)  # type: ignore[arg-type]  # None for what is no file
    except BROKEN as error:
        raise Refused(f"data.path={path}: cannot be unpacked: {error}") from error


def _of_zip(entry: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    fault = "encrypted" if entry.flag_bits & 1 else "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
    return Member(entry.orig_filename, entry.file_size, entry.is_dir(), entry, fault)


def _of_tar(archive: tarfile.TarFile) -> Iterator[Member]:
    for entry in archive:
        plain = entry.isdir() or (entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse())
        fault = "" if plain and entry.size >= 0 else TYPES.get(entry.type, "no plain file")
        yield Member(entry.name, 0 if entry.isdir() else entry.size, entry.isdir(), entry, fault)
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
        if header.type in HEADERS and header.size > LONGEST_NAME:  # it would be read into memory
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        return header
