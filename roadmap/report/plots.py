"""A study's other pictures: accuracy against cost and speed, learning curves with bands, effects, interactions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from roadmap.base.tables import cost_unit
from roadmap.report.figure import GREY, LAST, MOST_BARS, ONE, REFERENCE, STYLE, caption, files, plain
from roadmap.report.lettering import SIZE, broken, width
from roadmap.report.places import Box, free_place
from roadmap.report.records import Study
from roadmap.report.report import Report
from roadmap.report.sides import is_gain, recipes_of, sides
from roadmap.report.statistics import Analysis, Estimate, Row

Array = np.ndarray[Any, Any]

SMALL = 9.0  # points: size of the letters in lists and panels
NAMES = 200.0  # points: the most that a name takes beside a picture
PANEL, GAP, ACROSS = (1.95, 1.05), 0.2, 4  # of the learning curves: inches of a panel and to the next; panels beside each other
REACH = (8, 15, 24, 35)  # points: how far from its point a number may stand, the nearest first


def plots(report: Report) -> dict[str, bytes]:
    """Every picture that this study's records allow, by file name; the same bytes from the same records."""
    study, analysis = report.study, report.analysis
    with matplotlib.rc_context(STYLE):
        drawn = {
            "cost": against(study, analysis.rows, "gmacs", "multiply-adds of one image"),
            "throughput": against(study, analysis.rows, "images_per_second", "training, images per second", compare=False),
            "curves": curves(study, analysis.rows, 2, study.plan.metric.heading),
            "losses": curves(study, analysis.rows, 1, "validation loss"),
            "effects": effects(study, analysis.estimates),
            "interactions": interactions(study, analysis),
            "steps_x_recipes": steps_x_recipes(study, analysis),
        }
        return files(drawn)


# --- accuracy against cost -------------------------------------------------------------------------------------------


def against(study: Study, rows: Sequence[Row], key: str, label_of_cost: str, compare: bool = True) -> Figure | None:
    """Mean score with its deviation over a cost of the row; points are numbered, a line joins what is compared."""
    known = [(row, getattr(row, key), row.mean) for row in rows if row.mean is not None and getattr(row, key) is not None]
    if not 2 <= len(known) <= MOST_BARS:
        return None
    times, unit = cost_unit(cost for _, cost, _ in known) if key == "gmacs" else (1.0, "")
    known = [(row, times * cost, mean) for row, cost, mean in known]
    places = {row.variant.name: (cost, mean) for row, cost, mean in known}
    names = listed([row.variant.label for row, _, _ in known])
    inches = 7.4 + width(names, SMALL) / 72
    figure = Figure(figsize=(inches, max(6.0, 0.9 + 1.45 * SMALL / 72 * (names.count("\n") + 1))), layout="constrained")
    axes = figure.add_subplot()
    for row, cost, mean in known:
        before = places.get(row.variant.parent or "")
        if compare and before is not None:
            axes.plot([before[0], cost], [before[1], mean], color="#bbbbbb", linewidth=1, zorder=1)
        marker = "s" if row.variant.reference else "D" if row.variant.side_branch else "o"
        filled = REFERENCE if row.variant.reference else "white" if row.variant.side_branch else LAST
        axes.errorbar(cost, mean, yerr=row.std, fmt="none", ecolor="#c3bdd8", capsize=2, zorder=2)
        edge = LAST if row.variant.side_branch else "white"
        axes.plot(cost, mean, marker, color=filled, markersize=7, markeredgecolor=edge, zorder=3)
    axes.text(1.03, 1.0, names, transform=axes.transAxes, va="top", fontsize=SMALL, linespacing=1.35, parse_math=False)
    axes.set_xlabel(f"{label_of_cost}{', ' * bool(unit)}{unit}")
    axes.set_ylabel(study.plan.metric.heading, parse_math=False)
    axes.margins(x=0.08, y=0.08)
    plain(axes)
    said = ["line: ± one standard deviation over seeds" if any(row.std is not None for row, _, _ in known) else ONE]
    said += ["hollow: tried, not adopted"] if any(row.variant.side_branch for row, _, _ in known) else []
    said += ["square: reference"] if any(row.variant.reference for row, _, _ in known) else []
    caption(figure, f"{study.plan.measured_on}; {'; '.join(said)}")
    figure.draw_without_rendering()  # now the axes have their place
    numbered(figure, axes, list(places.values()))
    return figure


