"""Records as pandas tables, from Python: `roadmap.report.frame(FOLDER)`, `table(FOLDER)`, `effects(FOLDER)`. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.paper.rows import METRIC
from roadmap.record.alarms import at_chance
from roadmap.record.result import RunResult
from roadmap.record.study import FILE
from roadmap.report.published import published_difference, published_row
from roadmap.report.records import History, Study, every_run, load
from roadmap.report.sides import Sides, is_gain, sides
from roadmap.report.statistics import Analysis, Estimate, Row, analyse
from roadmap.report.unplanned import row_names

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("model", "data", "recipe", "versions", "git")  # whose settings are columns of their own, recipe.lr
PAPER = tuple(f"paper_{key}" for key in (METRIC, "delta", "gmacs"))
PUBLISHED = (PAPER[0], f"{PAPER[0]}_std", "paper_gflops_printed")  # in `table.csv`
SPEEDS = (  # of bench.csv, where there is one
    ("ours_train", "training, img/s", "{:.4g}"),
    ("ours_inference", "inference, img/s", "{:.4g}"),
    ("ours_latency_ms", "latency at batch 1, ms", "{:.3g}"),
    ("ours_memory_gib", "peak memory in training, GiB", "{:.2f}"),
    ("share_of_peak", "share of peak", "{:.1%}"),
)


def frame(folder: Path | str) -> pd.DataFrame:
    """Every run that is done or has diverged, one row a run: of a study of any kind, or of single runs that no study planned.

    Args:
        folder: of a study (`study.json` with `runs/` or `records.jsonl`), or one with `runs/` alone.

    Returns:
        Columns `row` (of the study's table; where there is no study the step, and the settings that tell its rows apart),
        `step`, `seed`, `status`, the scores by their keys, losses, costs (`gmacs` in 1e9 multiply-adds, `params_m` in 1e6),
        `images_per_second`, `seconds`, what the run was made with (`model.kernel_size`, `recipe.lr`, `versions.torch`, ...),
        and `history`: for each epoch training loss, validation loss and score.

    Raises:
        Refused: where there are no runs, or those of a study differ in more than the model.

    """
    runs = _planned(Path(folder)) if (Path(folder) / FILE).exists() else _single(Path(folder))
    return _frame([_run(row, result, history) for row, result, history in runs])


def table(folder: Path | str, score: str | None = None) -> pd.DataFrame:
    """The table of a study in full precision, one row a network, in the order of the plan: what `table.csv` holds.

    With `score` it is that of another score of the same runs, `mask_ap` for example.

    Scores and differences are in the unit of the metric, costs in 1e9 multiply-adds and 1e6 parameters. Two columns more than
    in `table.csv`: the paper's difference to the row's parent and its multiply-adds, `paper_delta` and `paper_gmacs`.

    Raises:
        Refused: where there is no study or no such score, or its rows differ in more than the model.

    """
    study = _scored(folder, score)
    return table_frame(study, analyse(study))


def effects(folder: Path | str, score: str | None = None) -> pd.DataFrame:
    """What is asked of the rows, one row an effect: `effect`, `value`, `low`, `high`, `p`, `p_holm`, `resolved`.

    Values and the ends of their 95 % intervals are in the unit of the metric. Of single runs that no study planned: the
    difference of each row to the nearest step before it. Of steps under several recipes also `under_first` and `under_other`,
    which the value is the difference of, with the ends of their intervals. With `score` those of another score of the same runs.

    Raises:
        Refused: where there are no runs or no such score, or those of a study differ in more than the model.

    """
    study = _scored(folder, score)
    names = {f"delta_{study.plan.metric.key}": "value", "delta_low": "low", "delta_high": "high"}
    return effects_frame(study, analyse(study)).drop(columns="label").rename(columns=names)


def _scored(folder: Path | str, score: str | None) -> Study:
    study = load(Path(folder))
    return study if score is None else study.scored_by(score)


def table_frame(study: Study, analysis: Analysis) -> pd.DataFrame:
    """The table of a study."""
    return _frame([_row(study, row, analysis.estimate(row.variant.name)) for row in analysis.rows])


def effects_frame(study: Study, analysis: Analysis) -> pd.DataFrame:
    """The effects of a study, under the names of `effects.csv`."""
    score, both = study.plan.metric.key, sides(study.plan, analysis)
    rows = [
        {"effect": e.effect.name, "label": e.effect.label, **_effect(e, score), **_sides(both.get(e.effect.name))}
        for e in analysis.estimates
    ]
    return _frame(rows, ("effect", "label", *_effect(None, score), *(_sides(None) if both else ())))


def dictionaries(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table with Python's own values; None where there is none."""
    known = table.astype(object)
    return known.where(known.notna(), None).to_dict("records")


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table; pandas is imported here, so that what is refused before does not wait for it."""
    import pandas as pd

    return pd.DataFrame(rows, columns=columns)


# --- rows ------------------------------------------------------------------------------------------------------------


def _planned(folder: Path) -> Iterator[tuple[str, RunResult, History]]:
    study = load(folder)
    for row in study.plan.rows:
        for result in study.of(row.variant.name):
            yield row.variant.name, result, study.histories[result.run]


def _single(folder: Path) -> Iterator[tuple[str, RunResult, History]]:
    runs = every_run(folder)
    rows = row_names(list(runs.results.values()))
    for name, result in runs.results.items():
        yield rows[name], result, runs.histories[name]


def _run(row: str, result: RunResult, history: History) -> dict[str, Any]:
    beside = ("run", "study", "step", "scale", "seed", "status", "metric", "scores", *GROUPS)
    rest = {entry.name: getattr(result, entry.name) for entry in fields(result) if entry.name not in beside}
    about = {"row": row, "step": result.step.name, "seed": result.seed, "status": result.status}
    where = {"run": result.run, "study": result.study, "scale": result.scale}
    return {**about, **result.scores, **rest, **where, **result.settings(*GROUPS), "history": history}


def _row(study: Study, row: Row, estimate: Estimate | None) -> dict[str, Any]:
    plan, variant, measured = study.plan, row.variant, study.speeds.get(row.variant.name, {})
    paper = published_row(plan, variant.name)
    score, delta, gmacs = PAPER
    return {
        "step": variant.name, "parent": variant.parent, "label": variant.label, "group": variant.group,
        "adopted": variant.adopted, "reference": variant.reference,
        "data": plan.data, "epochs": plan.epochs, "scale": plan.scale.name,
        "n": len(row.values), "diverged": row.diverged, "missing": row.missing,
        "at_chance": sum(map(at_chance, study.of(variant.name))),
        f"{plan.metric.key}_mean": row.mean, f"{plan.metric.key}_std": row.std,
        **_effect(estimate, plan.metric.key),
        "gmacs_conv_linear": row.gmacs, **_backbone(study, variant.name),
        "params_m": row.params_m, "images_per_second": row.images_per_second,
        **{key: measured.get(key) for key, _, _ in SPEEDS},
        score: paper and paper.score, f"{score}_std": paper and paper.score_std,
        "paper_gflops_printed": paper and paper.gflops_printed,
        delta: published_difference(plan, variant), gmacs: paper and paper.gmacs,
    }  # fmt: skip


def _sides(both: Sides | None) -> dict[str, float | None]:
    """What an effect is the difference of, `under_first` and `under_other`, each with its interval where it is a gain."""
    found: dict[str, float | None] = {}
    for name, side in zip(("under_first", "under_other"), both or (None, None), strict=True):
        low, high = (side.interval if side and is_gain(side) else None) or (None, None)
        found |= {name: side.value if side else None, f"{name}_low": low, f"{name}_high": high}
    return found


def _backbone(study: Study, row: str) -> dict[str, Any]:
    """A column of its own where networks have heads."""
    if all(result.gmacs_backbone is None for result in study.results.values()):
        return {}
    return {"gmacs_backbone": next((result.gmacs_backbone for result in study.of(row)), None)}


def _effect(estimate: Estimate | None, score: str) -> dict[str, Any]:
    names = {"low": "delta_low", "high": "delta_high"}
    tested = dict.fromkeys(("low", "high", "p", "p_holm", "resolved")) if estimate is None else estimate.tested
    return {f"delta_{score}": estimate and estimate.value, **{names.get(key, key): value for key, value in tested.items()}}
