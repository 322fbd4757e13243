"""What each step is worth by each view, as one picture; a view has a colour and a form of mark, which survives in grey."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from roadmap.report.figure import GREY, STYLE, every_kind, plain
from roadmap.report.lettering import SIZE, broken, width
from roadmap.report.plots import NAMES, SMALL, interactions
from roadmap.report.statistics import written_interval
from roadmap.report.views import VIEWS, Views, Worth

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
        figures = {"views": drawn(views), "pairs": pairs}
        every = {name: every_kind(figure) for name, figure in figures.items() if figure is not None}
    return {f"{name}.{kind}": content for name, kinds in every.items() for kind, content in kinds.items()}


def drawn(views: Views) -> Figure:
    """A band for each step, in it a line for each view."""
    plan, kinds = views.first.study.plan, views.kinds
    names = [broken(label, NAMES) for label in views.steps.values()]
    band = max(LINE * (len(kinds) + 1), *(0.17 * (name.count("\n") + 1) + 0.08 for name in names))
    figure = Figure(figsize=(INCHES, 2.4 + band * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    for y, step in enumerate(views.steps):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f0f0ee", linewidth=0, zorder=0)
        for place, kind in enumerate(kinds):
            _mark(axes, y + (place - (len(kinds) - 1) / 2) * LINE / band, kind, views.worths.get((step, kind)))
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    far = _limit(axes, views, LINE / band)
    axes.set_xlabel(f"points of {plan.metric.label}", parse_math=False)
    plain(axes)
    handles = [Line2D([], [], color=MARKS[kind][0], marker=MARKS[kind][1], label=VIEWS[kind]) for kind in kinds]
    columns = 3 if max(width(VIEWS[kind], SMALL) for kind in kinds) < 220 else 2
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=SMALL, frameon=False)
    caption = f"{plan.measured_on}; line: 95 % interval; filled: resolved by Holm's procedure among those of its view"
    caption += "; arrows: beyond the axis" * far
    figure.supxlabel(broken(caption, 72 * INCHES - 24), x=0.02, ha="left", fontsize=SIZE, parse_math=False)
    return figure


def _limit(axes: Axes, views: Views, line: float) -> bool:
    """Cut the axis where a few worths lie far beyond all others, and write those at its edge; returns whether there are any.

    `line` is how far the views of a step are apart.
    """
    worths = {key: worth.estimate for key, worth in views.worths.items()}
    reach = sorted(abs(found.value) + (found.half_width or 0.0) for found in worths.values())
    most = FAR * reach[int(0.8 * (len(reach) - 1))]
    if reach[-1] <= most:
        return False
    axes.set_xlim(-most, most)
    for (step, kind), found in worths.items():
        if abs(found.value) > most:
            y = list(views.steps).index(step) + (views.kinds.index(kind) - (len(views.kinds) - 1) / 2) * line
            side = 1 if found.value > 0 else -1
            said = written_interval(found.value, *(found.interval or (None, None))) + ", resolved" * bool(found.resolved)
            axes.annotate(
                f"{said} →" if side > 0 else f"← {said}", (side * most, y), (-4 * side, 0), textcoords="offset points",
                va="center", ha="right" if side > 0 else "left", fontsize=7, color=MARKS[kind][0], zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
            )  # fmt: skip
    return True


def _mark(axes: Axes, y: float, kind: str, worth: Worth | None) -> None:
    colour, form = MARKS[kind]
    if worth is None:
        axes.text(0, y, " missing", va="center", fontsize=7, color=colour, style="italic")
        return
    found = worth.estimate
    filled = colour if found.resolved else "white"
    axes.errorbar(
        found.value, y, xerr=found.half_width, fmt=form, color=colour, markerfacecolor=filled, capsize=2, markersize=5.5,
        linewidth=1.3, zorder=3,
    )  # fmt: skip
