"""Records as pandas tables, from Python: `roadmap.report.frame(FOLDER)`, `roadmap.report.effects(FOLDER)`. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from roadmap.base.errors import Refused
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.record.study import FILE
from roadmap.report.records import History, load
from roadmap.report.statistics import analyse

GROUPS = ("model", "data", "recipe", "versions", "git")  # whose settings are columns of their own, recipe.lr


def frame(folder: Path | str) -> pd.DataFrame:
    """Every run that is done or has diverged, one row a run: of a study of any kind, or of single runs that no study planned.

    Args:
        folder: of a study (`study.json` with `runs/` or `records.jsonl`), or one with `runs/` alone.

    Returns:
        Columns `row` (of the study's table; the step where there is no study), `step`, `seed`, `status`, the scores by their
        keys, losses, costs (`gmacs` in 1e9 multiply-adds, `params_m` in 1e6), `images_per_second`, `seconds`, what the run was
        made with (`model.kernel_size`, `recipe.lr`, `versions.torch`, ...), and `history`: for each epoch training loss,
        validation loss and score.

    Raises:
        Refused: where there are no runs, or those of a study differ in more than the model.

    """
    runs = _planned(Path(folder)) if (Path(folder) / FILE).is_file() else _single(Path(folder))
    rows = [_row(row, result, history) for row, result, history in runs]
    if not rows:
        raise Refused(f"{folder}: no run that is done; needed: a study's folder, or one with runs/")
    return pd.DataFrame(rows)


def effects(folder: Path | str) -> pd.DataFrame:
    """What a study asks of its rows, one row an effect: `effect`, `label`, `value`, `low`, `high`, `p`, `p_holm`, `resolved`.

    Values and the ends of their 95 % intervals are in the unit of the metric.

    Raises:
        Refused: where there is no study, or its rows differ in more than the model.

    """
    rows = []
    for estimate in analyse(load(Path(folder))).estimates:
        low, high = estimate.interval or (None, None)
        about = {
            "effect": estimate.effect.name,
            "label": estimate.effect.label,
            "value": estimate.value,
            "low": low,
            "high": high,
        }
        rows.append({**about, "p": estimate.p, "p_holm": estimate.p_holm, "resolved": estimate.resolved})
    return pd.DataFrame(rows, columns=["effect", "label", "value", "low", "high", "p", "p_holm", "resolved"])


def _planned(folder: Path) -> Iterator[tuple[str, RunResult, History]]:
    study = load(folder)
    for row in study.plan.rows:
        for result in study.of(row.variant.name):
            yield row.variant.name, result, study.histories[result.run]


def _single(folder: Path) -> Iterator[tuple[str, RunResult, History]]:
    for path in sorted((folder / "runs").glob("*/")):
        run = RunFolder(path)
        if (result := run.result()) is not None:
            yield result.step.name, result, run.curves(result.metric.key)


def _row(row: str, result: RunResult, history: History) -> dict[str, Any]:
    beside = ("run", "study", "step", "scale", "seed", "status", "metric", "scores", *GROUPS)
    rest = {entry.name: getattr(result, entry.name) for entry in fields(result) if entry.name not in beside}
    settings = {f"{group}.{key}": value for group in GROUPS for key, value in getattr(result, group).items()}
    about = {"row": row, "step": result.step.name, "seed": result.seed, "status": result.status}
    where = {"run": result.run, "study": result.study, "scale": result.scale}
    return {**about, **result.scores, **rest, **where, **settings, "history": history}
