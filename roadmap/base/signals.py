"""Signals: what stops a run or a sweep, and how it is noted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from roadmap.base import processes
from roadmap.base.errors import EXIT_STOPPED

RUN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What stops a run or a sweep: their own business, not that of their helpers."""


def leave_on_signals() -> None:
    """SIGTERM and SIGUSR1 end this process with the exit code of a stop, where nothing else takes them: nothing is half done."""

    def leave(number: int, frame: object) -> NoReturn:
        os.write(2, f"roadmap: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, leave)


class Stop:
    """Whether a signal asked the run to stop, and which; a second Ctrl-C acts at once.

    No other does: a scheduler, torchrun and a sweep each pass on what the others may have sent already. Under torchrun
    that holds for Ctrl-C too.
    """

    asked: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Inside, SIGINT, SIGTERM and SIGUSR1 only leave a note; the loop reads it after each update."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = signal.Signals(number).name
        if number == signal.SIGINT and processes.world_size() == 1:
            signal.signal(number, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in RUN_SIGNALS}
    for number in RUN_SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
