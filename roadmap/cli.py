"""`roadmap run|sweep|report|...`: one command for `python -m roadmap.run` and the rest, each in `COMMANDS`."""

from __future__ import annotations

import importlib
import sys

from roadmap.base.console import exits
from roadmap.base.errors import Refused, nearest
from roadmap.base.version import __version__

COMMANDS = {
    "run": ("roadmap.run.__main__", "train one step: roadmap run +step=inverted_bottleneck"),
    "sweep": ("roadmap.sweep.__main__", "train a study: roadmap sweep study=digits"),
    "report": ("roadmap.report.__main__", "tables, figures and page of a study: roadmap report experiments/digits"),
    "serve": ("roadmap.serve", "show a study in the browser while it runs: roadmap serve experiments/digits"),
    "cost": ("roadmap.cost", "parameters and multiply-adds of every step; nothing is trained"),
    "bench": ("roadmap.bench.__main__", "speed and memory of every step, beside timm's own loop"),
    "score": ("roadmap.score", "a trained network's scores: roadmap score RUN data=folder data.path=photos"),
    "predict": ("roadmap.predict", "what a trained network says of pictures: roadmap predict RUN IMAGE..."),
    "export": ("roadmap.export", "a trained network as timm keeps one, or as ONNX: roadmap export RUN --onnx"),
    "pack": ("roadmap.pack", "store a data set of images as a few large files, smaller pictures on request"),
    "replay": ("roadmap.replay", "upload finished runs to W&B: roadmap replay experiments/digits"),
    "dashboard": ("roadmap.dashboard", "build a study's W&B view and report: roadmap dashboard experiments/digits"),
}

USAGE = "\n".join(
    [
        "usage: roadmap COMMAND ...    (roadmap COMMAND --help: its options; roadmap --version)",
        "       source <(roadmap --completion)    in bash: the tab key completes commands, settings and their values",
        *(f"  {name:11} {what}" for name, (_, what) in COMMANDS.items()),
    ]
)


def main() -> int:
    """Hand the rest of the command line to the command that is named first."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        return 0
    if sys.argv[1] == "--version":
        print(f"roadmap {__version__}")
        return 0
    if sys.argv[1] in ("--completion", "--complete"):
        return _complete(sys.argv[1:])
    name = sys.argv.pop(1)
    if name not in COMMANDS:
        raise Refused(f"there is no command {name!r}; {nearest(name, COMMANDS)}")
    sys.argv[0] = f"roadmap {name}"
    return int(importlib.import_module(COMMANDS[name][0]).main())


def _complete(arguments: list[str]) -> int:
    """`--completion`: the lines for ~/.bashrc; `--complete LINE`: what they ask."""
    from roadmap.config.completion import BASH, complete

    print("\n".join(complete(arguments[1], list(COMMANDS))) if len(arguments) > 1 else BASH)
    return 0


entry = exits(main)

if __name__ == "__main__":
    entry()
