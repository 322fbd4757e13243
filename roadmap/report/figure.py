"""The roadmap as a picture, in the manner of the paper's Figure 2, with the deviation over seeds drawn on every bar.

A second study (the larger scale) may stand behind the first in grey, and the paper's own numbers may be drawn the same
way. Every fact has two marks: colour and place, hatching or words, so that the picture survives in grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from roadmap.base.console import printable
from roadmap.base.tables import cost_unit
from roadmap.config.steps import known_steps
from roadmap.paper.rows import HEADING, PaperRow, paper_rows
from roadmap.report.lettering import FONT, SIZE, broken, width
from roadmap.report.report import Report
from roadmap.report.statistics import Row

FIRST, LAST = "#93a5cf", "#46327e"  # of a bar: from the roadmap's start to its end
DPI = 150
MOST_BARS = 40  # that still make a picture
BEHIND = "#d4d4d8"
REFERENCE = "#c4691c"
STAR = "#d08a1e"
STAR_TEXT = "#8a5a10"
GREY = "#555555"
ONE = "one run a row"  # where there is no deviation
STYLE: Any = {
    "svg.hashsalt": "roadmap",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.size": SIZE,
    "hatch.linewidth": 1.2,
    "font.family": FONT,
}
INCHES = 9.5  # of the picture's width
INSIDE = 72 * INCHES - 24  # points: what a line may take
NAMES, SECTIONS, COSTS = 165.0, (70.0, 100.0, 130.0), 120.0  # points: the most that a row's name, a section's, and the stars take
TIMELESS: dict[str, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Bar:
    """One row of the picture: its score, and its multiply-adds in G."""

    name: str
    label: str
    group: str = ""
    adopted: bool = True
    reference: bool = False  # no step: drawn beside the roadmap, never among its steps
    mean: float | None = None
    std: float | None = None
    gmacs: float | None = None
    absent: str = "missing"  # what is said where there is no mean
    aside: str = ""  # said beside the mean

    @property
    def hatched(self) -> bool:
        """Whether it was tried and not adopted."""
        return not (self.adopted or self.reference)


@dataclass(frozen=True)
class Picture:
    """What a figure shows."""

    title: str
    heading: str  # of the scores
    about: str  # what the numbers were measured on
    bars: tuple[Bar, ...]
    behind: tuple[Bar, ...] = ()  # of another scale, by the same names
    behind_about: str = ""


def picture(report: Report, behind: Report | None = None) -> Picture:
    """The picture of a study, with another one behind it."""
    plan = report.study.plan
    title = printable(f"{plan.ends}, step by step" if plan.kind == "roadmap" else plan.question)
    bars = tuple(map(_bar, report.analysis.rows))
    measured = plan.measured_on if any(bar.std is not None for bar in bars) else f"{plan.measured_on}; {ONE}"
    if behind is None:
        return Picture(title, plan.metric.heading, measured, bars)
    larger = behind.study.plan
    about = printable(f"{larger.ends}, {larger.measured_on}")
    return Picture(title, plan.metric.heading, measured, bars, tuple(map(_bar, behind.analysis.rows)), about)


def paper_picture() -> Picture:
    """The paper's own numbers, both scales: its Figure 2."""
    title, about = "The paper's roadmap: ResNet-50 to ConvNeXt-T", "ImageNet-1K, 300 epochs"
    return Picture(title, HEADING, about, _paper_bars("tiny"), _paper_bars("base"), "ResNet-200 to ConvNeXt-B")


def _bar(row: Row) -> Bar:
    variant = row.variant
    about = variant.name, variant.label, variant.group, not variant.side_branch, variant.reference
    absent, aside = ("diverged", f" ({row.diverged} diverged)") if row.diverged else ("missing", "")
    return Bar(*about, mean=row.mean, std=row.std, gmacs=row.gmacs, absent=absent, aside=aside)


def _paper_bars(scale: str) -> tuple[Bar, ...]:
    printed: dict[str, PaperRow] = {step: row for (of, step), row in paper_rows().items() if of == scale}
    steps = known_steps()
    bars = []
    for step in steps.values():
        if row := printed.get(step.name):
            about = step.name, step.label, step.group if step.parent in steps else "", step.adopted
            bars.append(Bar(*about, mean=row.score, std=row.score_std, gmacs=round(row.gmacs, 2)))
    swin = printed["swin_t" if scale == "tiny" else "swin_b"]
    return (*bars, Bar("swin", "Swin", reference=True, mean=swin.score, gmacs=round(swin.gmacs, 2)))


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(shown: Picture) -> dict[str, bytes]:
    """The picture as `svg`, `png` and `pdf`: the same bytes from the same numbers."""
    with matplotlib.rc_context(STYLE):
        return every_kind(drawn(shown))


