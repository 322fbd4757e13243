"""What a trained network says of pictures: `python -m roadmap.predict RUN IMAGE...`, or `timm:NAME` in place of RUN."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.base.console import Parser, check_limits, exits
from roadmap.base.errors import Refused, nearest, writing
from roadmap.base.files import check_writable, write_atomic
from roadmap.base.processes import check_alone
from roadmap.base.tables import FORMATS, Column
from roadmap.config.schema import Device, RuntimeConfig, TaskConfig, TaskName
from roadmap.use.named import check_named, read_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

FORMS = dict.fromkeys(("probability", "score", "share"), "{:.4f}") | dict.fromkeys(("left", "top", "right", "bottom"), "{:.1f}")


def main() -> int:
    """Print a table of answers, a few rows for each picture."""
    parser = Parser(prog="python -m roadmap.predict", description=__doc__)
    parser.add_argument("network", metavar="RUN", help="a finished run's folder, or timm:NAME")
    parser.add_argument("pictures", metavar="IMAGE", nargs="+", type=Path, help="files of pictures")
    parser.add_argument("--top", type=int, default=5, help="answers for each picture (default 5)")
    parser.add_argument("--format", default="table", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--output", type=Path, help="folder for the pictures with objects or maps drawn on them")
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(Device)}")
    parser.add_folders("parts")
    arguments = parser.parse_intermixed_args()
    check_alone("roadmap.predict")
    check_limits(arguments, top=(1,))
    for name, allowed in (("format", list(FORMATS)), ("device", list(map(str, Device)))):
        if getattr(arguments, name) not in allowed:
            raise Refused(f"--{name} {getattr(arguments, name)}: {nearest(getattr(arguments, name), allowed)}")
    known = check_named(arguments.network, arguments.config_dir, arguments.parts)
    pictures = read_pictures(arguments.pictures)
    if arguments.output:
        _check_drawn(arguments.output, known.settings.task)
    from roadmap.use.predict import predict  # torch
    from roadmap.use.trained import find_trained

    trained = find_trained(arguments.network, arguments.config_dir, arguments.parts)
    files = _drawings(arguments.output, arguments.pictures)
    rows = []
    answers = predict(trained, pictures, arguments.top, RuntimeConfig(device=Device(arguments.device)))
    for number, answer in enumerate(answers):
        rows += [{"image": str(arguments.pictures[number]), **row} for row in answer.rows]
        if files and (drawn := answer.draw()):
            _save(drawn, files[number])
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [Column(key, key, FORMS.get(key, "{}")) for key in keys]
    sys.stdout.write(FORMATS[arguments.format](rows, columns, ""))
    return 0


def _save(drawn: Image, file: Path) -> None:
    """Write a picture whole, or not at all."""
    content = BytesIO()
    drawn.save(content, "png")
    with writing(f"{file}:"):
        write_atomic(file, content.getvalue())


def _check_drawn(folder: Path, task: TaskConfig) -> None:
    """Refuse to draw what is not drawn, or where nothing can be written."""
    if task.name == TaskName.classification:
        raise Refused(f"--output {folder}: this network names classes, and has nothing to draw")
    check_writable(folder.absolute(), f"--output {folder}")


def _drawings(folder: Path | None, pictures: list[Path]) -> list[Path]:
    """Where each picture is drawn, by its name in a folder that is made; those of equal names get a number."""
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    stems = [file.stem for file in pictures]
    return [folder / f"{stem}{f'-{number}' * (stems.count(stem) > 1)}.png" for number, stem in enumerate(stems)]


if __name__ == "__main__":
    exits(main)()
