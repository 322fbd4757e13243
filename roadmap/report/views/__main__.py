"""`python -m roadmap.report.views FOLDER FOLDER ... --to FOLDER`: what each step is worth by each view: table, figure, page.

python -m roadmap.report.views experiments/digits experiments/digits_leave_one_out --to experiments/digits_views
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadmap.base.console import Parser, exits
from roadmap.base.tables import Column, Table, as_csv
from roadmap.report.columns import effects_under
from roadmap.report.recipe import recipe_words
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
    from roadmap.report.views.figure import pictures  # matplotlib

    lines = {"views.csv": as_csv(_lines(views), [Column(key, key) for key in COLUMNS])}
    drawn: dict[str, str | bytes] = {"views.html": render(views), **pictures(views)}
    print(write_beside(arguments.to, "views", [_table(views)], notes(views), lines, drawn))
    return 0


def _lines(views: Views) -> list[dict[str, Any]]:
    """One for each step and view; without numbers where the view has not that step."""
    pairs = [(step, kind) for step in views.steps for kind in views.kinds]
    return [{"step": step, "label": views.steps[step], "view": kind} | _numbers(views, step, kind) for step, kind in pairs]


def _numbers(views: Views, step: str, kind: str) -> dict[str, Any]:
    worth = views.worths.get((step, kind))
    numbers = {} if worth is None else {"effect": worth.value, **worth.tested}
    return {**numbers, "n": views.reports[kind].analysis.fewest(worth)}


def _table(views: Views) -> Table:
    by_view = [(VIEWS[kind], [views.worths.get((step, kind)) for step in views.steps]) for kind in views.kinds]
    return effects_under(views.steps.values(), by_view, "")


def render(views: Views) -> str:
    """The page, the same text from the same records."""
    from roadmap.report.page import strips

    study, order = views.first.study, list(VIEWS)
    return strips(
        "views of the steps",
        [
            (label, [(VIEWS[kind], order.index(kind), views.worths.get((step, kind))) for kind in views.kinds])
            for step, label in views.steps.items()
        ],
        heading="What is each step worth, and does it depend on its place?",
        table="Each step by each view",
        says=f"Points of {study.plan.metric.label} that adding the step changes.",
        family="the worths of its view",
        plan=study.plan,
        measured=study.plan.measured_on,
        recipe=recipe_words(study),
        studies=[(VIEWS.get(kind, "pairs of steps"), report.study.plan) for kind, report in views.reports.items()],
        pairs=views.pairs and views.pairs.analysis.pairs,
        notes=notes(views),
    )


if __name__ == "__main__":
    exits(main)()
