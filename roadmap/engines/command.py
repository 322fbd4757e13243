"""A run as a command of its own, for engines that carry it out elsewhere: started, passed signals, ended with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(arguments: Sequence[str], processes: int = 1, rendezvous: Sequence[str] = ("--standalone",)) -> list[str]:
    """`python -m roadmap.run` with these arguments; under torchrun where several processes share the run on each node."""
    run = ["-m", "roadmap.run", *arguments]
    if processes == 1 and "--standalone" in rendezvous:
        return [sys.executable, *run]
    return [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}", *run]


def carry_out(line: Sequence[str], log: Path) -> int:
    """Run a command whose words go to the end of `log`; returns its exit code, negative where a signal killed it.

    Signals to this process are passed on, and should it die, the command is asked to stop: no run outlives who watches it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said:
        child = subprocess.Popen(line, stdout=said, stderr=said, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.terminate()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # it died before this
            os._exit(1)
