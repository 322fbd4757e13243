"""Processes that are killed at a random moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress

PRELOADED = ["roadmap.train.execute", "sklearn.datasets", "torchvision", "killing"]


def server():
    """Processes forked from one that has imported torch: a start costs a tenth of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def one_run(overrides, log=None):
    """The target of a process: `python -m roadmap.run` with these overrides, without its start."""
    os.setpgid(0, 0)
    from roadmap import run
    from roadmap.config import compose
    from roadmap.errors import EXIT_STOPPED, RoadmapError, leave_on_signals, say

    leave_on_signals()
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 2)
    try:
        run.start(compose(overrides))
    except RoadmapError as error:
        os._exit(say(error))
    except KeyboardInterrupt:  # before it trains; `roadmap.errors.exits` does so
        os._exit(EXIT_STOPPED)


def killed_after(process, seconds, signal_number=signal.SIGKILL):
    """Let a process live so long at most; returns whether it had to be killed."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    if not process.is_alive():
        return False
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal_number)
    process.join(40)
    return True
