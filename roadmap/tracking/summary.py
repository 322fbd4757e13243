"""The final numbers of a run, as dashboards show them beside its curves. No torch here.

What a run is compared with is found when it is shown, since it depends on which other runs are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.record.study import find_plan


def summary_of(folder: RunFolder, result: RunResult) -> dict[str, Any]:
    """Scores, costs, speed, status, and the difference to the parent where that run is done by now; only what is known."""
    costs = {key: getattr(result, key) for key in ("gmacs", "params_m", "status", "images_per_second")}
    delta = {f"delta_{result.metric.key}": difference_to_parent(folder, result)}
    return {key: value for key, value in {**result.scores, **costs, **delta}.items() if value is not None}


def difference_to_parent(folder: RunFolder, result: RunResult) -> float | None:
    """The score less that of the run that this one is compared with, at the same seed; None unless one such run is done."""
    runs, declared = _compared_with(folder, result)
    scores: list[float] = []
    for path in runs:
        with suppress(Refused):  # a record of another version
            other = RunFolder(path).result()
            if other and other.score is not None and other.seed == result.seed and result.comparable(other, declared):
                scores.append(other.score)
    return result.score - scores[0] if result.score is not None and len(scores) == 1 else None


def _compared_with(folder: RunFolder, result: RunResult) -> tuple[Iterable[Path], Sequence[str]]:
    """Runs of the row that the study compares this run's row with, and the toggles in which the rows differ.

    Where no study lists the run, those of the parent step.
    """
    runs, plan = folder.path.parent, find_plan(folder.path.parent.parent)
    planned = plan.runs.get(folder.path.name) if plan else None
    if plan is None or planned is None:
        return runs.glob(f"{result.step.parent}-s{result.seed}-*"), ()
    parent = planned.row.variant.parent
    return [runs / name for name in (plan.row(parent).runs if parent else ())], planned.row.toggles
