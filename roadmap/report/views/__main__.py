"""`python -m roadmap.report.views FOLDER FOLDER ... --to FOLDER`: what each step is worth by each view: table, figure, page.

python -m roadmap.report.views experiments/digits experiments/digits_leave_one_out --to experiments/digits_views
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadmap.base.console import Parser, exits, printable
from roadmap.base.tables import Column, Row, as_csv, as_markdown, as_table, markdown_with_notes
from roadmap.report.columns import effects_under
from roadmap.report.views import VIEWS, Views, notes, read_views
from roadmap.report.write import check_no_study, write_beside

COLUMNS = ("step", "label", "view", "effect", "low", "high", "p", "p_holm", "resolved", "n")


def main() -> int:
    """Write the files and print the table."""
    parser = Parser(prog="python -m roadmap.report.views", description="What each step is worth by each of several studies.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="studies of the same steps, each of another kind")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where table, figure and page are written")
    arguments = parser.parse_args()
    check_no_study(arguments.to)
    views = read_views(arguments.folders)
    written = write_views(views, arguments.to)
    print("\n".join([as_table(*_table(views)), *map(printable, notes(views)), written]))
    return 0


def write_views(views: Views, folder: Path) -> str:
    """Write `views.*`, and `pairs.*` where pairs were trained; returns their names for a terminal.

    Raises:
        StorageFault: where the folder cannot be written.

    """
    from roadmap.report.views.figure import pictures
    from roadmap.report.views.page import render

    files: dict[str, str | bytes] = {
        "views.csv": as_csv(_lines(views), [Column(key, key) for key in COLUMNS]),
        "views.md": markdown_with_notes([as_markdown(*_table(views))], notes(views)),
        "views.html": render(views),
        **pictures(views),
    }
    return write_beside(folder, files, "views")


def _lines(views: Views) -> list[dict[str, Any]]:
    """One for each step and view; without numbers where the view has not that step."""
    pairs = [(step, kind) for step in views.steps for kind in views.kinds]
    return [{"step": step, "label": views.steps[step], "view": kind} | _numbers(views, step, kind) for step, kind in pairs]


def _numbers(views: Views, step: str, kind: str) -> dict[str, Any]:
    worth = views.worths.get((step, kind))
    numbers = {} if worth is None else {"effect": worth.value, **worth.tested}
    return {**numbers, "n": views.reports[kind].analysis.fewest(worth)}


def _table(views: Views) -> tuple[list[Row], list[Column]]:
    by_view = [(VIEWS[kind], [views.worths.get((step, kind)) for step in views.steps]) for kind in views.kinds]
    return effects_under(views.steps.values(), by_view)


if __name__ == "__main__":
    exits(main)()
