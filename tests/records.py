"""Results of runs that nobody trained, for tests of what is done with records."""

from __future__ import annotations

import json
from contextlib import contextmanager

from roadmap.config.schema import StepConfig, TaskName
from roadmap.record.result import RunResult, dump_result
from roadmap.tasks.metrics import METRICS

TOP1 = METRICS[TaskName.classification]


def made(run="gelu-s0-12345678", top1=None, *, step=None, status="done", seed=0, scores=(), **about):
    """The result of a run with this top-1, which is done unless another status is said."""
    step = step or StepConfig(run.split("-s")[0])
    every = {} if top1 is None else {"top1": top1, **dict(scores)}
    return RunResult(run, about.pop("study", "made"), step, "atto", seed, TOP1, status, scores=every, **about)


def write(folder, result):
    """Put it where a run that is done has it."""
    (folder / "result.json").write_text(json.dumps(dump_result(result)))


def result_file(line):
    """A line of `records.jsonl` as the run's own `result.json`: its epochs are in `history.jsonl` there."""
    return json.dumps({key: value for key, value in json.loads(line).items() if key != "history"})


@contextmanager
def editing(folder):
    """The lines of a study's `records.jsonl`, to be changed in place."""
    file = folder / "records.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    yield lines
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
