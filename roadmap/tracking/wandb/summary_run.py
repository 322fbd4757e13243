"""The summarising run of a study on W&B: the roadmap's table with its intervals, a line for each row. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from roadmap.base.errors import writing
from roadmap.base.files import read_json_object, write_atomic
from roadmap.base.redaction import redact_record, redact_text
from roadmap.base.tables import filled
from roadmap.record.folder import RunFolder
from roadmap.record.study import StudyPlan
from roadmap.report.columns import csv_columns, table_columns
from roadmap.report.report import Report
from roadmap.tracking.wandb.run import WandbRun
from roadmap.tracking.wandb.upload import Record, replay_offline
from roadmap.tracking.wandb.uploader import TABLE

# The lines of the summarising run, one a row of the table, and the column of table.csv that each is.
LINES = {
    "row_{key}": "{key}_mean",
    "row_{key}_std": "{key}_std",
    "row_delta": "delta_{key}",
    "row_delta_low": "delta_low",
    "row_delta_high": "delta_high",
    "row_gmacs": "gmacs_conv_linear",
}


def summary_id(plan: StudyPlan) -> str:
    r"""W&B's id of the summarising run, from the study's name; W&B takes none of /\\#?%: in it."""
    return redact_text("study-" + re.sub(r"[^\w.\-]", "-", plan.study))


def summarise(report: Report, entity: str | None, project: str) -> Record:
    """Write the summarising run's folder, `<study>/wandb/summary/`, in the form of a run's record.

    Raises:
        StorageFault: where it cannot be written.

    """
    folder = RunFolder(report.study.folder.absolute() / "wandb" / "summary")
    table = table_of(report)
    lines = [{"epoch": index, **line} for index, line in enumerate(lines_of(report))]  # W&B's step is the row
    fingerprint = hashlib.sha256(json.dumps([table, lines]).encode()).hexdigest()
    with writing(f"{folder.path}:"):
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomic(folder.path / TABLE, json.dumps({**table, "record": fingerprint}, ensure_ascii=False))
        write_atomic(folder.history_file, "".join(json.dumps(line) + "\n" for line in lines))
    return Record(folder, _shown(report, folder.path, entity, project), fingerprint)


def _shown(report: Report, folder: Path, entity: str | None, project: str) -> WandbRun:
    plan = report.study.plan
    about = {key: getattr(plan, key) for key in ("study", "question", "kind", "data", "image_size", "epochs", "recipe", "seeds")}
    about = redact_record({**about, "scale": plan.scale.name, "notes": report.notes})
    return WandbRun(
        folder=str(folder),
        id=summary_id(plan),
        online=False,
        project=project,
        entity=entity,
        name=f"{about['study']}: table",
        group="summary",
        job_type=about["study"],
        tags=["summary"],
        config=about,
    )


def table_of(report: Report) -> dict[str, Any]:
    """The roadmap's table as people read it, then its numbers in full precision under the names of `table.csv`."""
    columns = filled(report.rows, table_columns(report.study.plan))
    exact = [column.key for column in csv_columns(report) if any(row[column.key] is not None for row in report.rows)]
    headings = [column.heading + " in words" * (column.heading in exact) for column in columns]  # each column once
    rows = [[*(column.text(row) for column in columns), *(row[key] for key in exact)] for row in report.rows]
    return {"columns": redact_record([*headings, *exact]), "rows": redact_record(rows)}


def lines_of(report: Report) -> list[dict[str, Any]]:
    """One line a row, for curves with the report's own intervals over the rows."""
    metric = report.study.plan.metric.key
    columns = {key.format(key=metric): column.format(key=metric) for key, column in LINES.items()}
    return [{"row_number": i, **{key: row[column] for key, column in columns.items()}} for i, row in enumerate(report.rows)]


def write_offline(summary: Record) -> int:
    """Write the summarising run as a W&B offline run, once: what is there already with the same content stays."""
    directory, mark = summary.folder.path / "wandb", summary.folder.path / "wandb" / "offline.json"
    if read_json_object(mark).get("result") == summary.fingerprint and any(directory.glob("offline-run-*")):
        print(f"{summary.shown.id}: written already to {directory}")
        return 0
    code = replay_offline([summary])
    if code == 0:
        write_atomic(mark, json.dumps({"result": summary.fingerprint}) + "\n")
    return code
