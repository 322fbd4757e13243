"""From a study's records to its tables and pictures; nothing is trained and no torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roadmap.base.claims import claim
from roadmap.base.console import printable
from roadmap.base.errors import Refused, writing
from roadmap.base.files import check_entries, check_writable, remove_partial, write_atomic
from roadmap.base.tables import Table, as_markdown, as_table, markdown_text, markdown_with_notes
from roadmap.record.study import FILE
from roadmap.report.columns import effects_csv, latex, markdown, table_columns, table_csv, terminal
from roadmap.report.pictures import pictures
from roadmap.report.records import plan_in, write_records
from roadmap.report.report import Report

WAIT_SECONDS = 120.0
PAGE = "page.html"


def write_report(folder: Path, keys: Sequence[str] = (), behind: Path | None = None) -> tuple[Report, str]:
    """Write tables, figures, effects and records, and the page anew where there is one: it is never older than the tables.

    Args:
        folder: of the study.
        keys: of the table's columns, in their order; none: all.
        behind: the folder of another study, of a larger scale, that stands behind the first in the figure.

    Returns:
        The report, and its tables with the names of its files for a terminal.

    Raises:
        Refused: where the study cannot be reported, or has no such columns.
        StorageFault: where the folder cannot be written.

    """
    check_entries(folder)
    table_columns(plan_in(folder), keys)  # without a study, or with a wrong key, nothing is made, not even the lock
    other = None if behind is None else Report.read(behind)
    alone = claim(folder / "claim", wait=WAIT_SECONDS)  # several sweeps may end at the same moment
    with writing(f"{folder}: the report"), alone:
        report = Report.read(folder)
        remove_partial(folder)
        write_records(report.study)
        files = _files(report, keys, other)
        for name, content in files.items():
            write_atomic(folder / name, content)
        if (folder / PAGE).is_file():
            from roadmap.report.page import write_page

            write_page(report)
    return report, "\n".join([terminal(report, keys), f"{folder}: {', '.join([*files, 'records.jsonl'])}"])


def check_no_study(folder: Path) -> None:
    """Refuse a folder for what is made of several studies that holds a study of its own, or is a file."""
    if (folder / FILE).exists() or folder.is_file():
        raise Refused(f"--to {folder}: a study's folder or a file; needed: a folder of its own")
    check_writable(folder.absolute(), f"--to {folder}")


def write_beside(
    folder: Path, what: str, tables: Sequence[Table], notes: Sequence[str], csvs: dict[str, str], drawn: dict[str, str | bytes]
) -> str:
    """Write what was made of several studies into a folder of its own: tables with notes as `what`.md, beside files by name.

    Returns:
        Tables, notes and the files' names for a terminal.

    Raises:
        StorageFault: where the folder cannot be written.

    """
    parts = [f"{markdown_text(title)}\n\n" * bool(title) + as_markdown(rows, columns) for rows, columns, title in tables]
    files = {**csvs, f"{what}.md": markdown_with_notes(parts, notes), **drawn}
    with writing(f"{folder}: the {what}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(folder / name, content)
    return "\n".join([*(as_table(*table) for table in tables), *map(printable, notes), f"{folder}: {', '.join(files)}"])


def _files(report: Report, keys: Sequence[str], behind: Report | None) -> dict[str, str | bytes]:
    """What a report consists of, by file name."""
    return {
        "table.md": markdown(report, keys),
        "table.csv": table_csv(report),
        "table.tex": latex(report, keys),
        "effects.csv": effects_csv(report),
        **pictures(report, behind),
    }
