"""The roadmap's costs: `python -m roadmap.cost [--scale tiny] [--format table|csv|json|md|latex]`; nothing is trained."""

from __future__ import annotations

import sys
from pathlib import Path

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused, nearest
from roadmap.base.tables import FORMATS
from roadmap.config.compose import compose
from roadmap.config.overrides import config_folders
from roadmap.config.steps import check_whole, networks
from roadmap.model.cost_table import COLUMNS, cost_rows


def main() -> int:
    """Print the cost table that the command line asks for."""
    parser = Parser(prog="python -m roadmap.cost", description="The roadmap's costs, nothing trained.")
    parser.add_argument("--scale", default="tiny", help="end points: tiny (default), base, small, ...")
    parser.add_argument("--format", default="table", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; the paper's costs are at 224")
    parser.add_argument("--steps", default="all", help="all (default: the roadmap's), or a comma-separated list: all,grn")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a toggle for every step: model.width=96")
    parser.add_argument("--parts", default="", help="folders of --config-dir whose parts.py is run, comma-separated")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help="a folder with steps of your own")
    arguments = parser.parse_args()
    if not 32 <= arguments.image_size <= 4096:
        raise Refused(f"--image-size {arguments.image_size}: must be at least 32 and at most 4096")
    folders = config_folders(arguments.config_dir)
    for word in arguments.set:
        if not word.startswith("model."):
            raise Refused(f"--set {word}: must be a toggle, model.NAME=VALUE")
    own = (*([f"parts=[{arguments.parts}]"] if arguments.parts else []), *arguments.set)
    compose([f"scale={arguments.scale}", "+step=resnet", *own], folders)
    if arguments.format not in FORMATS:
        raise Refused(f"there is no format {arguments.format!r}; {nearest(arguments.format, FORMATS)}")
    names = _steps(arguments.steps.split(","), folders)
    rows = cost_rows(arguments.scale, arguments.image_size, folders, names, own)
    title = f"scale {arguments.scale}, {arguments.image_size} px, 1000 classes; multiply-adds of one image"
    sys.stdout.write(FORMATS[arguments.format](rows, COLUMNS, title))
    return 0


def _steps(names: list[str], folders: tuple[Path, ...]) -> list[str]:
    """What is asked for, in the roadmap's order."""
    check_whole(names, folders)
    known = networks(*folders)
    for name in names:
        if name != "all" and name not in known:
            raise Refused(f"--steps: there is no network {name!r}; {nearest(name, ['all', *known])}")
    return [name for name, step in known.items() if name in names or ("all" in names and step.on_roadmap)]


if __name__ == "__main__":
    exits(main)()
