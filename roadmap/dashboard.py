"""A study on W&B: `python -m roadmap.dashboard FOLDER [--json [FILE]] [--offline]`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import yaml

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused, writing
from roadmap.base.files import check_file, regular, write_atomic
from roadmap.base.redaction import redact_text
from roadmap.config.checks import check_wandb_name
from roadmap.report.report import Report
from roadmap.tracking.wandb.dashboard import Dashboard, packages, save, specify
from roadmap.tracking.wandb.summary_run import summarise, summary_id, write_offline

TERMINAL = Path("-")


def main() -> int:
    """Write or save what was asked for; 1 when the server took only a part."""
    arguments = _arguments()
    if arguments.json not in (None, TERMINAL):
        check_file(arguments.json, f"--json {arguments.json}")
    for name in ("entity", "project"):
        check_wandb_name(f"--{name}", getattr(arguments, name))
    report = Report.read(arguments.folder)
    theirs = _project(report.study.folder)
    entity, project = arguments.entity or theirs.get("entity"), arguments.project or theirs.get("project") or "roadmap"
    if arguments.json is not None:
        specification = specify(Dashboard(report, entity or "", project, summary_id(report.study.plan)))
        return _write_json(specification, arguments.json)
    if not arguments.offline:
        packages()
    if importlib.util.find_spec("wandb") is None:
        raise Refused("wandb is not installed (pip install wandb)")
    logging.getLogger("roadmap").addHandler(logging.NullHandler())  # faults are told below
    if arguments.offline:
        return write_offline(summarise(report, entity, project))
    return save(report, entity, project)


def _project(folder: Path) -> dict[str, Any]:
    """Entity and project as the first run's configuration has them."""
    for file in sorted((folder / "runs").glob("*/config.yaml"))[:1]:
        try:
            return dict(yaml.safe_load(regular(file).read_text(encoding="utf-8"))["wandb"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise Refused(f"{file}: not a run's configuration ({error})") from error
    return {}


def _write_json(specification: dict[str, Any], file: Path) -> int:
    text = redact_text(json.dumps(specification, indent=2, sort_keys=True, ensure_ascii=False)) + "\n"
    if file == TERMINAL:
        print(text, end="")
        return 0
    with writing(f"{file}:"):
        write_atomic(file, text)
    return 0


def _arguments() -> argparse.Namespace:
    parser = Parser(prog="python -m roadmap.dashboard", description="A study's view, report and table on W&B.")
    parser.add_argument("folder", type=Path, help="the folder of a study, e.g. experiments/digits")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--json", type=Path, metavar="FILE", nargs="?", const=TERMINAL, help="write view and report as JSON; ask nobody"
    )
    only.add_argument("--offline", action="store_true", help="write the summarising run as a W&B offline run")
    parser.add_argument("--entity", help="the user or team on W&B; without: the runs' own, or that of the login")
    parser.add_argument("--project", help="the project on W&B; without: the runs' own")
    return parser.parse_args()


if __name__ == "__main__":
    exits(main)()
