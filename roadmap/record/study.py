"""A study's plan as its file tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadmap.base.files import read_object


def study_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a study's `study.json` lists; none where there is no such file."""
    rows = read_object(folder / "study.json").get("rows")
    return [row for row in rows if isinstance(row, dict) and "runs" in row] if isinstance(rows, list) else []


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
    reference: bool = False  # a timm model beside the study's networks: in no effect, and no part of their noise

    @property
    def side_branch(self) -> bool:
        """Whether it was tried and not adopted."""
        return not (self.adopted or self.reference)


@dataclass(frozen=True)
class Effect:
    """A weighted sum of the variants' mean accuracies; the weights add up to 0.

    Where it is a mean over sampled orders, `parts` are the weights within each pair of orders: how much they vary is the
    effect's uncertainty, in which the seeds' noise is contained.
    """

    name: str
    label: str
    weights: dict[str, float]
    parts: list[dict[str, float]] = field(default_factory=list)
