"""The tables of the page: the cells of `table.md`, each with the number behind it to sort by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from roadmap.base.tables import Column, Row, filled
from roadmap.record.study import PlannedRun, StudyPlan
from roadmap.report.columns import effect_columns, table_columns
from roadmap.report.frames import PAPER
from roadmap.report.page.progress import Progress, is_single
from roadmap.report.records import Study
from roadmap.report.report import Report

FILES = ("result.json", "history.jsonl", "log.txt", "config.yaml")  # of a run, that are worth a link
Beside = tuple[str, dict[str, str]]  # of a row: its group, and by column what its single runs have


def sortable(report: Report) -> list[dict[str, Any]]:
    """The table of the effects, where these are not single rows', and the table of the rows."""
    plan, rows = report.study.plan, report.analysis.rows
    single = [", ".join(f"seed {seed}: {value:.2f}" for seed, value in row.by_seed.items()) for row in rows]
    beside = [(row.variant.group, {plan.metric.key: text}) for row, text in zip(rows, single, strict=True)]
    tables = [_table("rows", "Rows of the study", plan, table_columns(plan), report.rows, beside)]
    if report.effect_rows:
        none: list[Beside] = [("", {})] * len(report.effect_rows)
        tables.insert(0, _table("effects", "Effects", plan, effect_columns(plan), report.effect_rows, none))
    return tables


def _table(
    name: str, caption: str, plan: StudyPlan, columns: Sequence[Column], rows: Sequence[Row], beside: Sequence[Beside]
) -> dict[str, Any]:
    shown, wide = filled(rows, columns), (plan.metric.key, "delta", PAPER[0])
    verdict = next(column for column in columns if column.key == "verdict")
    right = {column.key: column.key != "label" and column.numeric(rows) for column in shown}
    heads = [
        {"key": c.key, "heading": c.heading, "kinds": " ".join(["number"] * right[c.key] + ["wide"] * (c.key in wide))}
        for c in shown
    ]
    body = [
        {"group": group, "verdict": verdict.text(row), "cells": [_cell(c, row, right[c.key], single.get(c.key)) for c in shown]}
        for row, (group, single) in zip(rows, beside, strict=True)
    ]
    return {"id": name, "caption": caption, "heads": heads, "rows": body}


def _cell(column: Column, row: Row, right: bool, single: str | None) -> dict[str, Any]:
    """What is written, and the number to sort by: in full precision, None where there is none."""
    value = column.value(row)
    number = repr(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None
    kind = "verdict" if column.key == "verdict" else "number" if right else ""
    return {"key": column.key, "text": column.text(row), "kind": kind, "number": number, "single": single}


# --- records ---------------------------------------------------------------------------------------------------------


def runs(study: Study, live: Mapping[str, Progress], beside: Path) -> list[dict[str, Any]]:
    """One row a run, with links to what lies beside the page."""
    return [_run(study, run, live.get(run.name), beside) for run in study.plan.planned()]


def _run(study: Study, run: PlannedRun, progress: Progress | None, beside: Path) -> dict[str, Any]:
    result = study.results.get(run.name)
    return {
        "label": run.row.variant.label,
        "seed": run.seed,
        "name": run.name,
        "status": result.status if result else progress.words(study.plan.epochs) if progress else "missing",
        "score": "" if result is None or result.score is None else f"{result.score:.2f}",
        "links": _links(study, run.name, beside),
    }


def _links(study: Study, run: str, beside: Path) -> list[dict[str, str]]:
    """To the run's own files where they are, else to the file with all records; never out of the study's folder."""
    files = {name: study.folder / "runs" / run / name for name in FILES if is_single(run) and run.isprintable()}
    links = [_link(path, f"{name} of {run}", beside) for name, path in files.items() if path.is_file()]
    records = study.folder / "records.jsonl"
    return links or ([_link(records, f"records.jsonl, for {run}", beside)] if records.is_file() else [])


def _link(path: Path, about: str, beside: Path) -> dict[str, str]:
    relative = os.path.relpath(path.absolute(), beside.absolute())
    return {"name": path.name, "about": about, "href": quote(relative.replace(os.sep, "/"))}
