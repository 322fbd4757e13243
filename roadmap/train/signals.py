"""Signals that ask a run to stop: noted at once, obeyed between two updates."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from roadmap import launch


class Stop:
    """Whether a signal asked the run to stop, and which; a second one of the same kind acts at once.

    Not so under torchrun, which passes on to its processes what a scheduler may have sent to them already.
    """

    asked: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Inside, SIGINT, SIGTERM and SIGUSR1 only leave a note; the loop reads it after each update."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = signal.Signals(number).name
        if launch.world_size() == 1:
            signal.signal(number, before[signal.Signals(number)])

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
