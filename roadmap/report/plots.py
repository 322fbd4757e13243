"""A study's other pictures: accuracy against cost and speed, learning curves with bands, effects, interactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from roadmap.base.tables import cost_unit
from roadmap.report.figure import GREY, LAST, REFERENCE, STYLE, saved
from roadmap.report.records import Study
from roadmap.report.report import Report
from roadmap.report.statistics import Analysis, Estimate, Row

# Okabe and Ito's colours, which colour-blind readers tell apart; with the line styles 24 curves differ in grey too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000")
DASHES = ("-", "--", ":")
MOST_ROWS = 24  # whose names or curves can be told apart


def plots(report: Report) -> dict[str, bytes]:
    """Every picture that this study's records allow, by file name; the same bytes from the same records."""
    study, analysis = report.study, report.analysis
    drawn = {
        "cost": _against(study, analysis.rows, "gmacs", "multiply-adds of one image"),
        "throughput": _against(study, analysis.rows, "images_per_second", "training, images per second", compare=False),
        "curves": _curves(study, analysis.rows),
        "effects": _effects(study, analysis.estimates),
        "interactions": _interactions(study, analysis),
    }
    return {f"{name}.svg": content for name, content in drawn.items() if content is not None}


def _against(study: Study, rows: Sequence[Row], key: str, label_of_cost: str, compare: bool = True) -> bytes | None:
    """Mean score with its deviation over a cost of the row; points are numbered, a line joins what is compared."""
    known = [(row, getattr(row, key), row.mean) for row in rows if row.mean is not None and getattr(row, key) is not None]
    if key == "gmacs":
        times, unit = cost_unit(cost for _, cost, _ in known)
        known = [(row, times * cost, mean) for row, cost, mean in known]
        label_of_cost = f"{label_of_cost}, {unit}"
    places = {row.variant.name: (cost, mean) for row, cost, mean in known}
    if not 2 <= len(known) <= MOST_ROWS:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.add_subplot()
        for number, (row, cost, mean) in enumerate(known, 1):
            before = places.get(row.variant.parent or "")
            if compare and before is not None:
                axes.plot([before[0], cost], [before[1], mean], color="#bbbbbb", linewidth=1, zorder=1)
            marker = "s" if row.variant.reference else "D" if row.variant.side_branch else "o"
            colour = REFERENCE if row.variant.reference else LAST
            axes.errorbar(cost, mean, yerr=row.std, fmt="none", ecolor="#c3bdd8", capsize=2, zorder=2)
            axes.plot(cost, mean, marker, color=colour, markersize=13, markeredgecolor="white", zorder=3 + number)
            axes.text(cost, mean, str(number), color="white", fontsize=7.5, ha="center", va="center", zorder=3 + number)
        names = "\n".join(f"{number}  {row.variant.label}" for number, (row, _, _) in enumerate(known, 1))
        axes.text(1.03, 1.0, names, transform=axes.transAxes, va="top", fontsize=9, linespacing=1.6, parse_math=False)
        axes.set_xlabel(label_of_cost)
        axes.set_ylabel(f"{study.plan.metric.heading} ({study.plan.measured_on}), ± one standard deviation", parse_math=False)
        axes.margins(x=0.08)
        return saved(_plain(figure, axes), "svg")


def _curves(study: Study, rows: Sequence[Row]) -> bytes | None:
    """Mean over seeds of each epoch, with a band of one standard deviation: score, and loss on val or in training."""
    found = [(row, _history(study, row)) for row in rows]
    curves = [(row, history) for row, history in found if history is not None]
    if not 1 <= len(curves) <= MOST_ROWS:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        validated = any(np.isfinite(history[:, :, 1]).any() for _, history in curves)
        for axes, column in zip(figure.subplots(1, 2), (2, 1 if validated else 0), strict=True):
            for number, (row, history) in enumerate(curves):
                _curve(axes, history[:, :, column], row.variant.label, number)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylabel(("training loss", "validation loss", study.plan.metric.heading)[column])
            _plain(figure, axes)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
        figure.suptitle(
            f"{study.plan.measured_on}: mean over seeds, band of ± one standard deviation", x=0.02, ha="left", parse_math=False
        )
        return saved(figure, "svg")


def _history(study: Study, row: Row) -> np.ndarray[Any, Any] | None:
    """(seeds, epochs, 3) of the runs that have every epoch."""
    histories = [history for run in study.of(row.variant.name) if run.done and (history := study.histories[run.run])]
    length = max(map(len, histories), default=0)
    whole = [history for history in histories if len(history) == length]
    return np.array(whole, dtype=float) if whole else None


def _curve(axes: Axes, values: np.ndarray[Any, Any], label: str, number: int) -> None:
    epochs = np.arange(1, values.shape[1] + 1)
    mean = values.mean(0)
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    axes.plot(epochs, mean, dash, color=colour, linewidth=1.4, label=label.replace("$", r"\$"))
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)


def _effects(study: Study, estimates: Sequence[Estimate]) -> bytes | None:
    """Each effect with its interval; filled marks are resolved."""
    if not estimates or len(estimates) > 40:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.4 + 0.36 * len(estimates)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, linewidth=1)
        for y, estimate in enumerate(estimates):
            filled = LAST if estimate.resolved else "white"
            axes.errorbar(
                estimate.value, y, xerr=estimate.half_width, fmt="o", color=LAST, markerfacecolor=filled, capsize=3, markersize=7
            )
        axes.set_yticks(range(len(estimates)), [estimate.effect.label for estimate in estimates], parse_math=False)
        axes.set_ylim(len(estimates) - 0.4, -0.6)
        axes.set_xlabel(
            f"points of {study.plan.metric.label} ({study.plan.measured_on}), 95 % interval; "
            "filled: resolved by Holm's procedure",
            parse_math=False,
        )
        return saved(_plain(figure, axes), "svg")


def _interactions(study: Study, analysis: Analysis) -> bytes | None:
    """What two changes do together beyond what each does alone, as a matrix; the diagonal is each alone."""
    if study.plan.kind != "interactions":
        return None
    names = [effect.name for effect in study.plan.effects if "*" not in effect.name]
    labels = {effect.name: effect.label for effect in study.plan.effects}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.5 + 0.8 * len(names), 1.8 + 0.7 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        values = np.full((len(names), len(names)), np.nan)
        for i, first in enumerate(names):
            for j, second in enumerate(names[: i + 1]):
                estimate = analysis.estimate(first if i == j else f"{second}*{first}")
                if estimate is not None:
                    values[i, j] = estimate.value
                    axes.text(
                        j, i, f"{estimate.value:+.1f}" + "*" * bool(estimate.resolved), ha="center", va="center", fontsize=9
                    )
        most = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
        axes.imshow(values, cmap="PuOr", vmin=-2 * most, vmax=2 * most)  # half of the colours: words stay readable on them
        axes.set_xticks(range(len(names)), [labels[name] for name in names], rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), [labels[name] for name in names], parse_math=False)
        axes.set_title(
            f"points of {study.plan.metric.label}: alone (diagonal), and beyond the sum of both; * resolved",
            fontsize=10,
            loc="left",
        )
        return saved(figure, "svg")


def _plain(figure: Figure, axes: Axes) -> Figure:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
