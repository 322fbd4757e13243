"""The queue of a sweep, over an engine whose jobs do what a test says: what is started, waited for, given up, stopped."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager, nullcontext

import pytest
from conftest import QUICK
from runs import executed

from roadmap.base.errors import EXIT_HELD, EXIT_STOPPED
from roadmap.config.schema import EngineConfig, EngineName
from roadmap.sweep import plan
from roadmap.sweep.engines import queue
from roadmap.sweep.engines.base import Cancel, Ending
from roadmap.sweep.engines.queue import run_all, run_once

STOPPED = "stopped; the same command goes on with it"


def points_of(folder, seeds):
    return plan.plan(
        ["+study=digits", *QUICK, "study.steps=[gelu]", f"study.seeds={list(range(seeds))}", f"output={folder}"]
    ).points


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The folder of a run that is done."""
    (point,) = points_of(tmp_path_factory.mktemp("done"), 1)
    executed(point.experiment, point.fingerprint)
    return point.folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(queue, "GLANCE", 0.0)
    monkeypatch.setattr(queue, "STOPPING_PAUSE", 0.0)


class Scripted:
    """Each attempt at a run takes the next of its seed's acts, called at every poll until it returns an `Ending`.

    What has no act left is never over. A run whose seed is in `never_begins` waits in the engine.
    """

    pause, grace = 0.0, 0.2

    def __init__(self, acts, room=10, retries=2, never_begins=()):
        self.acts = defaultdict(list, {seed: list(of_seed) for seed, of_seed in acts.items()})
        self.config = EngineConfig(name=EngineName.local, retries=retries)
        self.room, self.never_begins, self.left = room, never_begins, {}
        self.started, self.cancelled, self.current = [], [], {}

    @contextmanager
    def open(self, points):
        yield dict(self.left)

    def capacity(self, under_way):
        return self.room - under_way

    def submit(self, points):
        return [self.start(point.experiment.seed) for point in points]

    def start(self, seed):
        job = f"{seed}.{self.started.count(seed)}"
        self.started.append(seed)
        self.current[job] = self.acts[seed].pop(0) if self.acts[seed] else lambda point: None
        return job

    def poll(self, jobs):
        ends = {job: act(jobs[job]) if callable(act := self.current[job]) else act for job in jobs}
        return {job: end for job, end in ends.items() if end is not None}

    def pending(self, jobs):
        return [job for job, point in jobs.items() if point.experiment.seed in self.never_begins]

    def cancel(self, jobs, how):
        self.cancelled.append((how, sorted(jobs)))
        if how is not Cancel.kill:
            obeying = [job for job in jobs if callable(act := self.current[job]) and act is not disobey]
            code = None if how is Cancel.withdraw else EXIT_STOPPED
            self.current |= {job: Ending(code, cancelled=True) for job in obeying}


def run(engine, points, report=lambda over, running: None, **more):
    return {end.point.experiment.seed: (end.code, end.reason) for end in run_once(engine, points, report, **more)}


def disobey(point):
    """An act that is never over, whoever asks."""


def finish(record):
    """An act: write the result, end well."""

    def act(point):
        with point.folder.claimed() as mine:
            mine.copy_record(record)
        return Ending(0)

    return act


def test_runs_are_done_by_their_result_and_fail_by_their_exit_code(tmp_path, record):
    points = points_of(tmp_path, 5)
    points[2].folder.path.mkdir(parents=True)
    points[2].folder.log.write_text("some\nits last words\n\n")
    done = finish(record)
    acts = {
        0: [done],
        1: [lambda point: done(point) and Ending(-9)],
        2: [Ending(7)],
        3: [lambda point: done(point) and Ending(3)],
    }
    engine = Scripted(acts | {4: [Ending(143)]}, room=2)
    ends = run(engine, points)
    assert ends[0] == ends[1] == (0, "")
    assert ends[2] == (7, "exit code 7: its last words")
    assert ends[3] == (3, "exit code 3: it left no log")
    assert ends[4] == (EXIT_STOPPED, STOPPED)
    assert engine.started == [0, 1, 2, 3, 4]
    assert run(engine, points[:2]) == {0: (0, ""), 1: (0, "")}
    assert engine.started == [0, 1, 2, 3, 4]  # what is done is not started


def test_after_so_many_failures_nothing_is_started_and_what_has_begun_is_waited_for(tmp_path, record):
    polls = iter(range(3))

    def slow(point):
        return finish(record)(point) if next(polls, None) is None else None

    engine = Scripted({0: [slow], 1: [Ending(1)]}, room=3, never_begins=[2])
    ends = run(engine, points_of(tmp_path, 5), max_failures=1)
    assert engine.started == [0, 1, 2]
    assert engine.cancelled == [(Cancel.withdraw, ["2.0"])]
    assert ends[0] == (0, "")
    assert ends[1][0] == 1
    assert {ends[seed] for seed in (2, 3, 4)} == {(EXIT_STOPPED, "not started: 1 runs failed")}


