"""`python -m roadmap.report FOLDER`: table and figure of a study, from its records; with `--html` its page too."""

from __future__ import annotations

import argparse
from pathlib import Path

from roadmap.base.console import Parser, exits, names
from roadmap.base.errors import Refused
from roadmap.base.files import check_file, write_atomic
from roadmap.report.against import compare
from roadmap.report.records import plan_in
from roadmap.report.replication import write_comparison
from roadmap.report.report import Report
from roadmap.report.statistics import seeds_needed
from roadmap.report.write import write_report


def main() -> int:
    """Write the report and print the table."""
    arguments = _arguments()
    folder, keys = arguments.folder, arguments.columns
    page = folder / "page.html" if arguments.html == Path() else arguments.html
    if page:
        from roadmap.report.page import write_page

        check_file(page, f"--html {page}")
    if arguments.behind:
        _check_behind(folder, arguments.behind)
    comparison = compare(Report.read(folder), Report.read(arguments.against)) if arguments.against else None
    report, text = write_report(folder, keys, arguments.behind)
    print(text)
    if comparison:
        print(f"\n{write_comparison(comparison)}")
    if arguments.power is not None:
        print(_power(report, arguments.power))
    if arguments.paper:
        from roadmap.report.figure import draw, paper_picture

        write_atomic(arguments.paper, draw(paper_picture())[arguments.paper.suffix[1:]])
        print(f"{arguments.paper}: the paper's numbers")
    if page:
        print(f"{write_page(report, page)}: the page")
    return 0


def _arguments() -> argparse.Namespace:
    parser = Parser(prog="python -m roadmap.report", description="Table, figure and page of a study, from its records.")
    parser.add_argument("folder", type=Path, help="the study's folder, e.g. experiments/digits")
    parser.add_argument(
        "--html", type=Path, nargs="?", const=Path(), metavar="FILE", help="write the page too: one file (FOLDER/page.html)"
    )
    parser.add_argument(
        "--columns",
        type=names,
        default=[],
        metavar="KEY,...",
        help="columns of the table, table.md and table.tex, e.g. label,delta,verdict",
    )
    parser.add_argument(
        "--behind", type=Path, metavar="FOLDER", help="a study of a larger scale, in grey behind the first in the figure"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="compare with a study of the same rows: other seeds, machine, recipe or data",
    )
    parser.add_argument("--power", type=float, metavar="POINTS", help="say how many seeds an effect of so many points needs")
    parser.add_argument("--paper", type=Path, metavar="FILE", help="draw the paper's own numbers the same way: svg, png or pdf")
    arguments = parser.parse_args()
    if arguments.power is not None and not 0 < arguments.power <= 100:
        raise Refused(f"--power {arguments.power}: must be above 0 and at most 100 points")
    if arguments.paper:
        if arguments.paper.suffix not in (".svg", ".png", ".pdf"):
            raise Refused(f"--paper {arguments.paper}: must be a file in a folder that is there, of type .svg, .png or .pdf")
        check_file(arguments.paper, f"--paper {arguments.paper}")
    return arguments


def _check_behind(folder: Path, behind: Path) -> None:
    """Refuse a study that has no bars to stand behind those of the other."""
    if behind.absolute() == folder.absolute():
        raise Refused(f"--behind {behind}: the study itself; must be another, of a larger scale")
    ours, theirs = plan_in(folder), plan_in(behind)
    if ours.metric != theirs.metric:
        raise Refused(f"--behind {behind}: scored by {theirs.metric.label}, {folder} by {ours.metric.label}; must be the same")
    if not {row.variant.name for row in ours.rows} & {row.variant.name for row in theirs.rows}:
        raise Refused(f"--behind {behind}: has no row of {folder}; must have the same rows")


def _power(report: Report, points: float) -> str:
    """How many seeds a row an effect of this size needs, with the noise of this study."""
    if report.analysis.measured is None:
        return f"--power {points}: this study's noise between seeds is not known: it needs two seeds a row"
    if any(effect.parts for effect in report.analysis.asked):
        return f"--power {points}: not known for sampled orders, where more orders help as well as more seeds"
    seeds = seeds_needed(points, report.analysis)
    count = "more than a thousand" if seeds is None else seeds
    return f"An effect of {points} points is resolved in four of five studies like this one with {count} seeds a row."


if __name__ == "__main__":
    exits(main)()
