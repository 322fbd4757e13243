"""A study's records: its plan (`study.json`) and the results that are there. No torch here."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from roadmap.base.errors import Refused, nearest
from roadmap.base.files import parse_json, regular, write_atomic
from roadmap.config.schema import Head
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult, dump_result, load_result
from roadmap.record.study import FILE, StudyPlan, read_plan
from roadmap.report.unplanned import plan_of
from roadmap.tasks.metrics import METRICS, score_named

ROOMS = ("model", "recipe", "data", "start")  # of a result, in which rows may differ where the study says so
History = list[list[float | None]]  # of each epoch: training loss, validation loss, score


class Runs(NamedTuple):
    """Runs that are done, by their names."""

    results: dict[str, RunResult]
    histories: dict[str, History]
    committed: bool  # read from records.jsonl, not from runs


@dataclass(frozen=True)
class Study:
    """A plan and its results, in the order of the plan."""

    folder: Path
    plan: StudyPlan
    results: Mapping[str, RunResult] = field(default_factory=dict)  # by the names of the runs
    histories: Mapping[str, History] = field(default_factory=dict)
    strangers: int = 0  # results in the folder that the plan does not name
    committed: bool = False  # read from records.jsonl, not from runs
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of bench.csv by step
    planned: bool = True  # False: single runs, whose rows may differ in settings that each of them says

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.resolve().name

    def of(self, row: str) -> list[RunResult]:
        """The results of a row, by seed."""
        return [self.results[run] for run in self.plan.row(row).runs if run in self.results]

    def scored_by(self, key: str) -> Study:
        """The same with another score of its runs in the place of its metric, and without their curves.

        Raises:
            Refused: where no run has it.

        """
        if key == self.plan.metric.key:
            return self
        known = {score for result in self.results.values() for score in result.scores}
        if key not in known:
            raise Refused(f"{self.folder}: its runs have no score {key!r}; {nearest(key, sorted(known))}")
        metric = score_named(key)
        results = {name: replace(result, metric=metric) for name, result in self.results.items()}
        return replace(self, plan=replace(self.plan, metric=metric), results=results, histories={name: [] for name in results})


def load(folder: Path) -> Study:
    """Read a study: the results under `runs/` where there are any, else the committed `records.jsonl`.

    Runs that no study planned are read as one: their rows are told apart by step and settings.

    Raises:
        Refused: where there is neither, or the rows of a study differ in more than the model.

    """
    if not is_planned(folder):
        runs = every_run(folder)
        plan = plan_of(runs.results.values(), folder)
        return Study(folder, plan, **runs._asdict(), speeds=_speeds(folder, plan), planned=False)
    plan = read_plan(folder)
    runs = _runs(folder, plan.runs)
    if not runs.results:
        raise Refused(f"{folder}: none of the {len(plan.runs)} runs of the study is done")
    _refuse_mixed(plan, list(runs.results.values()))
    _refuse_undeclared(plan, runs.results)
    strangers = {path.parent.name for path in (folder / "runs").glob("*/result.json")} - plan.runs.keys()
    return Study(folder, plan, **runs._asdict(), strangers=len(strangers), speeds=_speeds(folder, plan))


def is_planned(folder: Path) -> bool:
    """Whether the folder is a study's, or has no runs at all."""
    return (folder / FILE).exists() or not ((folder / "runs").is_dir() or (folder / "records.jsonl").is_file())


def plan_in(folder: Path) -> StudyPlan:
    """The plan in a folder; where there are runs that no study planned, one that they fulfil.

    Raises:
        Refused: where there is neither.

    """
    return read_plan(folder) if is_planned(folder) else plan_of(every_run(folder).results.values(), folder)


def every_run(folder: Path) -> Runs:
    """All runs in a folder, whatever they are of.

    Raises:
        Refused: where no run is done.

    """
    runs = _runs(folder)
    if not runs.results:
        raise Refused(f"{folder}: no run that is done; needed: a study's folder, or one with runs/")
    return runs


def read_results(folder: Path, plan: StudyPlan) -> dict[str, RunResult]:
    """The results of a plan's runs, from `runs/` or from `records.jsonl`, comparable or not."""
    committed = {name: result for name, (result, _) in _records(folder).items() if name in plan.runs}
    there = {name: RunFolder(folder / "runs" / name).result() for name in plan.runs}
    return committed | {name: result for name, result in there.items() if result is not None}