def test_failed_runs_are_started_again_once_the_others_have_run(tmp_path, record, capsys):
    engine = Scripted({0: [Ending(1), Ending(1), finish(record)], 1: [Ending(1), finish(record)], 2: [finish(record)]}, room=1)
    quiet = lambda points: nullcontext(lambda over, running: None)  # noqa: E731
    points = points_of(tmp_path, 3)
    ends = run_all(engine, points, quiet, retry_failed=1)
    assert {end.point.experiment.seed: end.code for end in ends} == {0: 1, 1: 0, 2: 0}
    assert engine.started == [0, 1, 2, 0, 1]
    assert "2 runs failed and are started again" in capsys.readouterr().err
    assert {end.code for end in run_all(engine, points, quiet, retry_failed=5)} == {0}
    assert engine.started[5:] == [0]


def test_a_run_that_is_lost_is_started_again_until_it_is_lost_too_often(tmp_path, record):
    lost = Ending(lost=True, why="its node is gone")
    engine = Scripted({0: [lost, lost, finish(record)], 1: [lost, lost, lost], 2: [Ending(1)]}, retries=2)
    ends = run(engine, points_of(tmp_path, 3))
    assert ends[0] == (0, "")
    assert ends[1] == (1, "its node is gone, 3 times: it left no log")
    assert sorted(engine.started) == [0, 0, 0, 1, 1, 1, 2]
    assert run(Scripted({0: [lost]}, retries=0), points_of(tmp_path / "once", 1))[0] == (1, "its node is gone: it left no log")


def test_runs_that_others_hold_are_waited_for(tmp_path, record):
    """One is let go of, one is done by its holder, one is held until the sweep has nothing else to do."""
    points = points_of(tmp_path, 4)
    let_go, done, long = (ExitStack() for _ in range(3))
    for stack, point in zip((let_go, done, long), points, strict=False):
        stack.enter_context(point.folder.claimed())
    engine = Scripted({0: [finish(record)], 2: [finish(record)], 3: [finish(record)]})
    started = []

    def report(over, running):
        started.append(list(engine.started))
        if len(started) == 3:
            let_go.close()
        if len(started) == 6:
            points[1].folder.copy_record(record)
            done.close()
        if len(started) == 9:
            assert not long.close()

    ends = run(engine, points, report)
    assert set(ends.values()) == {(0, "")}
    assert started[2] == [3]
    assert started[8] == [3, 0]
    assert engine.started == [3, 0, 2]


def test_a_job_that_finds_its_run_held_or_taken_over_is_no_failure(tmp_path, record):
    points = points_of(tmp_path, 2)
    other = ExitStack()

    def taken_over(point):
        other.enter_context(point.folder.claimed())
        return Ending(-9)

    engine = Scripted({0: [Ending(EXIT_HELD), finish(record)], 1: [taken_over, finish(record)]})
    assert set(run(engine, points, lambda over, running: other.close() if len(over) == 1 else None).values()) == {(0, "")}
    assert sorted(engine.started) == [0, 0, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_withdraws_what_has_not_begun_and_saves_the_rest(tmp_path, number):
    engine = Scripted({}, room=3, never_begins=[2])
    points = points_of(tmp_path, 4)
    ends = run(engine, points, lambda over, running: None if engine.cancelled else os.kill(os.getpid(), number))
    assert ends == {
        **dict.fromkeys((0, 1), (EXIT_STOPPED, STOPPED)),
        **dict.fromkeys((2, 3), (EXIT_STOPPED, f"not started: {number.name}")),
    }
    assert engine.cancelled == [(Cancel.withdraw, ["2.0"]), (Cancel.save, ["0.0", "1.0", "2.0"])]
    assert engine.started == [0, 1, 2]


@pytest.mark.parametrize("signals", [1, 2])
def test_who_does_not_obey_is_killed_after_a_while_or_at_the_second_signal(tmp_path, monkeypatch, signals):
    monkeypatch.setattr(Scripted, "grace", 0.5 if signals == 1 else 1000.0)
    engine = Scripted({0: [disobey]})
    asked = []

    def report(over, running):
        if len(asked) < signals:
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(engine, points_of(tmp_path, 2), report) == dict.fromkeys((0, 1), (EXIT_STOPPED, STOPPED))
    assert [how for how, _ in engine.cancelled] == [Cancel.save, Cancel.kill]
    assert engine.cancelled[1][1] == ["0.0"]
    assert (time.monotonic() - asked[0] >= 0.5) == (signals == 1)


def test_jobs_of_an_earlier_sweep_are_not_started_again_and_refused_ones_are(tmp_path, record):
    points = points_of(tmp_path, 3)
    engine = Scripted({0: [finish(record)], 1: [finish(record)], 2: [finish(record)]})
    engine.left = {engine.start(0): points[0]}
    submit, refusals = engine.submit, iter([[], []])
    engine.submit = lambda points: submit(points) if (refusal := next(refusals, None)) is None else refusal
    assert set(run(engine, points).values()) == {(0, "")}
    assert engine.started == [0, 1, 2]
