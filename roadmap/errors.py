"""What can go wrong, and the exit code of each.

0 all done; 1 some runs failed; 2 bad configuration or data, said before any training; 3 storage fault;
75 another process is at this run; 143 stopped by a signal, resumable.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from roadmap.redaction import redact

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


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A half-sentence that lists what is allowed and names what the writer probably meant."""
    names = list(map(str, allowed))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"allowed: {', '.join(names) or 'nothing'}{'.' if hint else ''}{hint}"


def exits(main: Callable[[], int | None]) -> Callable[[], NoReturn]:
    """Wrap an entry point so that a `RoadmapError` becomes one message on stderr and its exit code."""

    def entry() -> NoReturn:
        leave_on_signals()
        try:
            code = main()
        except RoadmapError as error:
            code = say(error)
        except KeyboardInterrupt:
            print("roadmap: interrupted", file=sys.stderr)
            code = EXIT_STOPPED
        except BrokenPipeError:  # the reader has gone, as in `| head`; keep Python from saying so again at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_CLOSED_PIPE
        sys.exit(code)

    return entry


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


def say(error: RoadmapError) -> int:
    """Put a fault on stderr as one message; returns its exit code."""
    with suppress(OSError):  # a full disk, where stderr is a file
        print(f"roadmap: {printable(redact(str(error)))}", file=sys.stderr, flush=True)
    return error.exit_code


class Parser(argparse.ArgumentParser):
    """A command line that is refused like everything else: one message, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Refuse."""
        raise Refused(message)


def printable(text: str) -> str:
    """Text with control characters (ANSI escapes among them) made visible, safe for any terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
