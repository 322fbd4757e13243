"""The paper's own numbers: Tables 10 and 11 of arXiv 2201.03545 (ImageNet-1K, 300 epochs), row by row.

The row beyond them, `grn`, is from Table 14 of ConvNeXt V2 (arXiv 2301.00808).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("convnext_roadmap.csv")

METRIC, HEADING = "top1", "top-1, %"  # what the paper compares its networks by: the key in our tables, and in words

OTHER_NAMES = {  # ours or timm's, and the table's
    "original_recipe": "resnet_original_recipe",
    "stochastic_depth": "resnet",  # where the roadmap `training` ends
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_base_patch4_window7_224": "swin_b",
}


@dataclass(frozen=True)
class PaperRow:
    """One printed row."""

    scale: str
    step: str
    score: float  # top-1 in percent
    score_std: float | None  # over three seeds; one seed at scale base
    gflops_printed: float
    misprint: bool  # the printed multiply-adds are not those of the model
    gmacs: float  # computed from the model where it is one of the roadmap's; Figure 2 agrees with it in every row
    params: int | None
    beyond: bool  # of another paper: its score stands beside ours, and its difference to this paper's rows says nothing


@lru_cache
def paper_rows() -> dict[tuple[str, str], PaperRow]:
    """Every printed row by (scale, step), reference rows included."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [_row(line) for line in csv.DictReader(file)]
    return {(row.scale, row.step): row for row in rows}


def paper_row(scale: str, step: str) -> PaperRow | None:
    """The paper's row of a step, or of a reference by timm's name, if it trained one."""
    return paper_rows().get((scale, paper_name(step)))


def paper_name(step: str) -> str:
    """What the table calls a step, or a reference by timm's name."""
    return OTHER_NAMES.get(step, step)


def paper_scale(scale: str) -> str:
    """The paper trained two scales; every other one of ours stands beside its first."""
    return "base" if scale == "base" else "tiny"


def _row(line: dict[str, str]) -> PaperRow:
    return PaperRow(
        scale=line["scale"],
        step=line["step"],
        score=float(line["top1_mean"]),
        score_std=float(line["top1_std"]) if line["top1_std"] else None,
        gflops_printed=float(line["gflops_printed"]),
        misprint="misprint" in line["note"],
        gmacs=float(line["gmacs_conv_linear"] or line["gflops_printed"]),
        params=int(line["params"]) if line["params"] else None,
        beyond=line["adopted"] == "beyond",
    )
