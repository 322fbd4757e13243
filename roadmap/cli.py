"""`roadmap run|sweep|cost|bench|replay|dashboard|report|serve`: the console command, for `python -m roadmap.run` and so on."""

from __future__ import annotations

import importlib
import sys

from roadmap.base.console import exits
from roadmap.base.errors import Refused, nearest

COMMANDS = {
    "run": ("roadmap.run.__main__", "one run: roadmap run +step=inverted_bottleneck"),
    "sweep": ("roadmap.sweep.__main__", "a study: roadmap sweep study=digits"),
    "cost": ("roadmap.cost", "what every step costs; nothing is trained"),
    "bench": ("roadmap.bench.__main__", "how fast every step is, beside timm's own loop"),
    "replay": ("roadmap.replay", "runs to W&B, from their own records: roadmap replay experiments/digits"),
    "dashboard": ("roadmap.dashboard", "a study's W&B view and report: roadmap dashboard experiments/digits"),
    "report": ("roadmap.report.__main__", "table, figure and page of a study, from its records"),
    "serve": ("roadmap.serve", "a study's page in the browser, which follows its runs"),
}


def main() -> int:
    """Hand the rest of the command line to the command that is named first."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("\n".join(["usage: roadmap COMMAND ...", *(f"  {name:8}{what}" for name, (_, what) in COMMANDS.items())]))
        return 0
    name = sys.argv.pop(1)
    if name not in COMMANDS:
        raise Refused(f"there is no command {name!r}; {nearest(name, COMMANDS)}")
    sys.argv[0] = f"roadmap {name}"
    return int(importlib.import_module(COMMANDS[name][0]).main())


entry = exits(main)
