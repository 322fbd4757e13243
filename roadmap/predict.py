"""What a trained network says of pictures: `python -m roadmap.predict RUN IMAGE...`, or `timm:NAME` in place of RUN."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused, nearest
from roadmap.base.processes import check_alone
from roadmap.base.tables import FORMATS, Column
from roadmap.config.schema import Device, RuntimeConfig

if TYPE_CHECKING:
    from roadmap.use.predict import Answer

FORMS = {"probability": "{:.4f}"}


def main() -> int:
    """Print a table of answers, a few rows for each picture."""
    parser = Parser(prog="python -m roadmap.predict", description=__doc__)
    parser.add_argument("network", metavar="RUN", help="a finished run's folder, or timm:NAME")
    parser.add_argument("pictures", metavar="IMAGE", nargs="+", type=Path, help="files of pictures")
    parser.add_argument("--top", type=int, default=5, help="answers for each picture (default 5)")
    parser.add_argument("--format", default="table", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--output", type=Path, help="folder for the pictures with objects or maps drawn on them")
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(Device)}")
    arguments = parser.parse_intermixed_args()
    check_alone("roadmap.predict")
    if arguments.top < 1:
        raise Refused(f"--top {arguments.top}: must be at least 1")
    for name, allowed in (("format", list(FORMATS)), ("device", list(map(str, Device)))):
        if getattr(arguments, name) not in allowed:
            raise Refused(f"--{name} {getattr(arguments, name)}: {nearest(getattr(arguments, name), allowed)}")
    from roadmap.use.predict import predict, read_pictures  # torch
    from roadmap.use.trained import find_trained

    trained = find_trained(arguments.network)
    pictures = read_pictures(arguments.pictures)
    _make(arguments.output)
    answers = list(predict(trained, pictures, arguments.top, RuntimeConfig(device=Device(arguments.device))))
    rows = [{"image": str(file), **row} for file, own in zip(arguments.pictures, answers, strict=True) for row in own.rows]
    if arguments.output is not None:
        _write(arguments.output, arguments.pictures, answers)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [Column(key, key, FORMS.get(key, "{}")) for key in keys]
    sys.stdout.write(FORMATS[arguments.format](rows, columns, ""))
    return 0


def _make(folder: Path | None) -> None:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--output {folder}: cannot be made: {error}") from error


def _write(folder: Path, files: Sequence[Path], answers: Sequence[Answer]) -> None:
    """What was drawn, under the names of the pictures; those of equal names get a number."""
    for number, (file, answer) in enumerate(zip(files, answers, strict=True)):
        if answer.drawn is None:
            raise Refused(f"--output {folder}: this network names classes, and has nothing to draw")
        twice = [other.stem for other in files].count(file.stem) > 1
        answer.drawn.save(folder / f"{file.stem}{f'-{number}' if twice else ''}.png")


if __name__ == "__main__":
    exits(main)()
