"""The final numbers of a run, as dashboards show them beside its curves. No torch here.

What a run is compared with is found when it is shown, since it depends on which other runs are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.record.study import PlannedRow, StudyPlan, find_plan


def summary_of(folder: RunFolder, result: RunResult) -> dict[str, Any]:
    """Scores, costs, speed, status, and the difference to the parent where that run is done by now; only what is known."""
    costs = {key: getattr(result, key) for key in ("gmacs", "params_m", "status", "images_per_second")}
    delta = {f"delta_{result.metric.key}": difference_to_parent(folder, result)}
    return {key: value for key, value in {**result.scores, **costs, **delta}.items() if value is not None}


def difference_to_parent(folder: RunFolder, result: RunResult) -> float | None:
    """The score less that of the run that this one is compared with, at the same seed; None unless one such run is done."""
    before = parent_score(folder, result)
    return None if before is None or result.score is None else result.score - before


def parent_score(folder: RunFolder, result: RunResult) -> float | None:
    """The score of that run."""
    scores: list[float] = []
    plan, name = find_plan(folder.path.parent.parent), folder.path.name
    row = plan.runs[name].row if plan and name in plan.runs else None
    declared = row.toggles if row else ()
    for path in _compared_with(folder, result, plan, row):
        with suppress(Refused):  # a record of another version
            other = RunFolder(path).result()
            if other and other.score is not None and other.seed == result.seed and result.comparable(other, declared):
                scores.append(other.score)
    return scores[0] if len(scores) == 1 else None


def _compared_with(folder: RunFolder, result: RunResult, plan: StudyPlan | None, row: PlannedRow | None) -> Iterator[Path]:
    """Runs of the row that the study compares this run's row with; where no study lists the run, those of the parent step."""
    runs = folder.path.parent
    if plan is None or row is None:
        return runs.glob(f"{result.step.parent}-s{result.seed}-*")
    return (runs / name for other in plan.rows if other.variant.name == row.variant.parent for name in other.runs)
