"""Atomic writes: a file is written beside its place, synchronised, renamed, and its folder synchronised.

A kill or a power cut at any moment leaves the old content or the new. No torch here.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from roadmap.base.errors import Refused

PARTIAL = ".partial-"


@contextmanager
def atomic_file(path: Path, once: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` when the block ends without an error, and is removed otherwise.

    Args:
        path: where the content is to stand; what was there before stays until then.
        once: refuse to replace a file.

    Raises:
        FileExistsError: with `once`, where `path` is there already.
        OSError: where the disk is full or cannot be written.

    """
    partial = path.with_name(f"{path.name}{PARTIAL}{socket.gethostname()}-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if once:
            _link(partial, path)
        else:
            partial.replace(path)
        synchronise(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes, once: bool = False) -> None:
    """Write a file atomically; see `atomic_file`."""
    with atomic_file(path, once) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def regular(path: Path) -> Path:
    """A path to read: what is neither a file nor a folder, such as a pipe or a device, may never end, and is an `OSError`."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def read_json(path: Path) -> Any:
    """What a JSON file holds; an `OSError` where it cannot be read, a `ValueError` where it is no JSON."""
    return parse_json(regular(path).read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """JSON; a `ValueError` where it is none, or nested without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be torn, foreign or absent; empty where there is none."""
    try:
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def synchronise(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove what a killed writer left behind; only for who holds the claim to the folder."""
    for path in folder.glob(f"*{PARTIAL}*"):
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # it is there, or a file system without hard links
        if target.exists():
            raise FileExistsError(f"{target} is there already") from None
        source.replace(target)


def check_writable(folder: Path, said: str) -> None:
    """Refuse a folder that could not be made or written, for which the command line said `said`."""
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    try:
        TemporaryFile(dir=there).close()  # without a name; root may write everywhere, and some systems refuse all the same
    except OSError as error:
        raise Refused(f"{said}: {there} is not a folder that can be written: {error.strerror}") from error


def check_entries(folder: Path) -> None:
    """Refuse a folder that holds what is neither a file nor a folder: to read or write a pipe may never end."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise Refused(f"{path}: not a regular file; remove it")


def check_file(file: Path, said: str) -> None:
    """Refuse a file that cannot be written, for which the command line said `said`."""
    if not file.parent.is_dir() or (not file.is_file() and (file.exists() or file.is_symlink())):  # a device is never replaced
        raise Refused(f"{said}: not a file in a folder that is there")
