"""A study's records: its plan (`study.json`) and the results that are there. No torch here."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from roadmap.base.console import printable
from roadmap.base.errors import Refused
from roadmap.base.files import write_whole
from roadmap.record.folder import RunFolder
from roadmap.record.result import SHARED, Result
from roadmap.record.study import Effect, Variant


@dataclass(frozen=True)
class Study:
    """A plan and its results, in the order of the plan."""

    folder: Path
    about: dict[str, Any]
    results: tuple[Result, ...]
    strangers: int = 0  # results in the folder that the plan does not name
    committed: bool = False  # read from records.jsonl, not from runs
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of bench.csv by step

    @property
    def variants(self) -> list[Variant]:
        """The rows of the table, in order."""
        keys = [entry.name for entry in fields(Variant)]  # a study of before a key was there has its default
        rows = [{key: row[key] for key in keys if key in row} for row in self.about["rows"]]
        return [Variant(**row | {key: printable(row[key]) for key in ("label", "group")}) for row in rows]

    @property
    def effects(self) -> list[Effect]:
        """What the study asks of its rows."""
        return [Effect(**effect | {"label": printable(effect["label"])}) for effect in self.about["effects"]]

    def of(self, variant: Variant) -> list[Result]:
        """The results of a row, by seed."""
        (runs,) = (row["runs"] for row in self.about["rows"] if row["name"] == variant.name)
        found = {result["run"]: result for result in self.results}
        return [found[run] for run in runs if run in found]

    @property
    def label(self) -> str:
        """What our numbers were measured on, in a few words."""
        epochs = self.about["epochs"]
        return f"{printable(self.about['data'])} {self.about['image_size']} px, {epochs} epoch{'s' * (epochs != 1)}"


def load(folder: Path) -> Study:
    """Read a study: the results under `runs/` where there are any, else the committed `records.jsonl`.

    Raises:
        Refused: where there is no study, or its rows differ in more than the model.

    """
    try:
        about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{folder}: no study to report: study.json cannot be read ({error})") from error
    if "rows" not in about:
        raise Refused(f"{folder}/study.json: of an earlier form; the same roadmap.sweep command writes it anew")
    runs = list(dict.fromkeys(run for row in about["rows"] for run in row["runs"]))
    results, strangers = _from_runs(folder, runs)
    committed = not results
    if committed:
        results = [records[name] for records in [_records(folder)] for name in runs if name in records]
    if not results:
        raise Refused(f"{folder}: none of the {len(runs)} runs of the study is done")
    _refuse_mixed(results)
    _refuse_undeclared(about["rows"], results)
    return Study(folder, about, tuple(results), strangers, committed, _speeds(folder, about))


def write_records(study: Study) -> None:
    """Write every result, its epochs with it, as one line of `records.jsonl`.

    Records of runs that are not among the results (of an earlier, fuller study) are set aside first, never lost.
    """
    if study.committed:
        return
    file = study.folder / "records.jsonl"
    if _records(study.folder).keys() - {result["run"] for result in study.results}:
        aside = file.with_name(f"records.{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.jsonl")
        file.replace(aside)
    write_whole(file, "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in study.results))


def _from_runs(folder: Path, runs: list[str]) -> tuple[list[Result], int]:
    found: list[Result] = []
    for name in runs:
        run = RunFolder(folder / "runs" / name)
        result = run.result()
        if result is not None:
            keys = ("train_loss", "val_loss", "top1")
            found.append({**result, "history": [[line[key] for key in keys] for line in run.history()]})
    others = {path.parent.name for path in (folder / "runs").glob("*/result.json")} - set(runs)
    return found, len(others)


def _speeds(folder: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What `roadmap.bench` measured, where its `bench.csv` lies in the study's folder: numbers by step.

    Raises:
        Refused: where it was measured on other networks or images than the study's.

    """
    file = folder / "bench.csv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    study = (about["scale"]["name"], str(about["image_size"]))
    for row in rows:
        if (found := (row.get("scale"), row.get("image_size"))) != study:
            raise Refused(f"{file}: measured at scale {found[0]}, {found[1]} px; the study is at scale {study[0]}, {study[1]} px")
    return {row["step"]: {key: _number(value) for key, value in row.items()} for row in rows}


def _number(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _records(folder: Path) -> dict[str, Result]:
    """The results in `records.jsonl`, by the name of their run."""
    try:
        lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
        return {result["run"]: result for result in map(json.loads, lines)}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{folder / 'records.jsonl'}: not readable: {error}") from error


def _refuse_mixed(results: list[Result]) -> None:
    first = results[0]
    for result in results[1:]:
        for key in SHARED:
            if result.get(key) != first.get(key):
                raise Refused(
                    f"the rows are not comparable: {key} differs between {first['run']} and {result['run']}: "
                    f"{_difference(first.get(key), result.get(key))}"
                )


def _refuse_undeclared(rows: list[dict[str, Any]], results: list[Result]) -> None:
    """A row may differ from the one it is compared with in the toggles that the study declared, and in nothing else."""
    known = {result["run"]: result for result in results if "model" in result}
    of_row = {row["name"]: [known[run] for run in row["runs"] if run in known] for row in rows}
    for row in rows:
        for first in of_row[row["name"]][:1]:
            for other in of_row[row["name"]][1:]:
                _compare_models(first, other, [])
            for other in of_row.get(row["parent"], [])[:1]:
                _compare_models(first, other, row["toggles"])


def _compare_models(one: Result, other: Result, declared: list[str]) -> None:
    a, b = one["model"], other["model"]
    keys = sorted(key for key in {**a, **b} if a.get(key) != b.get(key) and key not in declared)
    if keys:
        unequal = ", ".join(f"model.{key}: {a.get(key)} and {b.get(key)}" for key in keys)
        what = ", ".join(declared) or "nothing"
        raise Refused(f"the rows are not comparable: {one['run']} and {other['run']} may differ in {what}; they have {unequal}")


def _difference(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{one} and {other}"
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in keys)
