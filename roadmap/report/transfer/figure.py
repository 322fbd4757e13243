"""A step's worth in one task over that in another, with the intervals of both; points are numbered."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from roadmap.report.figure import GREY, LAST, STYLE, caption, files, plain
from roadmap.report.lettering import broken, width
from roadmap.report.plots import SMALL, listed, numbered
from roadmap.report.statistics import Estimate
from roadmap.report.transfer import Side, Transfer, tau_words

PANEL, ACROSS = 4.2, 3  # inches of a side; panels beside each other
LINES = "#c3bdd8"  # of intervals


def pictures(transfer: Transfer) -> dict[str, bytes]:
    """The figure in every kind of file."""
    with matplotlib.rc_context(STYLE):
        return files({"transfer": drawn(transfer)})


def drawn(transfer: Transfer) -> Figure:
    """A panel for each score of the other studies, with the differences that its study asks for; their names beside all."""
    across = min(ACROSS, len(transfer.sides))
    down = -(-len(transfer.sides) // across)
    names = listed([effect.label for effect in transfer.asked])
    beside, high = width(names, SMALL) / 72 + 0.4, 1.45 * SMALL / 72 * (names.count("\n") + 1)
    inches = PANEL * across + beside
    figure = Figure(figsize=(inches, max(0.6 + PANEL * down, 1.0 + high)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, side, found in zip(grid.flat, transfer.sides, transfer.agreements, strict=False):
        _panel(axes, transfer.first, side)
        axes.set_title(broken(tau_words(found), 72 * PANEL - 70, SMALL), loc="left", fontsize=SMALL, parse_math=False)
    for spare in grid.flat[len(transfer.sides) :]:
        spare.set_visible(False)
    last = grid[0, -1]
    last.text(1.05, 1.0, names, transform=last.transAxes, va="top", fontsize=SMALL, linespacing=1.35, parse_math=False)
    caption(figure, "lines: 95 % intervals; filled: the difference on the upright axis is resolved by Holm's procedure")
    figure.draw_without_rendering()  # now the axes have their place
    for axes, side in zip(grid.flat, transfer.sides, strict=False):
        known = _known(transfer.first, side)
        numbered(figure, axes, [(x.value, y.value) for _, x, y in known], [i + 1 for i, _, _ in known])
    return figure


def _known(first: Side, side: Side) -> list[tuple[int, Estimate, Estimate]]:
    """The place of each difference that the side's study asks for and both have, and both estimates."""
    pairs = [(i, first.estimates[i], side.estimates[i]) for i in sorted(side.own)]
    return [(i, x, y) for i, x, y in pairs if x is not None and y is not None]


def _panel(axes: Axes, first: Side, side: Side) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    for _, x, y in _known(first, side):
        axes.errorbar(x.value, y.value, y.half_width, x.half_width, fmt="none", ecolor=LINES, elinewidth=1, zorder=1)
        filled = LAST if y.resolved else "white"
        axes.plot(x.value, y.value, "o", color=filled, markeredgecolor=LAST, markersize=6, zorder=3)
    axes.set_xlabel(broken(f"points of {first.heading}", 72 * PANEL - 70), parse_math=False)
    axes.set_ylabel(broken(f"points of {side.heading}", 72 * PANEL - 70), parse_math=False)
    plain(axes)
