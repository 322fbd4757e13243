"""A trained network's scores: `python -m roadmap.score RUN [data=NAME data.path=FOLDER]`, or `timm:NAME` in place of RUN.

Without `data=` a run is scored on its own evaluation images, as in training. Its classes must be those of the images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused, writing
from roadmap.base.files import check_writable, write_atomic
from roadmap.base.processes import check_alone
from roadmap.config.overrides import config_folders
from roadmap.use.named import asked, check_asked, check_named


def main() -> int:
    """Score the network that the command line names, and write what lies behind the score."""
    parser = Parser(prog="python -m roadmap.score", description=__doc__)
    parser.add_argument("network", metavar="RUN", help="a finished run's folder, or timm:NAME")
    parser.add_argument("overrides", nargs="*", help="data=NAME data.path=FOLDER, runtime.device=cpu")
    parser.add_argument("--output", type=Path, help="folder for score.json, tables and pictures (default: scores/<NETWORK>)")
    parser.add_argument("--multi-scale", action="store_true", help="a segmenter at six scales, mirrored too (the paper's)")
    parser.add_folders("data sets and parts")
    arguments = parser.parse_intermixed_args()
    check_alone("roadmap.score")
    folders = config_folders(arguments.config_dir)
    known = check_named(arguments.network, folders, arguments.parts)
    folder = arguments.output or Path("scores") / known.name
    if folder.absolute() == Path(arguments.network).expanduser().absolute():
        raise Refused(f"--output {folder}: the run's own folder; must be another, scores/{known.name} by default")
    check_writable(folder.absolute(), f"--output {folder}")
    for warning in check_asked(known, arguments.network, arguments.overrides, folders, arguments.multi_scale):
        print(f"roadmap: warning: {warning}", file=sys.stderr)
    from roadmap.use.score import score  # torch
    from roadmap.use.trained import find_trained

    trained = find_trained(arguments.network, folders, arguments.parts, fetch=False)
    use = asked(trained.settings, arguments.overrides, folders)
    scored = score(trained, use, arguments.multi_scale)
    about = {"network": trained.name, "data": use.data.source.value, "images": scored.images, "scores": scored.scores}
    about |= {"multi_scale": True} if arguments.multi_scale else {}
    with writing(f"{folder}:"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "score.json", json.dumps(about, indent=2) + "\n")
        files = scored.write(folder)
    final = scored.metric.text(scored.scores[scored.metric.key])
    print(f"{trained.name} on {use.data.source.value}, {scored.images} images: {final}")
    print("\n".join(f"  {key} {value:.4f}" for key, value in scored.scores.items()))
    if trained.result is not None and "data" not in {word.split("=")[0].split(".")[0] for word in arguments.overrides}:
        print(f"its record says {trained.result.final}")
    print("\n".join(str(file) for file in (folder / "score.json", *files)))
    return 0


if __name__ == "__main__":
    exits(main)()