def listed(labels: Sequence[str]) -> str:
    """Numbered names in lines; a digit is as wide as two spaces."""
    digits = len(str(len(labels)))
    lines = []
    for number, label in enumerate(labels, 1):
        first, *rest = broken(label, NAMES, SMALL).split("\n")
        lines += [f"{'  ' * (digits - len(str(number)))}{number}  {first}", *(f"{'  ' * digits}  {line}" for line in rest)]
    return "\n".join(lines)


def numbered(figure: Figure, axes: Axes, places: Sequence[tuple[float, float]], numbers: Sequence[int] = ()) -> None:
    """Each point's number beside it, where it covers no other; a thin line leads to one that stands further off."""
    pixels = figure.dpi / 72  # in a point
    points = axes.transData.transform(places) / pixels
    left, bottom, right, top = (float(end) / pixels for end in axes.get_window_extent().extents)
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for number, place, (x, y) in zip(numbers or range(1, len(points) + 1), places, points, strict=True):
        half, turns = width(str(number), SMALL) / 2 + 1, np.arange(8) * math.pi / 4
        middles = [(x + (reach + half - 4) * math.cos(turn), y + reach * math.sin(turn)) for reach in REACH for turn in turns]
        spots = [(a - half, b - 5.5, a + half, b + 5.5) for a, b in middles]
        found, _ = free_place(spots, taken, (left, bottom, right, top))
        taken.append(spots[found])
        lead = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3} if found >= 8 else None
        offset = (middles[found][0] - x, middles[found][1] - y)
        axes.annotate(
            str(number), place, offset, textcoords="offset points", ha="center", va="center", fontsize=SMALL,
            arrowprops=lead, zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )  # fmt: skip


# --- learning curves -------------------------------------------------------------------------------------------------


def curves(study: Study, rows: Sequence[Row], column: int, heading: str) -> Figure | None:
    """A panel a row: mean over seeds of each epoch with a band of one standard deviation; in grey the row it is compared with."""
    histories = {row.variant.name: history for row in rows if (history := _history(study, row)) is not None}
    shown = [row for row in rows if row.variant.name in histories]
    if not 1 <= len(shown) <= MOST_BARS:
        return None
    names = [broken(row.variant.label, 72 * PANEL[0], SMALL) for row in shown]
    band = "line and band: mean ± one standard deviation over seeds" if any(row.std is not None for row in shown) else ONE
    figure, grid = _panels(names, f"{study.plan.measured_on}; across: epochs; {band}; dashed: the row compared with")
    for axes, row in zip(grid, shown, strict=True):
        before = histories.get(row.variant.parent or "")
        if before is not None:
            epochs, values = _drawn(before[:, :, column])
            axes.plot(epochs, values.mean(0), "--", color="#888888", linewidth=1.2)
        _curve(axes, histories[row.variant.name][:, :, column])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supylabel(heading, x=0.06 / figure.get_figwidth(), ha="left", fontsize=SIZE, parse_math=False)
    return figure


