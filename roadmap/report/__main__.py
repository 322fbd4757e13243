"""`python -m roadmap.report FOLDER`: table and figure of a study, from its records."""

from __future__ import annotations

from pathlib import Path

from roadmap.errors import Parser, exits
from roadmap.report.write import write_report


def main() -> int:
    """Write the report and print the table."""
    parser = Parser(prog="python -m roadmap.report", description="Table and figure of a study, from its records.")
    parser.add_argument("folder", type=Path, help="the study's folder, e.g. experiments/digits")
    print(write_report(parser.parse_args().folder))
    return 0


if __name__ == "__main__":
    exits(main)()
