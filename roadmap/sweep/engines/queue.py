"""The queue of a sweep, the same for every engine: what goes next, and what is done, held by others, lost, failed or stopped."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import randrange
from typing import Any

from roadmap.base.errors import EXIT_FAILED, EXIT_HELD, EXIT_STOPPED
from roadmap.base.signals import Stop, stop_on_signals
from roadmap.sweep.engines.base import Cancel, Ending, Engine, Outcome, holder, outcome
from roadmap.sweep.plan import Point

TICK = 0.05  # seconds after which a signal is noticed
GLANCE = 1.0  # seconds between two looks at locks: which runs have begun, and which others have done or let go of
STOPPING_PAUSE = 0.5  # seconds between two polls at most, once the runs were asked to save

Report = Callable[[Sequence[Outcome], Sequence[Point]], None]
"""Is told of the runs that are over, and of those under way, after each poll."""


def run_all(
    engine: Engine[Any],
    points: Sequence[Point],
    progress: Callable[[Sequence[Point]], AbstractContextManager[Report]],
    max_failures: int | None = None,
    retry_failed: int = 0,
) -> list[Outcome]:
    """Run every point; those that failed again, once the others have run, `retry_failed` times."""
    outcomes: list[Outcome] = []
    for attempt in range(retry_failed + 1):
        if attempt:
            print(f"{len(points)} runs failed and are started again", file=sys.stderr, flush=True)
        with progress(points) as report:
            ends = run_once(engine, points, report, max_failures)
        outcomes = [end for end in outcomes if not end.failed] + ends
        points = [end.point for end in ends if end.failed]
        if not points or any(end.code == EXIT_STOPPED for end in ends):
            break
    return outcomes


def run_once(engine: Engine[Any], points: Sequence[Point], report: Report, max_failures: int | None = None) -> list[Outcome]:
    """Run every point; returns what became of each, those not started included.

    A run is done when its folder holds a result. The first SIGINT, SIGTERM or SIGUSR1 asks the runs under way to save and
    end, the second kills them. After `max_failures` failed runs nothing more is started, and what has begun is waited for.

    Raises:
        Refused: where the engine cannot carry out the runs.

    """
    with stop_on_signals(end_at_second_interrupt=False) as stop, engine.open(points) as jobs:
        attached = {point.folder.path for point in jobs.values()}
        waiting = [point for point in points if point.folder.path not in attached]
        return Queue(engine, max_failures, stop, waiting, jobs).run(report)


@dataclass
class Queue:
    """The runs that wait, those that the engine was given, those that other processes hold, and those that are over."""

    engine: Engine[Any]
    max_failures: int | None
    stop: Stop
    waiting: list[Point]
    jobs: dict[Any, Point]
    held_by_others: list[Point] = field(default_factory=list)
    blocked: list[Point] = field(default_factory=list)  # those that start from a run which is not done yet
    over: list[Outcome] = field(default_factory=list)
    lost: dict[str, list[Ending]] = field(default_factory=lambda: defaultdict(list))  # of each run, by the name of its folder
    begun: set[Any] = field(default_factory=set)  # jobs, as of the last look
    withdrawn: set[Any] = field(default_factory=set)  # jobs cancelled before they began
    looked: float = 0.0
    stop_asked: float | None = None  # when the runs were asked to save

    def __post_init__(self) -> None:
        self.expected = {point.folder.path for point in (*self.waiting, *self.jobs.values())}

    def run(self, report: Report) -> list[Outcome]:
        """Until every run is over or nothing more is started; see `run_once`."""
        while self.jobs or ((self.waiting or self.held_by_others or self.blocked) and not self._closed()):
            if self.stop.asked:
                self._stop()
            elif self._closed():
                self._withdraw()
            else:
                self._start()
            self._rest()
            self._collect()
            self._look()
            report(self.over, [point for job, point in self.jobs.items() if job in self.begun])
        return [*self.over, *(self._not_started(point) for point in (*self.waiting, *self.held_by_others, *self.blocked))]

    def _closed(self) -> str:
        """Why nothing more is started; empty while something is."""
        failed = sum(end.failed and end.begun for end in self.over)
        return f"{failed} runs failed" if self.max_failures and failed >= self.max_failures else self.stop.asked or ""

    def _not_started(self, point: Point) -> Outcome:
        return outcome(point, Ending(0)) if point.done else Outcome(point, EXIT_STOPPED, f"not started: {self._closed()}")

    def _start(self) -> None:
        """Give the engine as many of the waiting runs as it takes."""
        capacity, batch = self.engine.capacity(len(self.jobs)), list[Point]()
        while self.waiting and len(batch) < capacity:
            # Where several sweeps share a study, each goes its own way through it: fewer meet at the same run.
            batch += self._free([self.waiting.pop(randrange(len(self.waiting)) if self.held_by_others else 0)])
        jobs = self.engine.submit(batch) if batch else []
        self.jobs |= zip(jobs, batch, strict=False)
        self.waiting = batch[len(jobs) :] + self.waiting

    def _free(self, points: Iterable[Point]) -> list[Point]:
        """Those of these runs that may be started; the others are done, wait for the run that they start from or can no longer
        have it, are held by other processes, or were lost too often.
        """
        free = []
        for point in points:
            lost = self.lost[point.folder.path.name]
            if point.done:
                self.over.append(outcome(point, Ending(0)))
            elif point.before is not None and (end := self._without(point, point.before)):
                self.over.append(end)
            elif point.before is not None and not point.before.trained:
                self.blocked.append(point)
            elif holder(point) is not None:
                self.held_by_others.append(point)
            elif len(lost) > self.engine.config.retries:
                self.over.append(outcome(point, lost[-1], len(lost)))
            else:
                free.append(point)
        return free

    def _without(self, point: Point, before: Point) -> Outcome | None:
        """What becomes of a run whose start will not come; None while it may, and where it is there."""
        result = before.folder.result()
        if result is not None and not result.done:
            return Outcome(point, EXIT_FAILED, f"not run because {before.name} {result.status}", begun=False)
        end = next((end for end in self.over if end.point.folder.path == before.folder.path and end.code), None)
        if end is not None and end.code == EXIT_STOPPED:
            return Outcome(point, EXIT_STOPPED, f"not started: {before.name} was stopped", begun=False)
        if end is not None:
            return Outcome(point, EXIT_FAILED, f"not run because {before.name} failed: {end.reason}", begun=False)
        if result is None and before.folder.path not in self.expected and holder(before) is None:
            return Outcome(point, EXIT_FAILED, f"not run because {before.name} is not done and not among these runs", begun=False)
        return None

    def _unblock(self) -> None:
        """See which runs have their start by now, or will not have it."""
        blocked, self.blocked = self.blocked, []
        self.waiting += self._free(blocked)

    def _rest(self) -> None:
        """Sleep until the next poll is due, or a signal comes."""
        pause = min(self.engine.pause, STOPPING_PAUSE) if self.stop.asked else self.engine.pause
        deadline, signals = time.monotonic() + pause, len(self.stop.signals)
        while len(self.stop.signals) == signals and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(TICK, left))

    def _collect(self) -> None:
        """Settle the jobs that are over."""
        for job, ending in self.engine.poll(self.jobs).items():
            self._settle(job, self.jobs.pop(job), ending)
            self._unblock()

    def _settle(self, job: Any, point: Point, ending: Ending) -> None:
        """What a job that is over means for its run."""
        if ending.lost:
            self.lost[point.folder.path.name].append(ending)
        if point.done:
            self.over.append(outcome(point, ending))
        elif self.stop.asked or ending.cancelled:
            never_began = job in self.withdrawn and ending.code is None
            self.over.append(self._not_started(point) if never_began else outcome(point, Ending(EXIT_STOPPED)))
        elif ending.lost or ending.code == EXIT_HELD or holder(point) is not None:
            self.waiting += self._free([point])
        else:
            self.over.append(outcome(point, ending))

    def _look(self) -> None:
        """See which jobs have begun, and which runs other processes have done or let go of."""
        if time.monotonic() - self.looked < GLANCE:
            return
        self.looked = time.monotonic()
        self.begun = self.jobs.keys() - self.engine.pending(self.jobs)
        held, self.held_by_others = self.held_by_others, []
        self.waiting += self._free(held)
        self._unblock()

    def _withdraw(self) -> None:
        """Take back the jobs that have not begun."""
        jobs = [job for job in self.engine.pending(self.jobs) if job not in self.withdrawn]
        if jobs:
            self.withdrawn.update(jobs)
            self.engine.cancel(jobs, Cancel.withdraw)

    def _stop(self) -> None:
        """Ask once; when the grace period is over, or at the second signal, go without those that did not obey."""
        if self.stop_asked is None:
            self._withdraw()
            self.engine.cancel(list(self.jobs), Cancel.save)
            self.stop_asked = time.monotonic()
        elif time.monotonic() - self.stop_asked > self.engine.grace or len(self.stop.signals) > 1:
            self.engine.cancel(list(self.jobs), Cancel.kill)
            while self.jobs:
                self._settle(*self.jobs.popitem(), Ending())
