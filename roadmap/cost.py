"""The roadmap's costs: `python -m roadmap.cost [--task mask_rcnn] [--scale tiny] [--format table|csv|json|md|latex]`.

Nothing is trained. With a task, the steps are backbones of its head.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from roadmap.base.console import Parser, check_limits, exits, names
from roadmap.base.errors import Refused, nearest
from roadmap.base.tables import FORMATS, Table
from roadmap.config.compose import compose
from roadmap.config.overrides import config_folders
from roadmap.config.schema import Head
from roadmap.config.steps import check_whole, networks
from roadmap.model.names import check_name

HEADS = tuple(head.value for head in Head if head != Head.none)


def main() -> int:
    """Print the cost table that the command line asks for."""
    parser = Parser(prog="python -m roadmap.cost", description="The roadmap's costs, nothing trained.")
    parser.add_argument("--scale", default="tiny", help="end points: tiny (default), base, small, ...")
    parser.add_argument("--format", default="table", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--task", default="none", help=f"a head on the steps: {', '.join(HEADS)}; none: classification")
    parser.add_argument("--reference", action="append", default=[], help="a timm model beside the steps, with --task")
    parser.add_argument("--image-size", type=int, help="pixels, with a task of the shorter side; as published by default")
    parser.add_argument("--steps", type=names, default=["all"], help="all (default: the roadmap's), or names joined by commas")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a toggle for every step: model.width=96")
    parser.add_folders("steps and parts")
    arguments = parser.parse_args()
    check_limits(arguments, image_size=(32, 4096))
    folders = config_folders(arguments.config_dir)
    for word in arguments.set:
        if not word.startswith("model."):
            raise Refused(f"--set {word}: must be a toggle, model.NAME=VALUE")
    own = (*([f"parts=[{','.join(arguments.parts)}]"] if arguments.parts else []), *arguments.set)
    compose([f"scale={arguments.scale}", "+step=resnet", *own], folders)
    for given, known in ((arguments.format, FORMATS), (arguments.task, (*HEADS, "none"))):
        if given not in known:
            raise Refused(f"there is no {'format' if known is FORMATS else 'task'} {given!r}; {nearest(given, known)}")
    if arguments.reference and arguments.task == "none":
        raise Refused("--reference: with --task alone; classification's references are costed by a study's --dry-run")
    for reference in arguments.reference:
        check_name(reference)
    sys.stdout.write(FORMATS[arguments.format](*_table(arguments, _steps(arguments.steps, folders), folders, own)))
    return 0


def _table(asked: Namespace, steps: list[str], folders: tuple[Path, ...], own: tuple[str, ...]) -> Table:
    """Rows, columns and title."""
    if asked.task == "none":
        from roadmap.model.cost_table import COLUMNS, cost_rows  # torch

        size = asked.image_size or 224
        title = f"scale {asked.scale}, {size} px, 1000 classes; multiply-adds of one image"
        return cost_rows(asked.scale, size, folders, steps, own), COLUMNS, title
    from roadmap.tasks import cost_table  # torchvision's detectors, whose import takes a second

    return cost_table.table(Head[asked.task], asked.scale, asked.image_size, steps, asked.reference, folders, own)


def _steps(asked: list[str], folders: tuple[Path, ...]) -> list[str]:
    """What is asked for, in the roadmap's order."""
    check_whole(asked, folders)
    known = networks(*folders)
    for name in asked:
        if name != "all" and name not in known:
            raise Refused(f"--steps: there is no network {name!r}; {nearest(name, ['all', *known])}")
    return [name for name, step in known.items() if name in asked or ("all" in asked and step.on_roadmap)]


if __name__ == "__main__":
    exits(main)()