def write_records(study: Study) -> None:
    """Write every result, its epochs with it, as one line of `records.jsonl`.

    Records of runs that are not among the results (of an earlier, fuller study) are set aside first, never lost.
    """
    if study.committed:
        return
    file = study.folder / "records.jsonl"
    if _records(study.folder).keys() - study.results.keys():
        aside = file.with_name(f"records.{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.jsonl")
        file.replace(aside)
    lines = [dump_result(result) | {"history": study.histories[name]} for name, result in study.results.items()]
    write_atomic(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _runs(folder: Path, names: Iterable[str] | None = None) -> Runs:
    """Those of these runs, or all, that are done: from `runs/`, or where none is done there from `records.jsonl`."""
    there = sorted(path.name for path in (folder / "runs").glob("*/")) if names is None else names
    folders = {name: RunFolder(folder / "runs" / name) for name in there}
    results = {name: result for name, run in folders.items() if (result := run.result()) is not None}
    if results:
        return Runs(results, {name: folders[name].curves(result.metric.key) for name, result in results.items()}, False)
    records = _records(folder)
    known = [name for name in (records if names is None else folders) if name in records]
    return Runs({name: records[name][0] for name in known}, {name: records[name][1] for name in known}, True)


def _records(folder: Path) -> dict[str, tuple[RunResult, History]]:
    """What `records.jsonl` holds of each run, by its name."""
    file = folder / "records.jsonl"
    try:
        text = regular(file).read_text(encoding="utf-8").rstrip("\n")  # not splitlines: a text may hold U+2028
        lines = [_of_line(line, number) for number, line in enumerate(text.split("\n"), 1)] if text else []
        histories = [_history(line.pop("history", [])) for line in lines]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise Refused(f"{file}: not readable: {error}") from error
    results = [load_result(line, file) for line in lines]
    return {result.run: (result, history) for result, history in zip(results, histories, strict=True)}


def _history(epochs: Any) -> History:
    whole = isinstance(epochs, list) and all(isinstance(epoch, list) and len(epoch) == 3 for epoch in epochs)
    if not whole or not all(value is None or type(value) in (int, float) for epoch in epochs for value in epoch):
        raise ValueError(f"history={epochs!r:.100}: must be three numbers for each epoch")
    return epochs


def _of_line(line: str, number: int) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _speeds(folder: Path, plan: StudyPlan) -> dict[str, dict[str, Any]]:
    """What `roadmap.bench` measured, where its `bench.csv` lies in the study's folder: numbers by step.

    Raises:
        Refused: where it was measured on other networks or images than the study's.

    """
    file = folder / "bench.csv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    scale, size = plan.scale.name, str(plan.image_size)
    for row in rows:
        head = row.get("head") or Head.none.value
        if head not in Head.__members__ or METRICS[Head[head].facts.task].key != plan.metric.key:
            raise Refused(f"{file}: measured with head {head}; the study is scored by {plan.metric.label}")
        if (row.get("scale"), row.get("image_size")) != (scale, size):
            measured = f"at scale {row.get('scale')}, {row.get('image_size')} px"
            raise Refused(f"{file}: measured {measured}; the study is at scale {scale}, {size} px")
    return {row["step"]: {key: _number(value) for key, value in row.items()} for row in rows}


def _number(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _refuse_mixed(plan: StudyPlan, results: Sequence[RunResult]) -> None:
    """All runs share what no row declares to be otherwise."""
    declared = {toggle for row in plan.rows for toggle in row.toggles}
    first = next((run for run in results if not run.of_timm_alone), results[0])
    for result in results:
        for key, one, other in first.unshared(result, declared):
            raise Refused(
                f"the rows are not comparable: {key} differs between {first.run} and {result.run}: {_difference(one, other)}"
            )


def _refuse_undeclared(plan: StudyPlan, results: Mapping[str, RunResult]) -> None:
    """A row may differ from the one it is compared with in what the study declared, and in nothing else."""
    rows = {row.variant.name: [results[run] for run in row.runs if run in results and results[run].model] for row in plan.rows}
    for row in plan.rows:
        for first in rows[row.variant.name][:1]:
            for other in rows[row.variant.name][1:]:
                _compare(first, other, ())
            for other in rows.get(row.variant.parent or "", [])[:1]:
                _compare(first, other, row.toggles)


def _compare(one: RunResult, other: RunResult, declared: Sequence[str]) -> None:
    allowed = {toggle if "." in toggle else f"model.{toggle}" for toggle in declared}
    a, b = (run.settings(*ROOMS) for run in (one, other))
    keys = sorted(key for key in {**a, **b} if a.get(key) != b.get(key) and key not in allowed)
    if keys:
        unequal = ", ".join(f"{key}: {a.get(key)} and {b.get(key)}" for key in keys)
        said = ", ".join(declared) or "nothing"
        raise Refused(f"the rows are not comparable: {one.run} and {other.run} may differ in {said}; they have {unequal}")


def _difference(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{one} and {other}"
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in keys)