def drawn(shown: Picture) -> Figure:
    """The picture: bars with their names and sections at the left, at the right the stars of the multiply-adds."""
    names = [_shown(bar) for bar in shown.bars]
    sections = _sections(shown.bars)
    used = max(map(width, names), default=0.0) + max((width(section) + 24 for section, _, _ in sections), default=0.0)
    across = INSIDE - used - COSTS - 20  # points, for the bars
    lines = max((name.count("\n") + 1 for name in names), default=1)
    title, said = broken(shown.title, INSIDE, 12, bold=True), broken(_caption(shown), INSIDE)
    text = 0.2 * (title.count("\n") + said.count("\n") + 2)
    figure = Figure(figsize=(INCHES, 1.0 + text + max(0.42, 0.17 * lines + 0.08) * len(shown.bars)), layout="constrained")
    axes, costs = figure.subplots(1, 2, sharey=True, width_ratios=(across, COSTS))
    low, high = _limits((*shown.bars, *shown.behind))
    room = (high - low) / across  # of a point
    _draw_behind(axes, shown, low)
    _draw_bars(axes, shown.bars, low, room)
    _stars(costs, shown.bars)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for name, first, last in sections:
        _bracket(figure, axes, name, first, last, max(map(width, names)))
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= min(high, 100)])
    axes.set_xlabel(shown.heading, loc="left", parse_math=False)
    plain(axes)
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    caption(figure, said)
    return figure


def files(figures: Mapping[str, Figure | None]) -> dict[str, bytes]:
    """Figures by name, those that there are, as files by name: each of every kind."""
    every = {name: every_kind(figure) for name, figure in figures.items() if figure is not None}
    return {f"{name}.{kind}": content for name, kinds in every.items() for kind, content in kinds.items()}


def every_kind(figure: Figure) -> dict[str, bytes]:
    """A figure as the bytes of each kind of file, without the time at which it was drawn."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # all have their place now, once for all kinds
    png = _fewer_colours(_saved(figure, "rgba"), figure)
    return {"svg": _saved(figure, "svg"), "png": png, "pdf": _saved(figure, "pdf")}


def _saved(figure: Figure, kind: str) -> bytes:
    out = BytesIO()
    figure.savefig(out, format=kind, dpi=DPI, metadata=TIMELESS.get(kind))
    return out.getvalue()


def _fewer_colours(rgba: bytes, figure: Figure) -> bytes:
    """As PNG in a third of the bytes: beside the edges of its letters it has some tens of colours, rare ones too."""
    across, down = (int(inches * DPI) for inches in figure.get_size_inches())
    out, whole = BytesIO(), Image.frombytes("RGBA", (across, down), rgba).convert("RGB")
    whole.quantize(method=Image.Quantize.MAXCOVERAGE).save(out, "png", optimize=True, dpi=(DPI, DPI))
    return out.getvalue()


def caption(figure: Figure, text: str) -> None:
    """Below all, as wide as the picture."""
    figure.supxlabel(broken(text, 72 * figure.get_figwidth() - 24), x=0.02, ha="left", fontsize=SIZE, parse_math=False)


def plain(axes: Axes) -> None:
    """Without a frame at the top and the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _caption(shown: Picture) -> str:
    lines = [shown.about]
    said = ["line: ± one standard deviation over seeds"] if any(bar.std is not None for bar in shown.bars) else []
    said += ["hatched: tried, not adopted"] if any(bar.mean is not None and bar.hatched for bar in shown.bars) else []
    lines += ["; ".join(said)] if said else []
    lines += [f"grey, behind: {shown.behind_about}"] if shown.behind else []
    return "\n".join(lines)


def _limits(bars: Sequence[Bar]) -> tuple[float, float]:
    """The axis starts at the whole number below the least value, in the paper 78; beyond the bars there is room for a number."""
    ends = [bar.mean + sign * (bar.std or 0.0) for bar in bars if bar.mean is not None for sign in (-1, 1)]
    least, most = (min(ends), max(ends)) if ends else (0.0, 100.0)
    span = max(most - least, 1.0)
    low = max(0.0, math.floor(least - 0.02 * span))
    return low, low + (most - low) * (1.25 if any(bar.aside for bar in bars) else 1.14)


def _draw_behind(axes: Axes, shown: Picture, low: float) -> None:
    """Grey bars at the rows of the same names, a little taller, with their number at the end."""
    of = {bar.name: bar for bar in shown.behind}
    for y, bar in enumerate(shown.bars):
        other = of.get(bar.name)
        if other is None or other.mean is None:
            continue
        axes.barh(y, other.mean - low, left=low, height=0.9, color=BEHIND, linewidth=0)
        if other.std is not None:
            axes.errorbar(other.mean, y - 0.36, xerr=other.std, color=GREY, capsize=2, linewidth=0.9)
        axes.annotate(
            _rounded(other.mean), (other.mean, y), xytext=(-3, 0), textcoords="offset points", ha="right", va="center",
            color="#333333", fontsize=9,
        )  # fmt: skip


