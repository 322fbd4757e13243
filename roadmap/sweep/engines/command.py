"""A run as a command of its own, for engines that carry it out elsewhere: started, passed signals, ended with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from roadmap.base.errors import EXIT_STOPPED
from roadmap.base.processes import end_with_parent

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TORCHRUN = "torch.distributed.run"


def command(arguments: Sequence[str], processes: int = 1, rendezvous: Sequence[str] = ("--standalone",)) -> list[str]:
    """`python -m roadmap.run` with these arguments; under torchrun where several processes share the run on each node."""
    run = ["-m", "roadmap.run", *arguments]
    if processes == 1 and "--standalone" in rendezvous:
        return [sys.executable, *run]
    return [sys.executable, "-m", TORCHRUN, *rendezvous, f"--nproc-per-node={processes}", *run]


def carry_out(line: Sequence[str], log: Path, heard: Callable[[int], None] = lambda number: None) -> int:
    """Run a command whose words go to the end of `log`; returns its exit code, negative where a signal killed it.

    The first signal to this process asks the command to save and stop, and `heard` is told of each; should this process
    die, the command is asked too. Signals count as early as this is called. Only from the main thread.
    """
    asked = _Asked(line, heard)
    before = {number: signal.signal(number, asked) for number in STOPPING}
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            asked.start(said.fileno())
        return asked.code()
    finally:
        asked.end()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Asked:
    """A command, and whether it was asked to stop.

    Once is enough: a second signal of a kind ends a run without saving. And a scheduler may send its signal to all
    processes of a job at once, so a run gets SIGUSR1 from here, which no scheduler sends unasked, and never sees SIGUSR2,
    by which Slurm announces a time limit. Torchrun knows SIGTERM only, and bears to hear it twice.
    """

    def __init__(self, line: Sequence[str], heard: Callable[[int], None]) -> None:
        self.line, self.heard = line, heard
        self.shared = TORCHRUN in line
        self.child: subprocess.Popen[bytes] | None = None
        self.noted = self.passed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.heard(number)
        self.noted = True
        self._pass_on()

    def start(self, said: int) -> None:
        if not self.noted:
            self.child = subprocess.Popen(
                self.line, stdout=said, stderr=said, stdin=subprocess.DEVNULL, preexec_fn=_prepare(os.getpid())
            )
            if self.noted:
                self._pass_on()

    def code(self) -> int:
        """Wait for the end. Who was asked to stop and was killed by that, before it could listen, has stopped."""
        code = EXIT_STOPPED if self.child is None else self.child.wait()
        return EXIT_STOPPED if self.noted and (code < 0 or (self.shared and code)) else code

    def end(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()

    def _pass_on(self) -> None:
        if self.child is not None and not self.passed:
            self.passed = True
            self.child.send_signal(signal.SIGTERM if self.shared else signal.SIGUSR1)


def _prepare(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        end_with_parent()
        if os.getppid() != parent:  # it died before this
            os._exit(EXIT_STOPPED)

    return prepare
