"""What is composed from files is kept in this process, until a file of one's own changes: a notebook goes on for days."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import _lru_cache_wrapper, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from roadmap.base.paths import CONF

Value = TypeVar("Value")

_caches: list[_lru_cache_wrapper[Any]] = []
_known: dict[Path, list[tuple[str, int, int]]] = {}


def kept(function: Callable[..., Value]) -> _lru_cache_wrapper[Value]:
    """The function with its values kept until `renew` finds a folder changed."""
    cache = lru_cache(maxsize=1024)(function)
    _caches.append(cache)
    return cache


def renew(folders: Iterable[Path]) -> None:
    """Forget everything where a settings file or a `parts.py` of these folders has come, gone or changed since the last time."""
    now = {folder: _state(folder) for folder in folders}
    if any(_known.get(folder, state) != state for folder, state in now.items()):
        for cache in _caches:
            cache.cache_clear()
    _known.update(now)


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Of what a run may read there, name, time and size; never a look through all of a folder, which may hold images too."""
    groups = [group.name for group in CONF.iterdir() if group.is_dir()]
    patterns = ("*.py", "step/*/*.yaml", *(f"{group}/*.yaml" for group in groups))
    files = [file for pattern in patterns for file in folder.glob(pattern)]
    return sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file())