def _panels(titles: Sequence[str], below: str) -> tuple[Figure, list[Axes]]:
    """A panel for each title, all with the same axes, and a text below; placed in inches: to lay out many takes seconds."""
    across = min(ACROSS, len(titles))
    down, inches = math.ceil(len(titles) / across), 0.9 + (PANEL[0] + GAP) * across
    said = broken(below, 72 * inches - 24)
    head, foot = 0.1 + 0.16 * (1 + max(title.count("\n") for title in titles)), 0.5 + 0.2 * (1 + said.count("\n"))
    high = foot + (PANEL[1] + head) * down
    figure = Figure(figsize=(inches, high))
    spaces = {"wspace": GAP / PANEL[0], "hspace": head / PANEL[1]}
    places = {"left": 0.75 / inches, "right": 1 - (GAP + 0.15) / inches, "bottom": foot / high, "top": 1 - head / high}
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False, gridspec_kw={**spaces, **places})
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, loc="left", fontsize=SMALL, pad=3, parse_math=False)
        plain(axes)
    for spare in range(len(titles), down * across):
        grid.flat[spare].set_visible(False)
        grid.flat[spare - across].tick_params(labelbottom=True)
    figure.text(12 / 72 / inches, 0.1 / high, said, va="bottom", fontsize=SIZE, parse_math=False)
    return figure, list(grid.flat[: len(titles)])


def _history(study: Study, row: Row) -> Array | None:
    """(seeds, epochs, 3) of the runs that have every epoch."""
    histories = [history for run in study.of(row.variant.name) if run.done and (history := study.histories[run.run])]
    length = max(map(len, histories), default=0)
    whole = [history for history in histories if len(history) == length]
    return np.array(whole, dtype=float) if whole else None


def _drawn(values: Array) -> tuple[Array, Array]:
    """The epochs (n,) that have been evaluated, and their values (seeds, n) of all (seeds, epochs)."""
    there = ~np.isnan(values).any(0)
    return np.flatnonzero(there) + 1, values[:, there]


def _curve(axes: Axes, values: Array) -> None:
    epochs, values = _drawn(values)
    mean = values.mean(0)
    axes.plot(epochs, mean, color=LAST, linewidth=1.5, marker="o" if len(epochs) == 1 else None)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - spread, mean + spread, color=LAST, alpha=0.2, linewidth=0)


# --- effects ---------------------------------------------------------------------------------------------------------


def effects(study: Study, estimates: Sequence[Estimate]) -> Figure | None:
    """Each effect with its interval; filled marks are resolved."""
    if not 1 <= len(estimates) <= MOST_BARS:
        return None
    names = [broken(estimate.effect.label, NAMES) for estimate in estimates]
    lines = max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(8, 1.5 + max(0.36, 0.17 * lines + 0.08) * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=1)
    for y, estimate in enumerate(estimates):
        filled = LAST if estimate.resolved else "white"
        axes.errorbar(
            estimate.value, y, xerr=estimate.half_width, fmt="o", color=LAST, markerfacecolor=filled, capsize=3, markersize=7
        )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(f"points of {study.plan.metric.label}", parse_math=False)
    plain(axes)
    known = {estimate.half_width is not None for estimate in estimates}
    said = "line: 95 % interval; filled: resolved by Holm's procedure" if True in known else f"{ONE}, so no intervals"
    said += "; no line: of a row with one run" * (len(known) > 1)
    caption(figure, f"{study.plan.measured_on}; {said}")
    return figure


def interactions(study: Study, analysis: Analysis) -> Figure | None:
    """What two changes do together beyond what each does alone, as a matrix; the diagonal is each alone."""
    if study.plan.kind != "interactions":
        return None
    words = [broken(label, 130) for label, _ in analysis.pairs]
    figure = Figure(figsize=(2.5 + 0.8 * len(words), 2.6 + 0.6 * len(words)), layout="constrained")
    axes = figure.add_subplot()
    matrix(axes, [cells for _, cells in analysis.pairs])
    axes.set_xticks(range(len(words)), words, rotation=90, fontsize=SMALL, parse_math=False)
    axes.set_yticks(range(len(words)), words, fontsize=SMALL, parse_math=False)
    said = f"points of {study.plan.metric.label}, {study.plan.measured_on}; on the diagonal: each change alone; below it: what "
    caption(figure, f"{said}two do beyond the sum of both; bold and framed: resolved by Holm's procedure")
    return figure


