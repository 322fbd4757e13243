"""The pictures of a report: most of its time. They are drawn where the folder does not hold those of the same records yet."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from roadmap.base.files import write_atomic
from roadmap.report.records import Study
from roadmap.report.report import Report

DRAWN = ".drawn.json"  # in the study's folder: what the pictures there were drawn from, and the digest of each
PACKAGE = Path(__file__).parents[1]


def pictures(report: Report, behind: Report | None = None) -> dict[str, bytes]:
    """Every picture that this study's records allow, by file name; the same bytes from the same records.

    Args:
        report: of the study.
        behind: of the study that stands in grey behind the first in the figure.

    """
    folder = report.study.folder
    drawn_from = _digest(*(_content(of.study) for of in (report, behind) if of), *_drawn_by())
    there = _there(folder, drawn_from)
    if there is None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a letter that the font has not is a box
            there = _draw(report, behind)
        digests = {name: _digest(content) for name, content in there.items()}
        write_atomic(folder / DRAWN, json.dumps({"drawn_from": drawn_from, "pictures": digests}))
    return there


def _draw(report: Report, behind: Report | None) -> dict[str, bytes]:
    from roadmap.report.figure import MOST_BARS, draw, picture
    from roadmap.report.plots import plots

    few = len(report.analysis.rows) <= MOST_BARS  # of sampled orders: the effects alone
    figure = draw(picture(report, behind)) if few else {}
    return {**{f"figure.{kind}": content for kind, content in figure.items()}, **plots(report)}


def _there(folder: Path, drawn_from: str) -> dict[str, bytes] | None:
    """The pictures in the folder, where all of them are as they were drawn, and were drawn from the same."""
    try:
        known = json.loads((folder / DRAWN).read_text(encoding="utf-8"))
        there = {name: (folder / name).read_bytes() for name in known["pictures"]}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None  # none yet, or no file of ours
    digests = {name: _digest(content) for name, content in there.items()}
    return there if known == {"drawn_from": drawn_from, "pictures": digests} else None


def _content(study: Study) -> bytes:
    return repr(replace(study, folder=Path())).encode()


def _drawn_by() -> list[bytes]:
    """What decides how it is drawn: this code and the libraries that draw."""
    return [
        *(f"{name} {version(name)}".encode() for name in ("matplotlib", "numpy", "pillow")),
        *(file.read_bytes() for file in sorted(PACKAGE.rglob("*.py"))),
    ]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
