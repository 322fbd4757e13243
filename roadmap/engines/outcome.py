"""What became of one run of a sweep."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from roadmap.errors import EXIT_FAILED, EXIT_STOPPED, RUN_SIGNALS, printable
from roadmap.plan import Point


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
        return Outcome(point, 0, "" if result["status"] == "done" else f"{result['status']}: {result.get('reason', '')}")
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
