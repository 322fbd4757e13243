"""Versions of the record's two forms, `result.json` and `study.json`: which are read here, and how an older one is.

Format 1 (until November 2026) knew classification only: its scores stood beside everything else, and nothing named the metric.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.base.version import __version__

FORMAT = 2

_METRIC = {"key": "top1", "label": "top-1", "unit": "%", "higher_is_better": True}
_SCORES = ("top1", "top5", "top1_without_ema", "val_loss")
_RUN = {"study": "", "step": {}, "scale": "", "seed": 0}  # what the oldest records may lack
Content = dict[str, Any]


def current(content: Any, file: Path, upgraded: Callable[[Content], Content]) -> Content:
    """What a file holds, in the format of today.

    Raises:
        Refused: for a file of another format, or of another program.

    """
    if not isinstance(content, dict):
        raise Refused(f"{file}: not a record of roadmap's: it holds no JSON object")
    version = content.get("format", 1)
    if version not in (1, FORMAT):
        raise Refused(f"{file}: of format {version}; roadmap {__version__} reads formats 1 and {FORMAT}")
    rest = {key: value for key, value in content.items() if key != "format"}
    return upgraded(rest) if version == 1 else rest


def upgraded_result(content: Content) -> Content:
    """A result of format 1 in today's form; what it says of a sibling (a difference to its parent) is left out."""
    beside = {key: value for key, value in content.items() if key not in (*_SCORES, "delta_top1")}
    scores = {key: content[key] for key in _SCORES if key in content} if content.get("status") == "done" else {}
    return {**_RUN, **beside, "metric": _METRIC, "scores": scores}


def upgraded_plan(content: Content) -> Content:
    """A plan of format 1 in today's form."""
    return {**content, "metric": _METRIC}
