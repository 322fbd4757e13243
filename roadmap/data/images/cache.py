"""What takes long to find out and can be found out again, in the user's cache folder. No torch here."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from roadmap.base.files import write_whole

Found = TypeVar("Found")


def folder(name: str) -> Path:
    """A folder of ours in the user's cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "roadmap" / name


def remembered(
    name: str, key: Any, find: Callable[[], Found], to: Callable[[Found], Any], of: Callable[[Any], Found | None]
) -> Found:
    """What `find` gives, from the cache where it was found before under this key (anything that JSON can write).

    `to` makes JSON of what is found; `of` reads it again, and gives None for what is not of that form: it is found anew.
    """
    file = folder(name) / hashlib.sha256(json.dumps(key).encode()).hexdigest()
    with alone(file.with_suffix(".lock")):
        if (known := of(_read(file))) is not None:
            return known
        found = find()
        if (content := to(found)) is not None:
            with suppress(OSError):  # a cache that cannot be written costs time, nothing else
                write_whole(file, json.dumps(content))
        return found


@contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """One process of this machine at a time: the eight of a node need not read ImageNet eight times.

    Gives whether that is sure. Where there can be no lock, all go on: what they do here may be done twice.
    """
    with ExitStack() as held:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
            sure = True
        except OSError:
            sure = False
        yield sure


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
