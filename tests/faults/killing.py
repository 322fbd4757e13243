"""Processes that are killed at a random moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress

PRELOADED = ["roadmap.run.execute", "torchvision", "killing"]


def server():
    """Processes forked from one that has imported torch: a start costs a tenth of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def one_run(overrides, log=None):
    """The target of a process: `python -m roadmap.run` with these overrides, without its start."""
    os.setpgid(0, 0)
    from roadmap.base.console import say
    from roadmap.base.errors import EXIT_STOPPED, RoadmapError
    from roadmap.base.signals import leave_on_signals
    from roadmap.config.compose import compose
    from roadmap.run import __main__ as run

    leave_on_signals()
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 2)
    try:
        run.start(compose(overrides))
    except RoadmapError as error:
        os._exit(say(error))
    except KeyboardInterrupt:  # before it trains; `roadmap.base.console.exits` does so
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


def wait_for(found, seconds=90):
    """What is found as soon as it is there."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)
    return value
