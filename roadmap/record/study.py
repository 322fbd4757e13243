"""A study's plan: the one form of `study.json`. What it asks, the rows of its table, and the runs of each. No torch here."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from roadmap.base.console import printable
from roadmap.base.errors import Refused
from roadmap.base.files import read_json, write_atomic
from roadmap.base.redaction import redact_record
from roadmap.config.schema import ScaleConfig
from roadmap.paper.published import Published, PublishedRow
from roadmap.record.formats import FORMAT, Content, current, upgraded_plan
from roadmap.record.result import Metric

FILE = "study.json"


@dataclass(frozen=True)
class Variant:
    """A network of the study: a step, toggles set otherwise on top of it, and the variant it is compared with."""

    name: str
    label: str
    step: str
    parent: str | None = None
    group: str = ""
    adopted: bool = True  # False: a side branch, or a row beside the question
    overrides: tuple[str, ...] = ()
    after: str | None = None  # the variant from whose runs its own start, seed by seed
    reference: bool = False  # a timm model beside the study's networks: in no effect, and no part of their noise

    @property
    def side_branch(self) -> bool:
        """Whether it was tried and not adopted."""
        return not (self.adopted or self.reference)


@dataclass(frozen=True)
class Effect:
    """A weighted sum of the variants' mean scores; the weights add up to 0.

    Where it is a mean over sampled orders, `parts` are the weights within each pair of orders: how much they vary is the
    effect's uncertainty, in which the seeds' noise is contained.
    """

    name: str
    label: str
    weights: dict[str, float]
    parts: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class PlannedRow:
    """A row of the table: its variant, the toggles in which it differs from its parent, and its runs by seed."""

    variant: Variant
    toggles: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the plan; rows of one network share their runs."""

    name: str
    seed: int
    index: int  # of the row
    row: PlannedRow


@dataclass(frozen=True)
class StudyPlan:
    """What a study trains and asks."""

    study: str
    question: str
    kind: str
    scale: ScaleConfig
    data: str
    image_size: int  # pixels; 0 where the rows have several
    epochs: int  # 0 likewise, and where the recipe counts updates
    recipe: str
    seeds: tuple[int, ...]
    rows: tuple[PlannedRow, ...]
    effects: tuple[Effect, ...]
    metric: Metric
    published: Published | None = None  # numbers to stand beside; None: the paper's

    @property
    def variants(self) -> list[Variant]:
        """The rows' variants, in order."""
        return [row.variant for row in self.rows]

    @property
    def measured_on(self) -> str:
        """What the numbers were measured on, in a few words."""
        size = f" {self.image_size} px" * bool(self.image_size)
        epochs = f", {self.epochs} epoch{'s' * (self.epochs != 1)}" * bool(self.epochs)
        return f"{self.data}{size}{epochs}"

    @property
    def ends(self) -> str:
        """The networks that the roadmap leads from and to."""
        return f"{self.scale.start} to {self.scale.end}"

    def planned(self) -> Iterator[PlannedRun]:
        """Every run of every row, row by row."""
        for index, row in enumerate(self.rows):
            for name, seed in zip(row.runs, self.seeds, strict=False):
                yield PlannedRun(name, seed, index, row)

    @cached_property
    def runs(self) -> dict[str, PlannedRun]:
        """Every run once, by its name, in the order of the rows: the first row that it belongs to."""
        runs: dict[str, PlannedRun] = {}
        for run in self.planned():
            runs.setdefault(run.name, run)
        return runs

    def row(self, name: str) -> PlannedRow:
        """The row of this name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, PlannedRow]:
        return {row.variant.name: row for row in reversed(self.rows)}


def summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of weights, row by row."""
    total: dict[str, float] = {}
    for part in parts:
        for row, weight in part.items():
            total[row] = total.get(row, 0.0) + weight
    return total


def differences_to_parents(variants: Iterable[Variant]) -> tuple[Effect, ...]:
    """Each variant against its parent, if it has one."""
    return tuple(Effect(v.name, v.label, {v.name: 1.0, v.parent: -1.0}) for v in variants if v.parent is not None)


