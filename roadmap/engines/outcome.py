"""What became of one run of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from roadmap.plan import Point


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its exit code, and the reason where it is not simply done."""

    point: Point
    code: int
    reason: str = ""
