"""A run as a command of its own, for engines that carry it out elsewhere: started, passed signals, ended with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from roadmap.base.errors import EXIT_STOPPED
from roadmap.base.processes import end_with_parent
from roadmap.base.signals import RUN_SIGNALS, Stop, stop_on_signals

TORCHRUN = "torch.distributed.run"
TICK = 0.1  # seconds until a signal is passed on


def command(arguments: Sequence[str], processes: int = 1, rendezvous: Sequence[str] = ("--standalone",)) -> list[str]:
    """`python -m roadmap.run` with these arguments; under torchrun where several processes share the run on each node."""
    run = ["-m", "roadmap.run", *arguments]
    if processes == 1 and "--standalone" in rendezvous:
        return [sys.executable, *run]
    return [sys.executable, "-m", TORCHRUN, *rendezvous, f"--nproc-per-node={processes}", *run]


def carry_out(line: Sequence[str], log: Path) -> tuple[int, signal.Signals | None]:
    """Run a command whose output goes to the end of `log`; returns its exit code, negative where a signal killed it.

    The first signal that this process gets meanwhile, which is returned too, asks the command to save and stop. Once is
    enough: a second signal of a kind ends a run without saving. And a scheduler may send its signal to all processes of a
    job at once, so a run gets SIGUSR1 from here, which no scheduler sends unasked, and never sees SIGUSR2, by which Slurm
    announces a time limit. Torchrun knows SIGTERM only, and bears to hear it twice. Only from the main thread.
    """
    shared, code = TORCHRUN in line, EXIT_STOPPED
    with stop_on_signals((*RUN_SIGNALS, signal.SIGUSR2), end_at_second_interrupt=False) as stop:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            if not stop.asked:
                code = _run(line, output, stop, signal.SIGTERM if shared else signal.SIGUSR1)
    if stop.asked and (code < 0 or (shared and code)):  # killed by the signal before it could listen
        code = EXIT_STOPPED
    return code, stop.signals[0] if stop.signals else None


def _run(line: Sequence[str], output: BinaryIO, stop: Stop, request: signal.Signals) -> int:
    """Start a command, wait for its end, and send it `request` once this process is asked to stop, or leaves by an exception."""
    child = subprocess.Popen(line, stdout=output, stderr=output, stdin=subprocess.DEVNULL, preexec_fn=_prepare(os.getpid()))
    try:
        while child.poll() is None and not stop.asked:
            time.sleep(TICK)  # not in a system call for long: Ray notes a cancellation where only Python code sees it
        if stop.asked:
            child.send_signal(request)
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()


def _prepare(parent: int) -> Callable[[], None]:
    """What a command does before it begins; it is asked to stop when this process dies."""

    def prepare() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        end_with_parent()
        if os.getppid() != parent:  # it died before this
            os._exit(EXIT_STOPPED)

    return prepare