def _draw_bars(axes: Axes, bars: Sequence[Bar], low: float, point: float) -> None:
    """The bars from `low` on; a point of the page is so much of the score."""
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("roadmap", [FIRST, LAST])
    for y, bar in enumerate(bars):
        if bar.mean is None:
            axes.text(low + 4 * point, y, bar.absent, va="center", color=GREY, style="italic")
            continue
        colour = REFERENCE if bar.reference else colours(y / max(len(bars) - 1, 1))
        hatch = "//" if bar.hatched else None
        axes.barh(y, bar.mean - low, left=low, height=0.68, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        _value(axes, bar, y, colour, low, point)
        if bar.std is not None:
            outline = [Stroke(linewidth=3.2, foreground="white"), Normal()]  # visible on the bar and beside it
            lines = axes.errorbar(bar.mean, y, xerr=bar.std, color="black", capsize=3, linewidth=1.2).lines
            for artist in (*lines[1], *lines[2]):
                artist.set_path_effects(outline)


def _value(axes: Axes, bar: Bar, y: int, colour: Any, low: float, point: float) -> None:
    """The number at the bar's end, inside where there is room before the whisker, else beyond it."""
    assert bar.mean is not None
    said, pad, half = f"{_rounded(bar.mean)}{bar.aside}", 5 * point, bar.std or 0.0
    inside = bar.mean - half - pad > low + (width(said, bold=True) + 4) * point
    style: Any = {"va": "center", "fontweight": "bold", "zorder": 5}
    if inside:
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}  # readable on hatching
        axes.text(bar.mean - half - pad, y, said, ha="right", color="white", bbox=box, **style)
    else:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}  # readable on the bars behind
        axes.text(bar.mean + half + pad, y, said, ha="left", color="#222222", bbox=box, **style)


def _rounded(value: float) -> str:
    """One decimal, halves up: a printed 80.35 is 80.4, though its nearest float lies below."""
    return f"{value + 1e-9:.1f}"


def _stars(axes: Axes, bars: Sequence[Bar]) -> None:
    """Multiply-adds in a column of their own: stars joined by a dashed line, which breaks at a row without."""
    axes.axis("off")
    points = [(bar.gmacs, y) for y, bar in enumerate(bars) if bar.gmacs is not None]
    if not points:
        return
    costs = [cost for cost, _ in points]
    scaled = [bar.gmacs for bar in bars if bar.gmacs is not None and not bar.reference] or costs
    unit, name = cost_unit(costs)
    span = max(max(scaled) - min(scaled), 1e-9)
    least, most = min(scaled) - 0.15 * span, max(scaled) + 0.1 * span  # a reference beyond them stands at the edge, with an arrow
    axes.set_xlim(min(scaled) - 0.3 * span, max(scaled) + 0.9 * span)
    path = [(math.nan if bar.gmacs is None else bar.gmacs, y) for y, bar in enumerate(bars) if bar.adopted and not bar.reference]
    axes.plot([cost for cost, _ in path], [y for _, y in path], "--", color=STAR, linewidth=1.4)
    for cost, y in points:
        place = min(max(cost, least), most)
        axes.plot(place, y, "*", color=STAR, markersize=12, markeredgecolor="white")
        said = _rounded(cost * unit) + (" →" if cost > most else " ←" if cost < least else "")
        axes.annotate(said, (place, y), xytext=(9, 0), textcoords="offset points", va="center", color=STAR_TEXT, fontsize=9)
    axes.set_title(f"multiply-adds of\none image, {name}", loc="left", color=STAR_TEXT, fontsize=SIZE)


def _sections(bars: Sequence[Bar]) -> list[tuple[str, int, int]]:
    """Runs of rows of one section of the paper: its name in as many lines as there is room for, first row, last row."""
    found: list[tuple[str, int, int]] = []
    for group, members in groupby(range(len(bars)), key=lambda y: bars[y].group):
        if group:
            rows, lines = list(members), [broken(group, room) for room in SECTIONS]
            fits = (said for said in lines if said.count("\n") < 2.4 * len(rows))
            found.append((next(fits, lines[-1]), rows[0], rows[-1]))
    return found


def _bracket(figure: Figure, axes: Axes, name: str, first: int, last: int, widest: float) -> None:
    """Left of the names, the widest of which takes so many points."""
    left = axes.get_yaxis_transform() + ScaledTranslation(-(widest + 18) / 72, 0, figure.dpi_scale_trans)
    ends = (first - 0.2, last + 0.2)
    line: Any = {"color": "black", "linewidth": 1.1}
    axes.plot([0, 0], ends, transform=left, clip_on=False, **line)
    for y in ends:
        tip = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, **line}
        axes.annotate("", (0, y), (7, 0), xycoords=left, textcoords="offset points", arrowprops=tip, annotation_clip=False)
    axes.annotate(
        name, (0, (first + last) / 2), (-5, 0), xycoords=left, textcoords="offset points", ha="right", va="center",
        annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _shown(bar: Bar) -> str:
    """Its label, a reference's word in a line of its own."""
    return broken(bar.label.replace(" (reference)", "\n(reference)"), NAMES)
