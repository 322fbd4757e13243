"""The runs of a folder by what they are, listed once however many are looked for. No torch here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from roadmap.record.study import seed_and_identity

SETTLED = 1_000_000_000  # nanoseconds without a change, after which a change would show in the folder's time


@dataclass(frozen=True)
class Listing:
    """What a `runs` folder held when it was listed."""

    changed: int  # nanoseconds, by the folder's own time
    listed: int
    names: Mapping[str, tuple[str, ...]]  # by seed and identity

    @property
    def settled(self) -> bool:
        """Whether a change since would have another time: clocks of file systems tick in milliseconds."""
        return self.changed < self.listed - SETTLED


_listings: dict[Path, Listing] = {}


def runs_of(runs: Path, which: str) -> list[Path]:
    """The folders in `runs` of this seed and identity (`0-1a2b3c4d`), in order; none where there is no such folder."""
    return [runs / name for name in _listing(runs).names.get(which, ())]


def _listing(runs: Path) -> Listing:
    """The folder as it is: listed anew where it has changed, or only just had."""
    try:
        changed = runs.stat().st_mtime_ns
    except OSError:
        return Listing(0, 0, {})
    known = _listings.get(runs)
    if known is None or known.changed != changed or not known.settled:
        known = _listings[runs] = Listing(changed, time.time_ns(), _by_run(runs))
    return known


def _by_run(runs: Path) -> Mapping[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for name in sorted(path.name for path in runs.iterdir()):
        names.setdefault(seed_and_identity(name), []).append(name)
    return {which: tuple(known) for which, known in names.items()}