def steps_x_recipes(study: Study, analysis: Analysis) -> Figure | None:
    """Each step's gain under both recipes, and beside it their difference; filled differences are resolved."""
    both = sides(study.plan, analysis)
    known = [e for e in analysis.estimates if e.effect.name in both and is_gain(both[e.effect.name][0])]
    if not known:
        return None
    first, *others = recipes_of(study.plan)
    recipes = (first, others[0] if len(others) == 1 else "the other recipe")
    names = [broken(estimate.effect.label, 120) for estimate in known]
    figure = Figure(figsize=(11, 2.2 + 0.42 * len(known)), layout="constrained")
    gains, differences = figure.subplots(1, 2, sharey=True)
    _limit(gains, [side for estimate in known for side in both[estimate.effect.name]])
    _limit(differences, known)
    for y, estimate in enumerate(known):
        for i, side in enumerate(both[estimate.effect.name]):
            said = "" if y else broken(f"under {recipes[i]}", NAMES)
            _mark(gains, side, y + 0.28 * i - 0.14, "os"[i], (LAST, GREY)[i], (LAST, "white")[i], said)
        _mark(differences, estimate, y, "D", LAST, LAST if estimate.resolved else "white")
    gains.set_yticks(range(len(known)), names, parse_math=False)
    gains.set_ylim(len(known) - 0.4, -0.6)
    figure.legend(*gains.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=SMALL, frameon=False)
    for axes, said in ((gains, "gain"), (differences, "their difference")):
        axes.axvline(0, color=GREY, linewidth=1, zorder=0)
        axes.set_xlabel(f"{said}, points of {study.plan.metric.label}", parse_math=False)
        plain(axes)
    caption(figure, f"{study.plan.measured_on}; line: 95 % interval; filled difference: resolved by Holm's procedure")
    return figure


def _limit(axes: Axes, estimates: Sequence[Estimate]) -> None:
    """Show every interval; a value that has none (of one run) would otherwise take the scale from the rest."""
    ends = [end for e in estimates if e.half_width is not None for end in (e.value - e.half_width, e.value + e.half_width)]
    if ends:
        low, high = min(0.0, *ends), max(0.0, *ends)
        axes.set_xlim(low - 0.12 * (high - low), high + 0.12 * (high - low))


def at_edge(axes: Axes, y: float, value: float, said: str, colour: str, size: float) -> None:
    """Write at the edge of the axis what is said of a value that lies beyond it."""
    low, high = axes.get_xlim()
    edge, arrow, side, inward = (low, "\u2190 {}", "left", 4) if value < low else (high, "{} \u2192", "right", -4)
    axes.annotate(
        arrow.format(said), (edge, y), (inward, 0), textcoords="offset points", va="center", ha=side, fontsize=size,
        color=colour, zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
    )  # fmt: skip


def _mark(axes: Axes, estimate: Estimate, y: float, marker: str, colour: str, filled: str, label: str = "") -> None:
    low, high = axes.get_xlim()
    if not low <= estimate.value <= high:
        at_edge(axes, y, estimate.value, f"{estimate.value:+.1f}", colour, SMALL)
        return
    style: Any = {"color": colour, "markerfacecolor": filled, "capsize": 3, "markersize": 6}
    axes.errorbar(estimate.value, y, xerr=estimate.half_width, fmt=marker, label=label.replace("$", r"\$") or None, **style)


def matrix(axes: Axes, rows: Sequence[Sequence[Estimate | None]]) -> None:
    """The values of changes and of pairs of changes, as far as they are known."""
    values = np.full((len(rows), len(rows)), np.nan)
    for i, cells in enumerate(rows):
        for j, estimate in enumerate(cells):
            if estimate is not None:
                values[i, j] = estimate.value
                _cell(axes, j, i, estimate)
    most = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    axes.imshow(values, cmap="PuOr", vmin=-2 * most, vmax=2 * most, aspect="auto")  # half of the colours: words stay readable


def _cell(axes: Axes, x: int, y: int, estimate: Estimate) -> None:
    weight = "bold" if estimate.resolved else "normal"
    axes.text(x, y, f"{estimate.value:+.1f}", ha="center", va="center", fontsize=SMALL, fontweight=weight)
    if estimate.resolved:
        axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, linewidth=1.4))
