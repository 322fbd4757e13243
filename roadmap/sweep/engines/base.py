"""What an engine is: it carries out the runs of a sweep and says what became of each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from roadmap.base.console import printable
from roadmap.base.errors import EXIT_FAILED, EXIT_STOPPED
from roadmap.base.signals import RUN_SIGNALS
from roadmap.config.schema import RuntimeConfig
from roadmap.sweep.plan import Point


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its exit code, and the reason where it is not simply done."""

    point: Point
    code: int
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ended by a fault: a run that was stopped goes on another time."""
        return self.code not in (0, EXIT_STOPPED)


Tell = Callable[[list[Outcome], list[Point]], None]  # hears of what is over, and of what is under way


class Engine(Protocol):
    """Carries out runs, each apart from the others: what ends one of them ends no other."""

    def places(self, runtime: RuntimeConfig) -> int | None:
        """How many runs there is room for at a time; None where somebody else decides."""

    def run(self, points: Sequence[Point], tell: Tell) -> list[Outcome]:
        """Run every point; returns what became of each, those not started included.

        A run is done when its folder holds a result. SIGINT and SIGTERM end the call: what is under way is asked to save,
        and what was not started comes back with `EXIT_STOPPED`. A run that another process holds is waited for.
        """


def closed(over: Sequence[Outcome], max_failures: int | None, stop: Sequence[str]) -> str:
    """Why an engine starts nothing more, after so many failed runs or a signal; empty while it does."""
    failed = sum(end.failed for end in over)
    if max_failures is not None and failed >= max_failures:
        return f"{failed} runs failed"
    return stop[0] if stop else ""


def outcome(point: Point, code: int | None, stopping: bool = False) -> Outcome:
    """What a process that ended with `code` (negative: by that signal, as Popen says) leaves: the result counts, not the code."""
    result = point.folder.result()
    if result is not None and code in (0, None):
        return Outcome(point, 0, "" if result.done else f"{result.status}: {result.reason}")
    if code == EXIT_STOPPED or stopping:
        return Outcome(point, EXIT_STOPPED, "stopped; the same command goes on with it")
    ended = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return Outcome(point, code or EXIT_FAILED, f"{ended}{hint}: {last_line(point)}")


def last_line(point: Point) -> str:
    """The last that a run said in its log."""
    try:
        lines = point.folder.log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    said = [line for line in lines if line.strip()]
    return printable(said[-1]) if said else "its log is empty"


@contextmanager
def noted_signals() -> Iterator[list[str]]:
    """Inside, signals that ask a sweep to stop are only noted, by name."""
    noted: list[str] = []
    before = {number: signal.signal(number, lambda n, frame: noted.append(signal.Signals(n).name)) for number in RUN_SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
