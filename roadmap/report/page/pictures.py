"""What the runs of two rows found: sheets of pictures that lie in their folders, inside the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from roadmap.record.folder import PICTURES
from roadmap.report.records import Study

KINDS = {"worst": "the worst", "best": "the best"}
MOST_BYTES = 1_000_000  # of a sheet


class Sheet(NamedTuple):
    """One picture of the page."""

    caption: str
    source: str  # a data: address


def sheets(study: Study, rows: Sequence[int]) -> list[Sheet]:
    """The worst and the best pictures of the first run of these rows that is done and has any."""
    return [sheet for row in rows for sheet in _of_row(study, row)]


def _of_row(study: Study, row: int) -> Iterator[Sheet]:
    variant = study.plan.rows[row].variant
    for result in study.of(variant.name):
        files = {kind: study.folder / "runs" / result.run / PICTURES / f"{kind}.jpg" for kind in KINDS}
        there = {kind: file for kind, file in files.items() if file.is_file() and file.stat().st_size <= MOST_BYTES}
        if result.done and there:
            for kind, file in there.items():
                content = base64.b64encode(file.read_bytes()).decode()
                yield Sheet(f"{variant.label}, seed {result.seed}: {KINDS[kind]}", f"data:image/jpeg;base64,{content}")
            return
