"""The published numbers that stand beside a study's: the table that it names, else the paper's. No torch here."""

from __future__ import annotations

from roadmap.paper.published import PublishedRow
from roadmap.paper.rows import HEADING, METRIC, PaperRow, paper_row, paper_scale
from roadmap.record.study import StudyPlan, Variant

PAPER_EPOCHS = 300


def beside(plan: StudyPlan) -> bool:
    """Whether published numbers are of what the study scores: of a table that it names, or the paper's, which are top-1.

    Of box AP and mIoU the paper printed the ends alone, with weights from ImageNet.
    """
    return plan.published is not None or plan.metric.key == METRIC


def published_row(plan: StudyPlan, row: str) -> PaperRow | PublishedRow | None:
    """What was published of a row, where it is of the study's metric."""
    if not beside(plan):
        return None
    return plan.published.row(row) if plan.published else paper_row(paper_scale(plan.scale.name), row)


def published_difference(plan: StudyPlan, variant: Variant) -> float | None:
    """The published score of a row less that of its parent."""
    row, parent = variant.name, variant.parent or ""
    if plan.published:
        return plan.published.difference(row, parent) if parent else None
    scale = paper_scale(plan.scale.name)
    one, other = paper_row(scale, row), paper_row(scale, parent)
    return one.score - other.score if one and other and not one.beyond else None


def published_heading(plan: StudyPlan) -> str:
    """Over the column: what its numbers were measured on."""
    if plan.published:
        return f"published, {plan.published.source}: {plan.metric.heading}"
    ends = {"tiny": "ResNet-50 to ConvNeXt-T", "base": "ResNet-200 to ConvNeXt-B"}[paper_scale(plan.scale.name)]
    return f"paper, {ends}, ImageNet-1K, {PAPER_EPOCHS} epochs: {HEADING}"


def not_comparable(plan: StudyPlan) -> str:
    """What a reader must know of the column."""
    if plan.published:
        return f"The published numbers ({plan.published.source}) are not comparable with ours on other data."
    return "The paper's numbers are ImageNet-1K's and not comparable with ours." if beside(plan) else ""


def aside(plan: StudyPlan) -> tuple[str, str]:
    """Whose numbers they are, and in few words that they are not comparable."""
    if plan.published:
        return "published", f"{plan.published.source}: not comparable"
    return "paper", f"ImageNet-1K, {PAPER_EPOCHS} epochs: not comparable"
