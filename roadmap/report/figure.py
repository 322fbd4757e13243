"""The roadmap as a picture, in the manner of the paper's Figure 2, with the deviation over seeds drawn on every bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Row

FIRST, LAST = "#93a5cf", "#46327e"  # of a bar: from the roadmap's start to its end
STAR = "#d08a1e"
GREY = "#555555"
STYLE: Any = {
    "svg.hashsalt": "roadmap",
    "svg.fonttype": "none",
    "font.size": 10,
    "hatch.linewidth": 1.2,
    "font.family": "DejaVu Sans",
}


def draw(study: Study, analysis: Analysis) -> dict[str, bytes]:
    """The figure as `figure.svg`, `figure.png` and `figure.pdf`: the same bytes from the same records."""
    rows = analysis.rows
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.6 + 0.42 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        low, high = _limits(rows)
        _bars(axes, rows, low, high)
        _stars(axes, rows)
        _names(axes, rows)
        _groups(axes, rows)
        axes.set_xlim(low, high)
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= min(high - 0.3 * (high - low), 100)])
        hatched = "" if all(row.variant.adopted for row in rows) else "; hatched: tried, not adopted"
        axes.set_xlabel(f"top-1, % ({study.label})\nline: ± one standard deviation over seeds{hatched}", loc="left")
        scale = study.about["scale"]
        figure.suptitle(f"{scale['start']} to {scale['end']}, step by step", x=0.02, ha="left", fontweight="bold")
        return {f"figure.{kind}": _saved(figure, kind) for kind in ("svg", "png", "pdf")}


def _saved(figure: Figure, kind: str) -> bytes:
    out = BytesIO()
    timeless = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
    figure.savefig(out, format=kind, dpi=150, metadata=timeless[kind])
    return out.getvalue()


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The axis starts a little below the least value, as the paper's does at 78, and leaves room for the stars."""
    ends = [mean + sign * (row.std or 0.0) for row in rows if (mean := row.mean) is not None for sign in (-1, 1)]
    least, most = (min(ends), max(ends)) if ends else (0.0, 100.0)
    span = max(most - least, 1.0)
    low = max(0.0, math.floor(least - 0.3 * span))
    return low, low + (most - low) * 1.45


def _bars(axes: Axes, rows: Sequence[Row], low: float, high: float) -> None:
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("roadmap", [FIRST, LAST])
    for y, row in enumerate(rows):
        if row.mean is None:
            axes.text(
                low + 0.01 * (high - low), y, "diverged" if row.diverged else "missing", va="center", color=GREY, style="italic"
            )
            continue
        colour = colours(y / max(len(rows) - 1, 1))
        hatch = None if row.variant.adopted else "//"
        axes.barh(y, row.mean - low, left=low, height=0.74, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        label = f"{row.mean:.1f}" + (f" ({row.diverged} diverged)" if row.diverged else "")
        start = low + 0.012 * (high - low)
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5} if hatch else None
        axes.text(start, y, label, va="center", ha="left", color="white", fontweight="bold", bbox=box)
        if row.std is not None:
            outline = [Stroke(linewidth=3.2, foreground="white"), Normal()]  # visible on the bar and beside it
            lines = axes.errorbar(row.mean, y, xerr=row.std, color="black", capsize=3, linewidth=1.2).lines
            for artist in (*lines[1], *lines[2]):
                artist.set_path_effects(outline)


def _stars(axes: Axes, rows: Sequence[Row]) -> None:
    """Multiply-adds on a scale of their own, at the right: stars joined by a dashed line."""
    points = [(row.gmacs, y, row.variant.adopted) for y, row in enumerate(rows) if row.gmacs is not None]
    if not points:
        return
    costs = [cost for cost, _, _ in points]
    unit, name = (1.0, "G") if max(costs) >= 1 else (1e3, "M")
    twin = axes.twiny()
    span = max(max(costs) - min(costs), 1e-9)
    twin.set_xlim(min(costs) - 3.4 * span, max(costs) + 0.55 * span)
    twin.plot([c for c, _, a in points if a], [y for _, y, a in points if a], "--", color=STAR, linewidth=1.4)
    twin.plot(costs, [y for _, y, _ in points], "*", color=STAR, markersize=12, markeredgecolor="white")
    for cost, y, _ in points:
        twin.annotate(
            f"{cost * unit:.1f}", (cost, y), xytext=(9, 0), textcoords="offset points", va="center", color="#8a5a10", fontsize=9
        )
    twin.set_xticks([])
    twin.set_xlabel(f"★ multiply-adds of one image, {name}", loc="right", color="#8a5a10")
    for side in ("top", "right", "left", "bottom"):
        twin.spines[side].set_visible(False)


def _names(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [row.variant.label for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _groups(axes: Axes, rows: Sequence[Row]) -> None:
    """Brackets on the left around the steps of one section of the paper."""
    start = 0
    for y in range(1, len(rows) + 1):
        if y < len(rows) and rows[y].variant.group == rows[start].variant.group:
            continue
        if rows[start].variant.group:
            _bracket(axes, rows[start].variant.group, start, y - 1)
        start = y


def _bracket(axes: Axes, name: str, first: int, last: int) -> None:
    across = axes.get_yaxis_transform()
    x, tip = -0.245, -0.23
    axes.plot(
        [tip, x, x, tip],
        [first - 0.2, first - 0.2, last + 0.2, last + 0.2],
        color="black",
        linewidth=1.1,
        transform=across,
        clip_on=False,
    )
    axes.text(x - 0.012, (first + last) / 2, name.replace(" ", "\n"), ha="right", va="center", transform=across)
