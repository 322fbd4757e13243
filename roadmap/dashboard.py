"""A study on W&B: `python -m roadmap.dashboard FOLDER [--json [FILE]] [--offline]`."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused
from roadmap.report.records import load
from roadmap.report.statistics import analyse
from roadmap.tracking.wandb.dashboard import (
    Dashboard,
    _place,
    _save,
    _write_json,
    _write_offline,
    packages,
    specify,
    summarise,
    summary_id,
)


def main() -> int:
    """Write or save what was asked for; 1 when the server took only a part."""
    arguments = _arguments()
    study = load(arguments.folder)
    analysis = analyse(study)
    place = _place(study, arguments)
    if arguments.json is not None:
        specification = specify(Dashboard(study, analysis, place["entity"] or "", place["project"], summary_id(study)))
        return _write_json(specification, arguments.json)
    if not arguments.offline:
        packages()
    if importlib.util.find_spec("wandb") is None:
        raise Refused("wandb is not installed (pip install wandb)")
    logging.getLogger("roadmap").addHandler(logging.NullHandler())  # faults are told below
    if arguments.offline:
        return _write_offline(summarise(study, analysis, place))
    return _save(study, analysis, place)


def _arguments() -> argparse.Namespace:
    parser = Parser(prog="python -m roadmap.dashboard", description="A study's view, report and table on W&B.")
    parser.add_argument("folder", type=Path, help="the folder of a study, e.g. experiments/digits")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--json", metavar="FILE", nargs="?", const="-", help="write view and report as JSON; ask nobody")
    only.add_argument("--offline", action="store_true", help="write the summarising run as a W&B offline run")
    parser.add_argument("--entity", help="the user or team on W&B; without: the runs' own, or that of the login")
    parser.add_argument("--project", help="the project on W&B; without: the runs' own")
    return parser.parse_args()


if __name__ == "__main__":
    exits(main)()