def same_in_all(values: Iterable[int]) -> int:
    """What all runs have; 0 where they differ, and every row says its own."""
    different = set(values)
    return different.pop() if len(different) == 1 else 0


def seed_and_identity(run: str) -> str:
    """What of a run's name says which run it is: its row may have another name elsewhere."""
    return run.rsplit("-s", 1)[-1]


def write_plan(folder: Path, plan: StudyPlan) -> None:
    """Write `study.json` into a study's folder.

    Raises:
        OSError: where the folder cannot be written.

    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, json.dumps(redact_record(dump_plan(plan)), indent=2, ensure_ascii=False) + "\n")


def read_plan(folder: Path) -> StudyPlan:
    """The plan in a study's folder.

    Raises:
        Refused: where there is none that can be read, or one of another format.

    """
    file = folder / FILE
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise Refused(f"{folder}: no study to report: {FILE} cannot be read ({error})") from error
    return load_plan(content, file)


def find_plan(folder: Path) -> StudyPlan | None:
    """The plan in a folder that may be no study's, or one that is being written."""
    try:
        return read_plan(folder)
    except Refused:
        return None


def dump_plan(plan: StudyPlan) -> Content:
    """A plan as JSON holds it."""
    about = {key: value for key, value in asdict(plan).items() if key != "published" or value is not None}
    rows = [row["variant"] | {"toggles": row["toggles"], "runs": row["runs"]} for row in about["rows"]]
    about["rows"] = [{key: value for key, value in row.items() if key != "after" or value is not None} for row in rows]
    return {"format": FORMAT, **about}


def load_plan(content: Any, file: Path) -> StudyPlan:
    """A plan from JSON, of this format or of format 1; what people read of it is made safe for any terminal.

    Raises:
        Refused: for a file of another format, or one that holds no plan.

    """
    about = current(content, file, upgraded_plan)
    if "rows" not in about:
        raise Refused(f"{file}: of an earlier form; the same roadmap.sweep command writes it anew")
    try:
        read: Content = {
            "scale": ScaleConfig(**about["scale"]),
            "data": printable(about["data"]),
            "question": printable(about["question"]),
            "seeds": tuple(about["seeds"]),
            "rows": tuple(map(_row, about["rows"])),
            "effects": tuple(Effect(**effect | {"label": printable(effect["label"])}) for effect in about["effects"]),
            "metric": Metric(**about["metric"]),
            "published": _published(about.get("published")),
        }
        plan = StudyPlan(**about | read)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{file}: not the plan of a study ({error})") from error
    _check_names(plan, file)
    return plan


def _check_names(plan: StudyPlan, file: Path) -> None:
    """Refuse a plan whose rows or effects name what is not there."""
    names = [row.variant.name for row in plan.rows]
    for name in (name for name in names if not isinstance(name, str) or names.count(name) > 1):
        raise Refused(f"{file}: rows: name={name!r}: each must have a name of its own")
    for row in plan.rows:
        if row.variant.parent is not None and row.variant.parent not in names:
            raise Refused(f"{file}: rows: {row.variant.name}: parent={row.variant.parent!r}: there is no such row")
    for effect in plan.effects:
        numbers = effect.weights.values() if isinstance(effect.weights, dict) else [None]
        if not all(type(weight) in (int, float) and math.isfinite(weight) for weight in numbers):
            raise Refused(f"{file}: effects: {effect.name}: weights={effect.weights!r}: must be a number for each of its rows")


def _published(content: Content | None) -> Published | None:
    if content is None:
        return None
    rows = tuple(PublishedRow(**row | {"label": printable(row["label"])}) for row in content["rows"])
    return Published(printable(content["source"]), rows)


def _row(content: Content) -> PlannedRow:
    about = {entry.name: content[entry.name] for entry in dataclasses.fields(Variant) if entry.name in content}
    about |= {key: printable(content[key]) for key in ("label", "group") if key in content}
    about["overrides"] = tuple(about.get("overrides", ()))
    return PlannedRow(Variant(**about), tuple(content["toggles"]), tuple(content["runs"]))
