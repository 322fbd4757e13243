"""The paper's own numbers: Tables 10 and 11 of arXiv 2201.03545 (ImageNet-1K, 300 epochs), row by row."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("convnext_roadmap.csv")

REFERENCES = {"swin_tiny_patch4_window7_224": "swin_t", "swin_base_patch4_window7_224": "swin_b"}  # timm's names, the table's


@dataclass(frozen=True)
class PaperRow:
    """One printed row."""

    scale: str
    step: str
    top1: float
    top1_std: float | None  # over three seeds; one seed at scale base
    gflops_printed: float
    misprint: bool  # the printed multiply-adds are not those of the model
    gmacs: float  # computed from the model where it is one of the roadmap's; Figure 2 agrees with it in every row
    params: int | None


@lru_cache
def paper_rows() -> dict[tuple[str, str], PaperRow]:
    """Every printed row by (scale, step), reference rows included."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [_row(line) for line in csv.DictReader(file)]
    return {(row.scale, row.step): row for row in rows}


def paper_row(scale: str, step: str) -> PaperRow | None:
    """The paper's row of a step, or of a reference by timm's name, if it trained one."""
    return paper_rows().get((scale, REFERENCES.get(step, step)))


def _row(line: dict[str, str]) -> PaperRow:
    return PaperRow(
        scale=line["scale"],
        step=line["step"],
        top1=float(line["top1_mean"]),
        top1_std=float(line["top1_std"]) if line["top1_std"] else None,
        gflops_printed=float(line["gflops_printed"]),
        misprint="misprint" in line["note"],
        gmacs=float(line["gmacs_conv_linear"] or line["gflops_printed"]),
        params=int(line["params"]) if line["params"] else None,
    )
