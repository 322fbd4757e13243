"""Runs to W&B, from their own records: `python -m roadmap.replay FOLDER [--dry-run] [--offline]`."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused
from roadmap.tracking.wandb.upload import read_records, replay, replay_offline


def main() -> int:
    """Upload what is not there yet; 1 when the server took only a part."""
    parser = Parser(prog="python -m roadmap.replay", description="Bring runs to W&B, from their own records.")
    parser.add_argument("folder", type=Path, help="the folder of a study or of one run, e.g. experiments/digits")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded; ask nobody")
    parser.add_argument("--offline", action="store_true", help="write W&B's offline runs instead of uploading")
    arguments = parser.parse_args()
    records = read_records(arguments.folder)
    if arguments.dry_run:
        print("\n".join(f"{record.name}: {'to write' if arguments.offline else record.state}" for record in records))
        return 0
    if importlib.util.find_spec("wandb") is None:
        raise Refused("wandb is not installed (pip install wandb)")
    logging.getLogger("roadmap").addHandler(logging.NullHandler())  # faults are told below
    if arguments.offline:
        return replay_offline(records)
    return replay(records)


if __name__ == "__main__":
    exits(main)()
