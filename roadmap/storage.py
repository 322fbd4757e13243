"""Files that are whole or not there, and claims that die with their holder. No torch here.

A file is written beside its place, synchronised, renamed, and its folder synchronised: a kill or a power cut at any
moment leaves the old content or the new.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from roadmap.errors import Held, Refused

PARTIAL = ".partial-"
ELSEWHERE = "another process"


@contextmanager
def replacing(path: Path, once: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well and leaves nothing when it does not.

    With `once` it takes no place that is taken.

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


def write_whole(path: Path, content: str | bytes, once: bool = False) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, once) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be torn, foreign or absent; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def study_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a study's `study.json` lists; none where there is no such file."""
    rows = read_object(folder / "study.json").get("rows")
    return [row for row in rows if isinstance(row, dict) and "runs" in row] if isinstance(rows, list) else []


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
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(f"{target} is there already") from None
        source.replace(target)


# --- claims ----------------------------------------------------------------------------------------------------------

# A POSIX lock belongs to one process: no child inherits it, and the system takes it back when that process ends, however
# it ends. It goes too when the process closes any descriptor of the file, so a process that holds a claim never opens
# that file again: `_held` knows.
_held: dict[Path, Claim] = {}
_QUESTION = "qqihh" if sys.platform == "darwin" else "hhqqi4x"  # struct flock


@dataclass(frozen=True)
class Claim:
    """The right to write in a folder, held by this process."""

    path: Path
    descriptor: int
    token: str

    def check(self) -> None:
        """Make sure that the claim still holds: a process that was stopped for long may have lost it.

        Raises:
            Held: where it was lost.

        """
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(self.descriptor, self.path) and _read(self.descriptor).get("token") == self.token:
                return
        except OSError:
            pass
        raise Held(f"{self.path.parent}: {holder(self.path) or ELSEWHERE} has taken over from this process, which ends")


@contextmanager
def claim(path: Path, wait: float = 0.0) -> Iterator[Claim]:
    """Hold the lock file `path` inside the block; `wait` seconds for another holder to let go.

    Raises:
        Held: where another process holds it.
        Refused: on a file system without locks.

    """
    taken = _take_within(path.absolute(), wait)
    _held[taken.path] = taken
    try:
        yield taken
    finally:
        with suppress(OSError):
            if _is_file(taken.descriptor, taken.path):
                taken.path.unlink()  # still under the lock; who waits for it looks whether its file is this one
        del _held[taken.path]
        os.close(taken.descriptor)


def holder(path: Path) -> str | None:
    """Who holds the lock file `path`, in words; None where nobody does."""
    path = path.absolute()
    if path in _held:
        return "this process"
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if not _is_locked(descriptor):
            return None
        about = _read(descriptor)
        return f"process {about['pid']} on {about['host']}, since {about['since']}" if about else ELSEWHERE
    finally:
        os.close(descriptor)


def _take_within(path: Path, seconds: float) -> Claim:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _take(path)
        except Held:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _take(path: Path) -> Claim:
    if path in _held:
        raise Held(f"{path.parent}: this process is at it already")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise Held(f"{path.parent}: {holder(path) or ELSEWHERE} is carrying out this run") from None
        except OSError as error:
            os.close(descriptor)
            raise Refused(f"{path}: cannot be locked ({error.strerror}): output= must lie on a disk with file locks") from error
        if _is_file(descriptor, path):
            break
        os.close(descriptor)  # its holder removed it meanwhile
    token = secrets.token_hex(8)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    about = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(about).encode(), 0)
    return Claim(path, descriptor, token)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_locked(descriptor: int) -> bool:
    """Whether another process holds a lock, asked without taking it."""
    wanted, darwin = (fcntl.F_WRLCK, os.SEEK_SET), sys.platform == "darwin"
    question = struct.pack(_QUESTION, *((0, 0, 0, *wanted) if darwin else (*wanted, 0, 0, 0)))
    answer = struct.unpack(_QUESTION, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return bool(answer[3 if darwin else 0] != fcntl.F_UNLCK)


def _read(descriptor: int) -> dict[str, str]:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        return about if isinstance(about, dict) else {}
    except ValueError:
        return {}
