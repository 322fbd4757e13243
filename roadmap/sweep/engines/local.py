"""Runs on this machine, each in a process of its own, several at once where there is room.

The processes are forked from a server that has imported torch and timm once, so a run starts in a fraction of a
second; whatever ends one of them (an exception, an exit, a kill) does not reach the others.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

from roadmap.base.console import say
from roadmap.base.errors import EXIT_HELD, EXIT_STOPPED, RoadmapError
from roadmap.base.processes import end_with_parent
from roadmap.base.redaction import redact_streams
from roadmap.base.signals import leave_on_signals
from roadmap.config.schema import EngineConfig, Experiment, RuntimeConfig
from roadmap.sweep.engines.base import Outcome, Tell, closed, noted_signals, outcome
from roadmap.sweep.engines.machine import Place, room
from roadmap.sweep.plan import Point

PRELOADED = ["roadmap.run.execute", "sklearn.datasets", "torchvision"]
GRACE_SECONDS = 30.0  # between a signal to the runs and the end of those that did not obey
TICK = 0.05  # seconds between two looks at the runs
UNKNOWN = 255  # multiprocessing's exit code of a process whose server was killed; the run may still be saving
GLANCE = 1.0  # seconds between two looks at runs that other sweeps are at


@dataclass
class Local:
    """Processes of this machine: every place takes the next run when it is free."""

    wanted: EngineConfig
    max_failures: int | None = None

    def places(self, runtime: RuntimeConfig) -> int:
        """How many runs there is room for at a time."""
        return len(room(self.wanted, runtime))

    def run(self, points: Sequence[Point], tell: Tell) -> list[Outcome]:
        """Run every point; see `Engine`."""
        with noted_signals() as stop:
            return _Queue(room(self.wanted, points[0].experiment.runtime), self.max_failures, list(points), stop).work(tell)


@dataclass
class _Queue:
    """The runs that wait, those under way, those that other sweeps are at, and those that are over."""

    places: list[Place]
    max_failures: int | None
    waiting: list[Point]
    stop: list[str]
    running: dict[Place, tuple[BaseProcess, Point]] = field(default_factory=dict)
    elsewhere: list[Point] = field(default_factory=list)
    over: list[Outcome] = field(default_factory=list)
    looked: float = 0.0
    asked: float | None = None  # when the runs were asked to stop

    def work(self, tell: Tell) -> list[Outcome]:
        while self.running or ((self.waiting or self.elsewhere) and not self._closed()):
            if not self._closed():
                self._look_elsewhere()
                self._start()
            if self.stop:
                self._ask_to_stop()
            self._collect()
            tell(self.over, [point for _, point in self.running.values()])
            time.sleep(TICK)
        return self.over + [Outcome(point, EXIT_STOPPED, f"not started: {self._closed()}") for point in self._left()]

    def _closed(self) -> str:
        """Why nothing more is started; empty while something is."""
        return closed(self.over, self.max_failures, self.stop)

    def _left(self) -> list[Point]:
        return [*self.waiting, *self.elsewhere]

    def _look_elsewhere(self) -> None:
        """Runs that another sweep has done are over; those that it let go of wait again."""
        if time.monotonic() - self.looked < GLANCE:
            return
        self.looked = time.monotonic()
        for point in list(self.elsewhere):
            if point.done or point.folder.holder() is None:
                self.elsewhere.remove(point)
                self.waiting.append(point)

    def _start(self) -> None:
        """Give every free place the next run that nobody is at."""
        for place in self.places:
            while place not in self.running and self.waiting:
                # Where several sweeps share a study, each goes its own way through it: fewer meet at the same run.
                point = self.waiting.pop(random.randrange(len(self.waiting)) if self.elsewhere else 0)
                if point.done:
                    self.over.append(outcome(point, 0))
                elif point.folder.holder() is not None:
                    self.elsewhere.append(point)
                else:
                    self.running[place] = (self._launch(point, place), point)

    def _launch(self, point: Point, place: Place) -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_run, args=(point, place, len(self.places)), name=point.folder.path.name)
        process.start()
        return process

    def _collect(self) -> None:
        """Note the runs that have ended."""
        for place, (process, point) in list(self.running.items()):
            if process.is_alive() or (process.exitcode == UNKNOWN and point.folder.holder() is not None):
                continue
            process.join()
            del self.running[place]
            if process.exitcode and process.exitcode < 0:
                _kill(process)  # what it left behind: loader processes, W&B's
            if process.exitcode and not point.done and not self.stop and point.folder.holder() is not None:
                self.elsewhere.append(point)
            elif process.exitcode == EXIT_HELD and not self.stop:
                self.waiting.append(point)
            else:
                self.over.append(outcome(point, process.exitcode, bool(self.stop)))

    def _ask_to_stop(self) -> None:
        """Ask once, then end those that did not obey in time, or at once at the second signal."""
        if self.asked is None:
            self.asked = time.monotonic()
            for process, _ in self.running.values():
                process.terminate()
        elif time.monotonic() - self.asked > GRACE_SECONDS or len(self.stop) > 1:
            for process, _ in self.running.values():
                _kill(process)


def _kill(process: BaseProcess) -> None:
    """End a run and the processes that it started: they are a group."""
    if process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()


def _run(point: Point, place: Place, places: int) -> None:
    """In the run's own process: everything it says goes to its log."""
    os.setpgid(0, 0)
    end_with_parent()
    leave_on_signals()
    if point.folder.holder() is not None:
        sys.exit(EXIT_HELD)
    _speak_into(point)
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu
    from roadmap.data.images import sources
    from roadmap.run.execute import execute

    logging.getLogger("roadmap").propagate = False
    try:
        images = sources.checked_images(point.experiment.data, point.experiment.recipe.batch_size)
        execute(_confined(point, place, places), images, point.fingerprint)
    except RoadmapError as error:
        sys.exit(say(error))


def _speak_into(point: Point) -> None:
    point.folder.path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(point.folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    redact_streams()


def _confined(point: Point, place: Place, places: int) -> Experiment:
    """The experiment with no more threads than its place has cores, where several runs share the machine."""
    experiment = point.experiment
    if places == 1:
        return experiment
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cores)
    threads = experiment.runtime.threads or len(place.cores)
    return dataclasses.replace(experiment, runtime=dataclasses.replace(experiment.runtime, threads=threads))
