"""Locks that are released when their process ends: who may write in a folder. No torch here."""

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

from roadmap.base.errors import Held, Refused

ELSEWHERE = "another process"


# A POSIX lock belongs to one process: no child inherits it, and the system takes it back when that process ends, however
# it ends. It goes too when the process closes any descriptor of the file, so a process that holds a claim never opens
# that file again: `_held` knows.
_held: dict[Path, Claim] = {}
_QUESTION = "qqihh" if sys.platform == "darwin" else "hhqqi4x"  # struct flock


@dataclass(frozen=True)
class Claim:
    """A lock held by this process: the right to write in a folder."""

    path: Path
    descriptor: int
    token: str

    def check(self) -> None:
        """Make sure that the lock is still ours: a process that stood still for long may have lost it.

        Raises:
            Held: where it was lost.

        """
        with suppress(OSError):
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(self.descriptor, self.path) and _read(self.descriptor).get("token") == self.token:
                return
        raise Held(f"{self.path.parent}: {holder(self.path) or ELSEWHERE} has taken over from this process, which ends")


@contextmanager
def claim(path: Path, wait: float = 0.0) -> Iterator[Claim]:
    """Hold the lock file `path` inside the block; `wait` seconds for another holder to let go.

    Raises:
        Held: where another process holds it.
        Refused: on a file system without locks.

    """
    lock = _take_within(path.absolute(), wait)
    _held[lock.path] = lock
    try:
        yield lock
    finally:
        with suppress(OSError):
            if _is_file(lock.descriptor, lock.path):
                lock.path.unlink()  # while it is locked: whoever waits for it checks that the file is still this one
        del _held[lock.path]
        os.close(lock.descriptor)


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
    exclusive, darwin = (fcntl.F_WRLCK, os.SEEK_SET), sys.platform == "darwin"
    question = struct.pack(_QUESTION, *((0, 0, 0, *exclusive) if darwin else (*exclusive, 0, 0, 0)))
    answer = struct.unpack(_QUESTION, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return bool(answer[3 if darwin else 0] != fcntl.F_UNLCK)


def _read(descriptor: int) -> dict[str, str]:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        return about if isinstance(about, dict) else {}
    except ValueError:
        return {}
