"""The tables of the page: the cells of `table.md`, each with the number behind it to sort by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from roadmap.base.tables import Column
from roadmap.record.study import PlannedRun
from roadmap.report.page.markup import Markup, join, tag
from roadmap.report.page.progress import Progress
from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Estimate
from roadmap.report.table import PAPER, csv_rows, effect_columns, effect_rows, table_columns, table_rows

FILES = ("result.json", "history.jsonl", "log.txt", "config.yaml")  # of a run, that are worth a link


def main_table(study: Study, analysis: Analysis) -> Markup:
    """One row a step."""
    cells, numbers, score = table_rows(study, analysis), csv_rows(study, analysis), study.plan.metric.key
    numbers_of = {score: f"{score}_mean", "seeds": "n", "delta": f"delta_{score}", "p": "p_holm"}  # cell: key of table.csv
    rows = [
        {
            **row,
            "number": {key: exact.get(numbers_of.get(key, key), row.get(key)) for key in row},
            "single": _single(found.by_seed),
        }
        for row, exact, found in zip(cells, numbers, analysis.rows, strict=True)
    ]
    groups = [row.variant.group for row in analysis.rows]
    return _table(study, "rows", "Rows of the study", table_columns(study), rows, groups)


def effects_table(study: Study, analysis: Analysis) -> Markup:
    """One row an effect, for studies whose answer is not one difference a row; else nothing."""
    rows = [
        {**row, "number": _numbers(analysis.estimate(effect.name)), "single": ""}
        for row, effect in zip(effect_rows(study, analysis), study.plan.effects, strict=False)
    ]
    return _table(study, "effects", "Effects", effect_columns(study), rows, [""] * len(rows)) if rows else Markup("")


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    return {"delta": estimate.value, "p": estimate.p_holm} if estimate else {}


def _single(by_seed: Mapping[int, float]) -> str:
    return ", ".join(f"seed {seed}: {value:.2f}" for seed, value in by_seed.items())


def _table(
    study: Study, name: str, caption: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], groups: Sequence[str]
) -> Markup:
    score = study.plan.metric.key
    shown = [column for column in columns if any(column.text(row) for row in rows)]
    wide = (score, "delta", PAPER[0])
    heads = [_head(name, column, _right(column, rows, score), column.key in wide) for column in shown]
    body = [
        tag(
            "tr",
            *(_cell(column, row, _right(column, rows, score), score) for column in shown),
            data_group=group,
            data_verdict=row.get("verdict"),
        )
        for row, group in zip(rows, groups, strict=True)
    ]
    table = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        id=name,
        class_="sortable",
    )
    return tag("div", table, class_="scroll", id=f"{name}-box", tabindex="0", role="region", aria_label=f"{caption}, table")


def _right(column: Column, rows: Sequence[dict[str, Any]], score: str) -> bool:
    """Numbers stand to the right, those with a deviation or an interval beside them too."""
    return column.key in (score, "seeds", "delta", "p", PAPER[0]) or column.numeric(rows)


def _head(name: str, column: Column, right: bool, wide: bool) -> Markup:
    kinds = " ".join(["number"] * right + ["wide"] * wide) or None
    button = tag("button", column.heading, type="button", id=f"sort-{name}-{column.key}")
    return tag("th", button, scope="col", aria_sort="none", data_key=column.key, class_=kinds)


def _cell(column: Column, row: dict[str, Any], right: bool, score: str) -> Markup:
    written, number = column.text(row), row["number"].get(column.key)
    value = repr(float(number)) if isinstance(number, int | float) and not isinstance(number, bool) else None
    if column.key == "label":
        return tag("th", written, scope="row")
    single = row["single"] if column.key == score else ""
    inside = [written, tag("span", single, class_="single")] if single else [written]
    name = "verdict" if column.key == "verdict" else "number" if right else None
    return tag("td", *inside, class_=name, data_value=value, data_text=written if single else None)


# --- records ---------------------------------------------------------------------------------------------------------


def records_table(study: Study, live: Mapping[str, Progress], beside: Path) -> Markup:
    """One row a run, with links to what lies beside the page."""
    rows = [_run(study, run, live.get(run.name), beside) for run in study.plan.planned()]
    names = ("row", "seed", "run", "status", study.plan.metric.heading, "files")
    heads = [tag("th", name, scope="col") for name in names]
    table = tag("table", tag("caption", "Runs", class_="unseen"), tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("div", table, class_="scroll", id="runs-box", tabindex="0", role="region", aria_label="Runs, table")


def _run(study: Study, run: PlannedRun, progress: Progress | None, beside: Path) -> Markup:
    result = study.results.get(run.name)
    status = result.status if result else progress.words(study.plan.epochs) if progress else "missing"
    score = "" if result is None or result.score is None else f"{result.score:.2f}"
    cells = [run.seed, tag("code", run.name), status, score, join(_links(study, run.name, beside), " ")]
    classes = ["number", None, None, "number", "links"]
    shown = [tag("td", cell, class_=kind) for cell, kind in zip(cells, classes, strict=True)]
    return tag("tr", tag("th", run.row.variant.label, scope="row"), *shown)


def _links(study: Study, run: str, beside: Path) -> list[Markup]:
    """To the run's own files where they are, else to the file with all records; never out of the study's folder."""
    single = run not in ("", ".", "..") and "/" not in run and "\\" not in run and run.isprintable()
    there = [name for name in FILES if single and (study.folder / "runs" / run / name).is_file()]
    if there:
        return [_link(study.folder / "runs" / run / name, name, f"{name} of {run}", beside) for name in there]
    records = study.folder / "records.jsonl"
    return [_link(records, "records.jsonl", f"records.jsonl, for {run}", beside)] if records.is_file() else []


def _link(path: Path, name: str, full: str, beside: Path) -> Markup:
    relative = os.path.relpath(path.absolute(), beside.absolute())
    return tag("a", name, href=quote(relative.replace(os.sep, "/")), aria_label=full)
