"""From a study's records to its table and figure; nothing is trained and no torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.errors import StorageFault
from roadmap.report.formats import as_table
from roadmap.report.records import load, write_records
from roadmap.report.statistics import analyse
from roadmap.report.table import (
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
from roadmap.storage import claim, remove_partial, write_whole

WRITTEN = ("table.md", "table.csv", "table.tex", "effects.csv", "figure.svg", "figure.png", "figure.pdf", "records.jsonl")
WAIT_SECONDS = 120.0

if TYPE_CHECKING:
    import pandas as pd


def write_report(folder: Path) -> str:
    """Write `table.md`, `table.csv`, `figure.svg`, `figure.png` and `records.jsonl`; returns the table for a terminal."""
    from roadmap.report.figure import draw

    load(folder)  # what cannot be reported is refused before anything is made
    try:
        with claim(folder / "claim", wait=WAIT_SECONDS):  # several sweeps may end at the same moment
            study = load(folder)
            analysis = analyse(study)
            remove_partial(folder)
            write_records(study)
            write_whole(folder / "table.md", markdown(study, analysis))
            write_whole(folder / "table.csv", csv_text(study, analysis))
            write_whole(folder / "table.tex", latex(study, analysis))
            write_whole(folder / "effects.csv", effects_csv(analysis))
            for name, content in draw(study, analysis).items():
                write_whole(folder / name, content)
    except OSError as error:
        raise StorageFault(f"{folder}: the report could not be written: {error}") from error
    columns = [column for column in table_columns(study) if not column.key.startswith("paper_")]
    effects = effect_rows(study, analysis)
    tables = [as_table(effects, effect_columns(), study.about["question"])] if effects else []
    tables.append(as_table(table_rows(study, analysis), columns, "" if effects else study.about["question"]))
    return "\n".join([*tables, *notes(study, analysis), f"{folder}: {', '.join(WRITTEN)}"])


def frame(folder: Path) -> pd.DataFrame:
    """A study's results as a pandas table, one row a run: step, seed, status, top1, gmacs, params_m, images_per_second."""
    import pandas as pd

    keys = ("seed", "status", "top1", "gmacs", "params_m", "images_per_second", "history")
    return pd.DataFrame(
        [{"step": result["step"]["name"], **{key: result[key] for key in keys}} for result in load(folder).results]
    )
