"""From a study's records to its table and figure; nothing is trained and no torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roadmap.base.claims import claim
from roadmap.base.console import printable
from roadmap.base.errors import StorageFault
from roadmap.base.files import remove_partial, write_atomic
from roadmap.base.tables import as_table
from roadmap.report.records import Study, load, write_records
from roadmap.report.statistics import Analysis, analyse
from roadmap.report.table import (
    PAPER,
    csv_text,
    effect_columns,
    effect_rows,
    effects_csv,
    latex,
    markdown,
    notes,
    table_columns,
    table_rows,
)

WAIT_SECONDS = 120.0


def write_report(folder: Path, columns: Sequence[str] = (), behind: Path | None = None) -> str:
    """Write tables, figures, effects and records; returns the table for a terminal.

    Args:
        folder: of the study.
        columns: keys of the table's columns, in their order; none: all.
        behind: the folder of another study, of a larger scale, that stands behind the first in the figure.

    """
    load(folder)  # what cannot be reported is refused before anything is made
    other = None if behind is None else load(behind)
    try:
        with claim(folder / "claim", wait=WAIT_SECONDS):  # several sweeps may end at the same moment
            study = load(folder)
            analysis = analyse(study)
            remove_partial(folder)
            write_records(study)
            files = _files(study, analysis, columns, other)
            for name, content in files.items():
                write_atomic(folder / name, content)
    except OSError as error:
        raise StorageFault(f"{folder}: the report could not be written: {error}") from error
    return "\n".join([_for_terminal(study, analysis, columns), f"{folder}: {', '.join([*files, 'records.jsonl'])}"])


def _files(study: Study, analysis: Analysis, columns: Sequence[str], other: Study | None) -> dict[str, str | bytes]:
    """What a report consists of, by file name."""
    from roadmap.report.figure import MOST_BARS, draw, picture
    from roadmap.report.plots import plots

    behind = None if other is None else (other, analyse(other))
    drawn = draw(picture(study, analysis, behind)) if len(analysis.rows) <= MOST_BARS else {}  # of sampled orders: the effects
    return {
        "table.md": markdown(study, analysis, columns),
        "table.csv": csv_text(study, analysis),
        "table.tex": latex(study, analysis, columns),
        "effects.csv": effects_csv(study, analysis),
        **{f"figure.{kind}": content for kind, content in drawn.items()},
        **plots(study, analysis),
    }


def _for_terminal(study: Study, analysis: Analysis, columns: Sequence[str]) -> str:
    """The tables and their notes; the paper's columns only where they are asked for."""
    question, effects = study.plan.question, effect_rows(study, analysis)
    shown = [column for column in table_columns(study, columns) if columns or not column.key not in PAPER]
    tables = [as_table(effects, effect_columns(study), question)] if effects else []
    tables.append(as_table(table_rows(study, analysis), shown, "" if effects else question))
    return "\n".join([*tables, *map(printable, notes(study, analysis))])
