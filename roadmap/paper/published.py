"""Published numbers that a study names (`study.published`): a CSV of the project's own or of the user's, checked as it is read.

Its first lines, each begun with `#`, say where the numbers are from. Its columns are `step` (of the study's; empty where the
published row is none of them), `score`, and where there are any `std`, `gmacs` (multiply-adds, 1e9) and `label`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from roadmap.base.errors import Refused, nearest
from roadmap.base.files import regular

OURS = Path(__file__).with_name("published")
NEEDED, ALLOWED = ("step", "score"), ("step", "score", "std", "gmacs", "label")
MOST = {"score": 100.0, "std": 100.0, "gmacs": math.inf}  # scores are in percent


@dataclass(frozen=True)
class PublishedRow:
    """One published network."""

    step: str  # empty: none of the study's
    score: float
    score_std: float | None = None
    gmacs: float | None = None
    label: str = ""

    @property
    def gflops_printed(self) -> float | None:
        """Multiply-adds as they are printed."""
        return self.gmacs


@dataclass(frozen=True)
class Published:
    """A published table, in its order."""

    source: str
    rows: tuple[PublishedRow, ...]

    def row(self, step: str) -> PublishedRow | None:
        """What was published of a step."""
        return next((row for row in self.rows if row.step == step), None)

    def difference(self, step: str, parent: str) -> float | None:
        """The score of a step less its parent's; None where a published row that the study has not stands between them."""
        one, other = self.row(step), self.row(parent)
        if one is None or other is None:
            return None
        first, last = sorted((self.rows.index(one), self.rows.index(other)))
        return one.score - other.score if all(row.step for row in self.rows[first:last]) else None


def read_published(name: str, steps: Collection[str]) -> Published:
    """The table of this name among the project's own, else in the file at this path; its rows may be of `steps`.

    Refused where there is none, or it is not such a table.
    """
    known = {file.stem: file for file in OURS.glob("*.csv")}
    file = known.get(name, Path(name).expanduser())
    try:
        lines = regular(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"study.published={name}: {nearest(name, list(known))}; or the path of a CSV file ({error})") from error
    said = list(takewhile(lambda line: line.startswith("#"), lines))
    source = " ".join(line.lstrip("# ").strip() for line in said).strip()
    if not source:
        raise Refused(f"study.published={name}: its first line must say where the numbers are from: # AUTHORS, TITLE, YEAR")
    table = csv.DictReader(lines[len(said) :])
    columns = list(table.fieldnames or [])
    if not set(NEEDED) <= set(columns) <= set(ALLOWED):
        raise Refused(f"study.published={name}: columns {columns}: needed {list(NEEDED)}, allowed {list(ALLOWED)}")
    rows = tuple(_row(f"study.published={name}: line {len(said) + table.line_num}", line, steps) for line in table)
    twice = sorted({row.step for row in rows if row.step and [other.step for other in rows].count(row.step) > 1})
    if twice or not rows:
        raise Refused(f"study.published={name}: needs rows, and each step once{': ' * bool(twice)}{', '.join(twice)}")
    return Published(source, rows)


def _row(place: str, line: dict[str, str], steps: Collection[str]) -> PublishedRow:
    step = line["step"].strip()
    if step and step not in steps:
        raise Refused(f"{place}: there is no step {step!r}; {nearest(step, list(steps))}")
    if None in line or None in line.values():
        raise Refused(f"{place}: {len([key for key in line if key])} values are needed, as there are columns")
    score, std, gmacs = (_number(place, key, line.get(key) or "", most) for key, most in MOST.items())
    if score is None:
        raise Refused(f"{place}: score: must be a number, now empty")
    return PublishedRow(step, score, std, gmacs, line.get("label") or "")


def _number(place: str, key: str, text: str, most: float) -> float | None:
    try:
        value = float(text) if text.strip() else None
    except ValueError as error:
        raise Refused(f"{place}: {key}={text}: must be a number") from error
    if value is not None and not (math.isfinite(value) and 0 <= value <= most):
        raise Refused(f"{place}: {key}={text}: must be finite, at least 0{f' and at most {most:g}' * (most < math.inf)}")
    return value
