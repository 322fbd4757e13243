"""What a command says: its exit code, one message for an error, text that is safe for a terminal."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from roadmap.base import processes
from roadmap.base.errors import EXIT_CLOSED_PIPE, EXIT_STOPPED, Refused, RoadmapError
from roadmap.base.redaction import redact_text
from roadmap.base.signals import leave_on_signals


def exits(main: Callable[[], int | None]) -> Callable[[], NoReturn]:
    """Wrap an entry point so that a `RoadmapError` becomes one message on stderr and its exit code."""

    def entry() -> NoReturn:
        leave_on_signals()
        processes.collect_seldom()
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
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            code = say(Refused(f"{error.filename}: {error.strerror}"))
        processes.leave_garbage()
        sys.exit(code)

    return entry


def say(error: RoadmapError) -> int:
    """Put a fault on stderr as one message; returns its exit code."""
    with suppress(OSError):  # a full disk, where stderr is a file
        print(f"roadmap: {printable(redact_text(str(error)))}", file=sys.stderr, flush=True)
    return error.exit_code


class _Once(argparse._StoreAction):
    """An option with one value: of several argparse keeps the last and says nothing."""

    said = False

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        if self.said and self.option_strings:
            print(f"roadmap: warning: {self.option_strings[0]} is said twice; the last counts", file=sys.stderr)
        self.said = True
        super().__call__(parser, *given)


class Parser(argparse.ArgumentParser):
    """A command line that is refused like everything else: one message, exit code 2. An empty word is no path."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As argparse's."""
        super().__init__(*arguments, **settings)
        self.register("type", Path, _path)
        self.register("action", None, _Once)

    def error(self, message: str) -> NoReturn:
        """Refuse."""
        raise Refused(message)

    def add_folders(self, what: str) -> None:
        """Take folders with `what` of the user's own, and the names of those whose `parts.py` is run."""
        self.add_argument("--config-dir", type=Path, action="append", default=[], help=f"a folder with {what} of your own")
        self.add_argument(
            "--parts",
            action="extend",
            type=names,
            default=[],
            help="folders of --config-dir whose parts.py is run, comma-separated",
        )


def check_limits(arguments: argparse.Namespace, **limits: tuple[float, ...]) -> None:
    """Refuse options below the least or above the most, where there is one, that they may be."""
    for name, (least, *most) in limits.items():
        value = getattr(arguments, name)
        if value is not None and not (least <= value < math.inf and all(value <= bound for bound in most)):
            finite = ["finite"] if isinstance(least, float) else []
            allowed = " and ".join([*finite, f"at least {least}", *(f"at most {bound}" for bound in most)])
            raise Refused(f"--{name.replace('_', '-')} {value}: must be {allowed}")


def _path(word: str) -> Path:
    if not word.strip():
        raise argparse.ArgumentTypeError(f"{word!r} is no path; name a file or a folder")
    return Path(word)


def names(word: str) -> list[str]:
    """Names separated by commas, none of them empty or said twice."""
    found = word.split(",")
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{word!r}: must be names, separated by commas, each once")
    return found


def printable(text: str) -> str:
    """Text with control characters (ANSI escapes among them) made visible, safe for any terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
