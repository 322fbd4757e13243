"""Runs on this machine, each in a process of its own, several at once where there is room.

The processes are forked from a server that has imported torch and timm once, so a run starts in a fraction of a
second; whatever ends one of them (an exception, an exit, a kill) does not reach the others.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import ClassVar

from roadmap.base.console import say
from roadmap.base.errors import EXIT_HELD, RoadmapError
from roadmap.base.processes import end_with_parent, wait_asleep_beside_others
from roadmap.base.redaction import redact_streams
from roadmap.base.signals import leave_on_signals
from roadmap.config.schema import EngineConfig, Experiment, RuntimeConfig
from roadmap.sweep.engines.base import Cancel, Ending, Engine, holder
from roadmap.sweep.engines.machine import Slot, slots
from roadmap.sweep.plan import Point

# By the server, in this order; the last is what a new process imports first.
PRELOADED = ["roadmap.sweep.engines.server", "roadmap.run.execute", "roadmap.data.pipeline", "roadmap.sweep.__main__"]
UNKNOWN = 255  # multiprocessing's exit code of a process whose server was killed; the run may still be saving
KILL_SECONDS = 5.0  # until a killed process has gone


@dataclass
class Local(Engine[BaseProcess]):
    """Processes of this machine: every slot takes the next run when it is free."""

    config: EngineConfig
    pause: ClassVar[float] = 0.05
    grace: ClassVar[float] = 30.0
    free: list[Slot] = field(default_factory=list)
    used: dict[BaseProcess, Slot] = field(default_factory=dict)

    def at_a_time(self, runtime: RuntimeConfig) -> int:
        """How many runs there is room for at a time."""
        return len(slots(self.config, runtime))

    @contextmanager
    def open(self, points: Sequence[Point]) -> Iterator[dict[BaseProcess, Point]]:
        """See what room there is; see `Engine`."""
        wait_asleep_beside_others()
        self.free, self.used = slots(self.config, points[0].experiment.runtime), {}
        yield {}

    def capacity(self, under_way: int) -> int:
        """How many slots are free."""
        return len(self.free)

    def submit(self, points: Sequence[Point]) -> list[BaseProcess]:
        """Start a process for each of these runs."""
        return [self._start(point) for point in points]

    def _start(self, point: Point) -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        alone, slot = len(self.free) + len(self.used) == 1, self.free.pop(0)
        process = context.Process(target=_run, args=(point, slot, alone), name=point.folder.path.name)
        process.start()
        self.used[process] = slot
        return process

    def poll(self, jobs: Mapping[BaseProcess, Point]) -> dict[BaseProcess, Ending]:
        """The processes that have ended."""
        return {process: self._ending(process) for process, point in jobs.items() if _has_ended(process, point)}

    def cancel(self, jobs: Sequence[BaseProcess], how: Cancel) -> None:
        """Tell these processes to save and end, or end them."""
        for process in jobs:
            if how is Cancel.save:
                process.terminate()
            elif how is Cancel.kill:
                _kill(process)
        if how is Cancel.kill:
            for process in jobs:
                process.join(KILL_SECONDS)

    def _ending(self, process: BaseProcess) -> Ending:
        process.join()
        self.free.append(self.used.pop(process))
        if process.exitcode is not None and process.exitcode < 0:
            _kill(process)  # what it left behind: loader processes, W&B's
        return Ending(process.exitcode)


def _has_ended(process: BaseProcess, point: Point) -> bool:
    return not process.is_alive() and (process.exitcode != UNKNOWN or holder(point) is None)


def _kill(process: BaseProcess) -> None:
    """End a run and the processes that it started: they are a group."""
    if process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()


# --- in the run's own process ----------------------------------------------------------------------------------------


def _run(point: Point, slot: Slot, alone: bool) -> None:
    """Carry out the run; everything it prints goes to its log."""
    os.setpgid(0, 0)
    end_with_parent()
    leave_on_signals()
    if holder(point) is not None:
        sys.exit(EXIT_HELD)
    _print_into_log(point)
    if slot.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
    from roadmap.data.images import sources
    from roadmap.run.execute import execute

    logging.getLogger("roadmap").propagate = False
    experiment = point.experiment if alone else _confined(point.experiment, slot)
    try:
        images = sources.checked_images(experiment.data, experiment.recipe.batch_size, experiment.task.name.target)
        execute(experiment, images, point.fingerprint)
    except RoadmapError as error:
        sys.exit(say(error))


def _print_into_log(point: Point) -> None:
    point.folder.path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(point.folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    redact_streams()


def _confined(experiment: Experiment, slot: Slot) -> Experiment:
    """The experiment with no more threads than its slot has cores: several runs share the machine."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, slot.cores)
    threads = experiment.runtime.threads or len(slot.cores)
    return dataclasses.replace(experiment, runtime=dataclasses.replace(experiment.runtime, threads=threads))
