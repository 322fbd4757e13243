"""The tables of the page: the cells of `table.md`, each with the number behind it to sort by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from roadmap.base.tables import Column
from roadmap.report.page.markup import Markup, join, tag
from roadmap.report.page.progress import Progress
from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Estimate
from roadmap.report.table import csv_rows, effect_columns, effect_rows, table_columns, table_rows

FILES = ("result.json", "history.jsonl", "log.txt", "config.yaml")  # of a run, that are worth a link
NUMBERS = {"top1": "top1_mean", "seeds": "n", "delta": "delta_top1", "p": "p_holm", "paper_top1": "paper_top1"}  # cell: CSV


def main_table(study: Study, analysis: Analysis) -> Markup:
    """One row a step."""
    cells, numbers = table_rows(study, analysis), csv_rows(study, analysis)
    rows = [
        {**row, "number": {key: exact.get(NUMBERS.get(key, key), row.get(key)) for key in row}, "single": _single(found.by_seed)}
        for row, exact, found in zip(cells, numbers, analysis.rows, strict=True)
    ]
    groups = [row.variant.group for row in analysis.rows]
    return _table("rows", "Rows of the study", table_columns(study), rows, groups)


def effects_table(study: Study, analysis: Analysis) -> Markup:
    """One row an effect, for studies whose answer is not one difference a row; else nothing."""
    rows = [
        {**row, "number": _numbers(analysis.estimate(effect.name)), "single": ""}
        for row, effect in zip(effect_rows(study, analysis), study.effects, strict=False)
    ]
    return _table("effects", "Effects", effect_columns(), rows, [""] * len(rows)) if rows else Markup("")


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    return {"delta": estimate.value, "p": estimate.p_holm} if estimate else {}


def _single(by_seed: Mapping[int, float]) -> str:
    return ", ".join(f"seed {seed}: {value:.2f}" for seed, value in by_seed.items())


def _table(name: str, caption: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], groups: Sequence[str]) -> Markup:
    shown = [column for column in columns if any(column.text(row) for row in rows)]
    heads = [_head(name, column, _right(column, rows)) for column in shown]
    body = [
        tag(
            "tr",
            *(_cell(column, row, _right(column, rows)) for column in shown),
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


def _right(column: Column, rows: Sequence[dict[str, Any]]) -> bool:
    """Numbers stand to the right, those with a deviation or an interval beside them too."""
    return column.key in ("top1", "seeds", "delta", "p", "paper_top1") or column.numeric(rows)


def _head(name: str, column: Column, right: bool) -> Markup:
    button = tag("button", column.heading, type="button", id=f"sort-{name}-{column.key}")
    return tag("th", button, scope="col", aria_sort="none", data_key=column.key, class_="number" if right else None)


def _cell(column: Column, row: dict[str, Any], right: bool) -> Markup:
    written, number = column.text(row), row["number"].get(column.key)
    value = repr(float(number)) if isinstance(number, int | float) and not isinstance(number, bool) else None
    if column.key == "label":
        return tag("th", written, scope="row")
    single = row["single"] if column.key == "top1" else ""
    inside = [written, tag("span", single, class_="single")] if single else [written]
    name = "verdict" if column.key == "verdict" else "number" if right else None
    return tag("td", *inside, class_=name, data_value=value, data_text=written if single else None)


# --- records ---------------------------------------------------------------------------------------------------------


def records_table(study: Study, live: Mapping[str, Progress], beside: Path) -> Markup:
    """One row a run, with links to what lies beside the page."""
    found = {result["run"]: result for result in study.results}
    rows = [
        _run(study, row["label"], seed, run, found.get(run), live.get(run), beside)
        for row in study.about["rows"]
        for seed, run in zip(study.about["seeds"], row["runs"], strict=False)
    ]
    heads = [tag("th", name, scope="col") for name in ("row", "seed", "run", "status", "top-1, %", "files")]
    table = tag("table", tag("caption", "Runs", class_="unseen"), tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("div", table, class_="scroll", id="runs-box", tabindex="0", role="region", aria_label="Runs, table")


def _run(study: Study, label: str, seed: int, run: str, result: Any, progress: Progress | None, beside: Path) -> Markup:
    status = result["status"] if result else progress.words(study.about["epochs"]) if progress else "missing"
    top1 = result["top1"] if result and result["status"] == "done" else None
    cells = [seed, tag("code", run), status, "" if top1 is None else f"{top1:.2f}", join(_links(study, run, beside), " ")]
    classes = ["number", None, None, "number", "links"]
    return tag(
        "tr", tag("th", label, scope="row"), *(tag("td", c, class_=k) for c, k in zip(cells, classes, strict=True))
    )  # fmt: skip


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
