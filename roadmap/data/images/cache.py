"""What takes long to compute and can be computed again, in the user's cache folder. No torch here."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from roadmap.base.files import read_json_object, write_atomic

Content = dict[str, Any]  # what JSON can write


def folder(name: str) -> Path:
    """A folder of ours in the user's cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "roadmap" / name


def cached(name: str, key: Any, compute: Callable[[], Content], is_valid: Callable[[Content], bool]) -> Content:
    """What `compute` gives, kept in folder `name` under a key that JSON can write; what is not valid is neither kept nor used."""
    file = folder(name) / hashlib.sha256(json.dumps(key).encode()).hexdigest()
    with lock(file.with_suffix(".lock")):
        if is_valid(content := read_json_object(file)):
            return content
        if is_valid(content := compute()):
            with suppress(OSError):  # a cache that cannot be written costs time, nothing else
                write_atomic(file, json.dumps(content))
        return content


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Wait for a lock file and hold it: of the eight processes of a node one reads ImageNet, the others what it kept.

    Gives whether it is held. Where there can be no lock, all go on and may do the work twice; `base.claims` refuses there.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
            is_held = True
        except OSError:
            is_held = False
        yield is_held
