"""Signals that ask a run to stop: noted at once, obeyed between two updates."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from roadmap import launch
from roadmap.errors import RUN_SIGNALS


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
        if number == signal.SIGINT and launch.world_size() == 1:
            signal.signal(number, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in RUN_SIGNALS}
    for number in RUN_SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
