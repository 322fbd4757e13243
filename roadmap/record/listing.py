"""The runs of a folder by what they are, listed once however many are looked for. No torch here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from roadmap.record.study import seed_and_identity

SETTLED = 1_000_000_000  # nanoseconds without a change, after which a change would show in the folder's time


def runs_of(runs: Path, which: str) -> list[Path]:
    """The folders in `runs` of this seed and identity (`0-1a2b3c4d`), in order; none where there is no such folder."""
    try:
        changed = runs.stat().st_mtime_ns
    except OSError:
        return []
    settled = changed < time.time_ns() - SETTLED  # clocks of file systems tick in milliseconds
    return [runs / name for name in (_kept(runs, changed) if settled else _by_run(runs)).get(which, ())]


@lru_cache(maxsize=1024)
def _kept(runs: Path, changed: int) -> Mapping[str, list[str]]:
    """As it is since it changed."""
    return _by_run(runs)


def _by_run(runs: Path) -> Mapping[str, list[str]]:
    """Names by seed and identity."""
    names = defaultdict[str, list[str]](list)
    for name in sorted(path.name for path in runs.iterdir()):
        names[seed_and_identity(name)].append(name)
    return names
