"""A data set of images in a few large files: `python -m roadmap.pack data=folder data.path=photos --output packed [--side 256]`.

Without `--side` every picture stays as it is, and a run on the pack is the same run as on the folder. With it, larger
pictures are made smaller and written as JPEG: another data set, that decodes in a fraction of the time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from roadmap.base.console import Parser, check_limits, exits
from roadmap.base.errors import Refused
from roadmap.base.files import check_writable
from roadmap.base.processes import check_alone
from roadmap.config.compose import compose
from roadmap.config.effects import said_twice
from roadmap.data.images.packing import Form, pack_images


def main() -> int:
    """Pack what the command line names; the same command goes on after an interruption."""
    parser = Parser(prog="python -m roadmap.pack", description=__doc__)
    parser.add_argument("overrides", nargs="+", help="data=NAME data.path=FOLDER, as for a run")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder, afterwards data.path of runs")
    parser.add_argument("--side", type=int, help="pixels of the shorter side that larger pictures are made to, e.g. 256")
    parser.add_argument("--quality", type=int, help="of the JPEGs, with --side (90)")
    parser.add_argument("--shard", type=int, default=4096, help="pictures in one file")
    arguments = parser.parse_intermixed_args()
    check_alone("roadmap.pack")
    check_limits(arguments, side=(32, 4096), quality=(1, 100), shard=(1, 1_000_000))
    for override in arguments.overrides:
        if override.split("=")[0] not in ("data", "data.path", "data.accept", "data.download"):
            raise Refused(f"{override}: only data=NAME, data.path, data.accept and data.download are for packing")
    for warning in said_twice(arguments.overrides):
        print(f"roadmap: warning: {warning}", file=sys.stderr)
    if arguments.quality and not arguments.side:
        raise Refused(f"--quality {arguments.quality}: with --side alone; without it every picture stays as it is")
    check_writable(arguments.output.absolute(), f"--output {arguments.output}")
    form = Form(arguments.side, arguments.quality or 90, arguments.shard)
    for done, shards in pack_images(compose(["+step=resnet", *arguments.overrides]).data, arguments.output, form):
        print(f"{done} of {shards} shards", flush=True)
    print(f"data.path={arguments.output} takes the place of the folder")
    return 0


if __name__ == "__main__":
    exits(main)()
