"""Which of a run's processes this is, alone or one of those that torchrun started, and its cores. No torch here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from roadmap.base.errors import Refused

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def rank() -> int:
    """Number of this process among all of the run, 0 for the one that writes."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes share the run, over all nodes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Number of this process on its node: the GPU that it uses."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """How many of the run's processes are on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def cores() -> tuple[int, ...]:
    """CPU cores that this process may use, by their numbers."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(os.cpu_count() or 1))


def end_with_parent() -> None:
    """Ask this process to stop when the one that started it dies: no run outlives who watches it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def check_alone(command: str) -> None:
    """Refuse a command that is not meant for several processes."""
    if world_size() > 1:
        raise Refused(f"{command} under torchrun: it starts processes of its own; torchrun is for python -m roadmap.run")
