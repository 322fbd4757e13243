"""What an engine is: it starts runs, tells which of them have ended, and cancels them; `queue` does the rest for all of them."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Protocol, TypeVar

from roadmap.base.console import printable
from roadmap.base.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_STOPPED, EXIT_STORAGE
from roadmap.config.schema import EngineConfig, RuntimeConfig
from roadmap.sweep.plan import Point

OWN_FAULTS = (EXIT_FAILED, EXIT_REFUSED, EXIT_STORAGE)  # count although there is a result: its weights could not be written


class Cancel(Enum):
    """How a job is cancelled."""

    withdraw = auto()  # unless it has begun
    save = auto()  # its run saves its state and ends
    kill = auto()  # at once, where the engine can do that; nobody waits for it any longer


@dataclass(frozen=True)
class Ending:
    """How a job ended, as far as its engine knows."""

    code: int | None = None  # of the run's process; negative where a signal killed it, as Popen says; None: unknown
    lost: bool = False  # taken away by no fault of the run, which may be started again
    cancelled: bool = False  # by this sweep, or by hand
    why: str = ""  # where there is more to say than the exit code


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its exit code, and the reason where it is not simply done."""

    point: Point
    code: int
    reason: str = ""
    begun: bool = True  # False: the run that it would start from failed

    @property
    def failed(self) -> bool:
        """Whether it ended by a fault: a run that was stopped goes on another time."""
        return self.code not in (0, EXIT_STOPPED)


Job = TypeVar("Job")  # what an engine knows one attempt at a run by; hashable


class Engine(Protocol[Job]):
    """Carries out runs, each apart from the others: what ends one of them ends no other."""

    config: EngineConfig
    pause: ClassVar[float]  # seconds between two polls
    grace: ClassVar[float]  # seconds between asking the runs to save and killing those that did not obey

    def at_a_time(self, runtime: RuntimeConfig) -> int | None:
        """How many runs there is room for at a time; None where somebody else decides."""
        return self.config.jobs

    def open(self, points: Sequence[Point]) -> AbstractContextManager[dict[Job, Point]]:
        """Be ready for these runs inside the block; yields the jobs of theirs that an earlier sweep left under way.

        Raises:
            Refused: where what the engine needs is not there, or cannot give a run what it asks for.

        """

    def capacity(self, under_way: int) -> int:
        """How many more jobs it takes now, besides so many."""

    def submit(self, points: Sequence[Point]) -> list[Job]:
        """Start a job for each of these runs, all at once; none at all where they cannot be taken just now.

        Raises:
            Refused: where they never will be.

        """

    def poll(self, jobs: Mapping[Job, Point]) -> dict[Job, Ending]:
        """Those of these jobs that are over."""

    def pending(self, jobs: Mapping[Job, Point]) -> list[Job]:
        """Those of these jobs that have not begun; none where a job begins at once."""
        return []

    def cancel(self, jobs: Sequence[Job], how: Cancel) -> None:
        """Cancel these jobs; `poll` tells of their ends, but for those that were killed."""


def outcome(point: Point, ending: Ending, times: int = 1) -> Outcome:
    """What the end of a job, the last of so many that were lost, means for its run: the result counts, not the exit code."""
    code, result = ending.code, point.folder.result()
    if result is not None and code not in OWN_FAULTS:
        return Outcome(point, 0, "" if result.done else f"{result.status}: {result.reason}")
    if ending.why:
        often = f", {times} times" if times > 1 else ""
        return Outcome(point, EXIT_FAILED, f"{ending.why}{often}: {last_line(point)}")
    if code == EXIT_STOPPED:
        return Outcome(point, EXIT_STOPPED, "stopped; the same command goes on with it")
    ended = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return Outcome(point, code or EXIT_FAILED, f"{ended}{hint}: {last_line(point)}")


def last_line(point: Point) -> str:
    """The last line of a run's log."""
    try:
        lines = point.folder.log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    written = [line for line in lines if line.strip()]
    return printable(written[-1]) if written else "its log is empty"


def holder(point: Point) -> str | None:
    """Which process is at this run, in words; None where none is, or the lock cannot be read: the run itself will say so."""
    with suppress(OSError):
        return point.folder.holder()
    return None
