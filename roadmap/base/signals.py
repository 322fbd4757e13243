"""Signals: what stops a run or a sweep, and who hears of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from roadmap.base import processes
from roadmap.base.errors import EXIT_STOPPED

RUN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What stops a run or a sweep: their own business, not that of their helpers."""


def take_back() -> None:
    """Install the handlers that Python knows of again, where a library in C++ took their signals unseen by Python."""
    for number in RUN_SIGNALS:
        signal.signal(number, signal.getsignal(number))


def leave_on_signals() -> None:
    """SIGTERM and SIGUSR1 end this process with the exit code of a stop, where nothing else takes them: nothing is half done."""

    def leave(number: int, frame: object) -> NoReturn:
        os.write(2, f"roadmap: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, leave)


class Stop:
    """The signals that asked a run or a sweep to stop, in the order in which they came."""

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    @property
    def asked(self) -> str | None:
        """The name of the first of them; None while nothing asks."""
        return self.signals[0].name if self.signals else None


@contextmanager
def stop_on_signals(numbers: Sequence[signal.Signals] = RUN_SIGNALS, end_at_second_interrupt: bool = True) -> Iterator[Stop]:
    """Inside, these signals only leave a note, for a loop to read. For the main thread.

    A second Ctrl-C ends the process at once, unless told otherwise. No other signal does: a scheduler, torchrun and a sweep
    may each forward one that the others have sent already; under torchrun that holds for Ctrl-C too.
    """
    stop, before = Stop(), {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signals.append(signal.Signals(number))
        if number == signal.SIGINT and end_at_second_interrupt and processes.world_size() == 1:
            signal.signal(number, before[signal.SIGINT])

    try:
        for number in numbers:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
