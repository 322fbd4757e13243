"""A page of several studies: a strip for each effect by each of several views, with what a reader must know below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roadmap.report.page import document
from roadmap.report.page.axis import axis
from roadmap.report.statistics import Estimate

Strip = tuple[str, int, Estimate | None]  # what it shows, the number of its colour, and the effect; None: it was not measured


def strips(title: str, steps: Sequence[tuple[str, Sequence[Strip]]], **content: Any) -> str:
    """The page, with the strips of each step after its label, all on one axis."""
    known = [found for _, lines in steps for _, _, found in lines if found is not None]
    scale = axis([0.0, *(end for found in known for end in found.interval or (found.value,))], least=-float("inf"))
    return document("views.html.j2", title, {}, None, steps=steps, scale=scale, **content)
