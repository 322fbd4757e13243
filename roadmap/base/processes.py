"""Which of a run's processes this is, alone or one of those that torchrun started, and its cores. No torch here."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from roadmap.base.errors import Refused

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STAT = Path("/proc/stat")
WORK = (0, 1, 2, 5, 6, 7)  # of its columns: user, nice, system, interrupts, and what another machine on this one took
OWN_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # a user's word on how OpenMP's threads wait
NEIGHBOUR = 0.25  # of a core, used by others
USUAL_COLLECTION = gc.get_threshold()


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


class Use(NamedTuple):
    """Seconds up to a moment."""

    clock: float
    cores: float  # for which the cores that this process may use worked
    own: float  # for which this process and its children did


def use_of_cores() -> Use:
    """Up to now; where the system does not tell it, as if the cores had worked for this process alone."""
    own, names = sum(os.times()[:4]), {f"cpu{core}" for core in cores()}
    try:
        lines = [line.split() for line in STAT.read_text(encoding="ascii").splitlines()]
        ticks = sum(int(line[1 + column]) for line in lines if line[0] in names for column in WORK)
    except (OSError, ValueError, IndexError):
        return Use(time.monotonic(), own, own)
    return Use(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own)


_AT_START = use_of_cores()


def wait_asleep_beside_others(before: Use = _AT_START) -> None:
    """Let OpenMP's threads wait asleep where others use these cores; for before torch is imported, which reads it once.

    They wait for each other after every layer, and spin meanwhile: on an idle machine that is the quickest, beside a busy
    process each spins through the time that the other one waits for (2 updates a second in place of 17, on two cores). Others are
    seen by what the cores did beyond this process since it began. What a user has set stays.
    """
    now = use_of_cores()
    others = (now.cores - before.cores) - (now.own - before.own)
    if others > NEIGHBOUR * max(now.clock - before.clock, 0.2) and not any(name in os.environ for name in OWN_WAITING):
        os.environ["GOMP_SPINCOUNT"] = "0"


def collect_seldom() -> None:
    """Look for garbage seldom while a command starts: imports and plans make objects by the hundred thousand, all of which stay.

    Python would look through all of them again and again, a tenth of the time of `import torch`.
    """
    gc.set_threshold(100_000)


def collect_as_usual() -> None:
    """Once a run begins: tensors that hold each other must not wait for the device's memory to fill."""
    gc.set_threshold(*USUAL_COLLECTION)


def leave_garbage() -> None:
    """Before the end: the system takes all memory back at once, where Python would look through it, a fifth of `import torch`.

    Not with Triton's bindings, which count what is left at the end and print it as leaks.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def end_with_parent() -> None:
    """Ask this process to stop when the one that started it dies: no run outlives who watches it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def check_alone(command: str) -> None:
    """Refuse a command that is not meant for several processes."""
    if world_size() > 1:
        raise Refused(f"{command} under torchrun: it starts processes of its own; torchrun is for python -m roadmap.run")
