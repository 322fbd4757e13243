"""What each step is worth by each view, as one picture; a view has a colour and a form of mark, which survives in grey."""

from __future__ import annotations

import math

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from roadmap.report.figure import GREY, STYLE, caption, files, plain
from roadmap.report.lettering import broken, width
from roadmap.report.plots import NAMES, SMALL, at_edge, interactions
from roadmap.report.statistics import Estimate
from roadmap.report.views import VIEWS, Views

MARKS = {  # Okabe and Ito's colours, which colour-blind readers tell apart
    "roadmap": ("#0072B2", "o"),
    "leave_one_out": ("#D55E00", "s"),
    "add_one_in": ("#009E73", "^"),
    "orderings": ("#000000", "D"),
    "equal_flops": ("#AA4499", "v"),
}
LINE = 0.17  # inches between the views of a step
INCHES = 9.0
FAR = 2.0  # times what four of five worths reach: the most that is drawn


def pictures(views: Views) -> dict[str, bytes]:
    """The figure of all views, and that of the pairs where they were trained, in every kind of file."""
    with matplotlib.rc_context(STYLE):
        pairs = None if views.pairs is None else interactions(views.pairs.study, views.pairs.analysis)
        return files({"views": drawn(views), "pairs": pairs})


def drawn(views: Views) -> Figure:
    """A band for each step, in it a line for each view."""
    plan, kinds = views.first.study.plan, views.kinds
    names = [broken(label, NAMES) for label in views.steps.values()]
    band = max(LINE * (len(kinds) + 1), *(0.17 * (name.count("\n") + 1) + 0.08 for name in names))
    figure = Figure(figsize=(INCHES, 2.4 + band * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    most = _most(views)
    if most < math.inf:
        axes.set_xlim(-most, most)
    for y, step in enumerate(views.steps):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f0f0ee", linewidth=0, zorder=0)
        for place, kind in enumerate(kinds):
            _mark(axes, y + (place - (len(kinds) - 1) / 2) * LINE / band, kind, views.worths.get((step, kind)), most)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"points of {plan.metric.label}", parse_math=False)
    plain(axes)
    handles = [Line2D([], [], color=MARKS[kind][0], marker=MARKS[kind][1], label=VIEWS[kind]) for kind in kinds]
    columns = 3 if max(width(VIEWS[kind], SMALL) for kind in kinds) < 220 else 2
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=SMALL, frameon=False)
    said = f"{plan.measured_on}; line: 95 % interval; filled: resolved by Holm's procedure among those of its view"
    caption(figure, said + "; arrows: beyond the axis" * (most < math.inf))
    return figure


def _most(views: Views) -> float:
    """How far the axis reaches, in points: infinity where it need not be cut because a few worths lie far beyond all others."""
    reach = sorted(abs(worth.value) + (worth.half_width or 0.0) for worth in views.worths.values())
    most = FAR * reach[int(0.8 * (len(reach) - 1))]
    return most if reach[-1] > most else math.inf


def _mark(axes: Axes, y: float, kind: str, worth: Estimate | None, most: float) -> None:
    colour, form = MARKS[kind]
    if worth is None:
        axes.text(0, y, " missing", va="center", fontsize=7, color=colour, style="italic")
        return
    if abs(worth.value) > most:
        at_edge(axes, y, worth.value, worth.words, colour, 7)
        return
    filled = colour if worth.resolved else "white"
    axes.errorbar(
        worth.value, y, xerr=worth.half_width, fmt=form, color=colour, markerfacecolor=filled, capsize=2, markersize=5.5,
        linewidth=1.3, zorder=3,
    )  # fmt: skip
