"""`python -m roadmap.report.transfer CLASSIFICATION DENSE ... --to FOLDER`: whether what helps one task helps the others.

python -m roadmap.report.transfer experiments/digits experiments/scenes_detection --to experiments/transfer
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadmap.base.console import Parser, exits
from roadmap.base.tables import Column, Table, as_csv
from roadmap.report.columns import effects_under
from roadmap.report.recipe import recipe_words
from roadmap.report.transfer import Side, Transfer, notes, read_transfer
from roadmap.report.write import check_no_study, write_beside

COLUMNS = ("step", "label", "parent", "study", "score", "difference", "low", "high", "p", "p_holm", "resolved", "n")
TAUS = ("study", "score", "steps", "tau", "tau_low", "tau_high", "rho", "rho_low", "rho_high")
ENDS = {"": "value", "_low": "low", "_high": "high"}


def main() -> int:
    """Write the files and print the tables."""
    parser = Parser(prog="python -m roadmap.report.transfer", description="Whether a step's worth in one task is that in others.")
    parser.add_argument("first", type=Path, metavar="CLASSIFICATION", help="the study that the others are set against")
    parser.add_argument("others", type=Path, nargs="+", metavar="DENSE", help="studies of the same steps in other tasks")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where tables, figure and page are written")
    arguments = parser.parse_args()
    check_no_study(arguments.to)
    transfer = read_transfer([arguments.first, *arguments.others])
    from roadmap.report.transfer.figure import pictures  # matplotlib

    lines = {
        "transfer.csv": as_csv(_lines(transfer), [Column(key, key) for key in COLUMNS]),
        "correlations.csv": as_csv(_correlations(transfer), [Column(key, key) for key in TAUS]),
    }
    drawn: dict[str, str | bytes] = {"transfer.html": render(transfer), **pictures(transfer)}
    print(write_beside(arguments.to, "transfer", _tables(transfer), notes(transfer), lines, drawn))
    return 0


def _lines(transfer: Transfer) -> list[dict[str, Any]]:
    """One for each difference and score; without numbers where the study has not its rows."""
    every = (transfer.first, *transfer.sides, *transfer.within)
    return [_line(transfer, i, side) for i in range(len(transfer.asked)) for side in every]


def _line(transfer: Transfer, i: int, side: Side) -> dict[str, Any]:
    effect, found = transfer.asked[i], side.estimates[i]
    parent = "+".join(row for row, weight in effect.weights.items() if weight < 0)
    about = {"step": effect.name, "label": effect.label, "parent": parent, "study": side.study.name, "score": side.metric.key}
    numbers = {} if found is None else {"difference": found.value, **found.tested}
    return {**about, **numbers, "n": side.report.analysis.fewest(found)}


def _correlations(transfer: Transfer) -> list[dict[str, Any]]:
    return [
        {"study": side.study.name, "score": side.metric.key, "steps": found.steps}
        | {f"{name}{end}": getattr(getattr(found, name), of) for name in ("tau", "rho") for end, of in ENDS.items()}
        for side, found in zip(transfer.sides, transfer.agreements, strict=True)
        if found is not None
    ]


def _tables(transfer: Transfer) -> list[Table]:
    """The metrics side by side, then for each score of detection where it comes from."""
    found = [("Differences to the parent, in points [95 % interval]", [transfer.first, *transfer.sides])]
    found += [(f"Where {side.heading} changes", [side, *within]) for side in transfer.sides if (within := transfer.of(side))]
    labels = [effect.label for effect in transfer.asked]
    return [effects_under(labels, [(side.heading, side.estimates) for side in sides], title) for title, sides in found]


def render(transfer: Transfer) -> str:
    """The page, the same text from the same records."""
    from roadmap.report.page import strips

    sides = (transfer.first, *transfer.sides)
    studies = [side.study for side in (transfer.first, *transfer.studies)]
    return strips(
        "transfer of the steps",
        [
            (effect.label, [(side.heading, number % 8, side.estimates[i]) for number, side in enumerate(sides)])
            for i, effect in enumerate(transfer.asked)
        ],
        heading="Does a step that helps one task help the others?",
        table="Each step by each score",
        says="Points that the step changes its parent by.",
        family="the differences of its score",
        plan=studies[0].plan,
        measured="; ".join(dict.fromkeys(study.plan.measured_on for study in studies)),
        recipe="; ".join(dict.fromkeys(map(recipe_words, studies))),
        studies=[(side.metric.label, side.study.plan) for side in (transfer.first, *transfer.studies)],
        pairs=None,
        notes=notes(transfer),
    )


if __name__ == "__main__":
    exits(main)()
