"""What can go wrong, and the exit code of each.

0 all done; 1 some runs failed; 2 bad configuration or data, refused before any training; 3 storage fault;
75 another process is at this run; 143 stopped by a signal, resumable.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_STORAGE = 3
EXIT_HELD = 75  # another process is at this run
EXIT_STOPPED = 143
EXIT_CLOSED_PIPE = 141  # as the shell reports SIGPIPE


class RoadmapError(Exception):
    """A fault that a user can act on: shown as one message, without a traceback."""

    exit_code = EXIT_FAILED


class Refused(RoadmapError):
    """Configuration or data that no run can start from."""

    exit_code = EXIT_REFUSED


class StorageFault(RoadmapError):
    """The disk is full, read-only, or gave back something other than what was written."""

    exit_code = EXIT_STORAGE


class Held(RoadmapError):
    """Another process is carrying out this run, or has taken it over from this one."""

    exit_code = EXIT_HELD


class Diverged(RoadmapError):
    """A loss or a gradient was not finite: the run ended before the update that would have spoilt its weights."""


class OutOfMemory(RoadmapError):
    """The device has no room for an update; the batch is never made smaller in silence."""


class Stopped(RoadmapError):
    """A signal asked the run to stop; it saved its state first."""

    exit_code = EXIT_STOPPED


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Whatever is refused inside is said to be at this place, if any."""
    try:
        yield
    except Refused as fault:
        raise Refused(f"{place}: {fault}" if place else str(fault)) from fault


@contextmanager
def writing(what: str) -> Iterator[None]:
    """A disk that does not take what is written inside is a `StorageFault`, which says what could not be written."""
    try:
        yield
    except OSError as error:
        raise StorageFault(f"{what} could not be written: {error}") from error


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A half-sentence that lists what is allowed and names what the writer probably meant."""
    names = list(map(str, allowed))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"allowed: {', '.join(names) or 'nothing'}{'.' if hint else ''}{hint}"


def first_line(error: BaseException) -> str:
    """What is wrong, in one line: without torch's advice to load what it refused, without Hydra's and YAML's context."""
    return (str(error) or type(error).__name__).splitlines()[0]


def first_of(names: Collection[str], most: int = 3) -> str:
    """The first few of what a message is about, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more
