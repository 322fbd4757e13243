"""The roadmap figure and accuracy against cost, drawn as SVG in shares of its width: readable at every width, without scripts.

Hue alone carries no meaning: side branches are hatched or hollow, references say so, the paper's marks have a form of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from roadmap.base.tables import cost_unit
from roadmap.paper.rows import paper_row, paper_scale
from roadmap.record.result import Metric
from roadmap.report.page.axis import Axis, accuracy_axis, axis
from roadmap.report.page.markup import Markup, join, percent, tag
from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Row
from roadmap.report.table import PAPER, PAPER_EPOCHS, table_columns, table_rows

FIRST, LAST = (121, 141, 196), (98, 77, 176)  # 3:1 or more on the light ground and on the dark one
REFERENCE = "#bd6a22"
STAR = "M0-8 2-2.6 7.6-2.5 3.2 1 4.7 6.5 0 3.3-4.7 6.5-3.2 1-7.6-2.5-2-2.6Z"
NOT_COMPARABLE = f"ImageNet-1K, {PAPER_EPOCHS} epochs: not comparable"
PLOT = (780.0, 340.0)  # px for which names are placed beside their points
PLACES = (4, -14, 22, -26, 34)  # px: heights at which a name may stand beside its point, the best first
LETTER, LINE = 6.4, 14.0  # px: width of a letter and height of a line


def tips(study: Study, analysis: Analysis) -> list[str]:
    """What is said of every row when it is pointed at or focused: a line a fact, the same words as in the table."""
    columns = {column.key: column for column in table_columns(study)}
    return [
        "\n".join(
            _tip(row, {key: column.text(cells) for key, column in columns.items()}, columns["delta"].heading, study.plan.metric)
        )
        for row, cells in zip(analysis.rows, table_rows(study, analysis), strict=True)
    ]


def _tip(row: Row, cells: dict[str, str], compared: str, metric: Metric) -> list[str]:
    lines = [cells["label"], f"{metric.heading}: {cells[metric.key]} (n = {cells['seeds']})"]
    lines += ["; ".join(f"seed {seed}: {value:.2f}" for seed, value in row.by_seed.items())] if row.values else []
    lines += [f"{compared}: {cells['delta']}" + (f", {cells['verdict']}" if cells["verdict"] else "")] if cells["delta"] else []
    lines += [f"multiply-adds: {cells['gmacs']} G; parameters: {cells['params_m']} M"] if row.gmacs is not None else []
    return lines + ([f"paper: {cells[PAPER[0]]} ({NOT_COMPARABLE})"] if cells[PAPER[0]] else [])


# --- the roadmap -----------------------------------------------------------------------------------------------------


def has_paper(study: Study) -> bool:
    """Whether the paper trained any of the rows."""
    return any(paper_row(paper_scale(study.plan.scale.name), variant.name) for variant in study.plan.variants)


def roadmap(study: Study, analysis: Analysis) -> Markup:
    """Every row as a bar with its deviation, its seeds, and its multiply-adds as a star on a scale of their own."""
    rows = analysis.rows
    across, stars = accuracy_axis(rows), _star_places(rows)
    paper = [paper_row(paper_scale(study.plan.scale.name), row.variant.name) for row in rows]
    beside = axis([mark.score for mark in paper if mark], below=0.3, most=100.0)
    drawn = [
        _row(row, place, tip, beside.at(mark.score) if mark else None, across, _colour(row, i / max(len(rows) - 1, 1)), i)
        for i, (row, place, tip, mark) in enumerate(zip(rows, _joined(rows, stars), tips(study, analysis), paper, strict=True))
    ]
    sections = groupby(zip(rows, drawn, strict=True), key=lambda pair: pair[0].variant.group)
    body = [_section(name, [one for _, one in pairs]) for name, pairs in sections]
    unit = f"★ multiply-adds, {_unit(rows)[1]}" if any(stars) else ""
    return join(
        [tag("ol", *body, class_="chart"), _scale(study.plan.metric.heading, across, unit, beside if any(paper) else None)]
    )


def _section(name: str, rows: Sequence[Markup]) -> Markup:
    return tag(
        "li", tag("p", name, class_="bracket" + (" named" if name else "")), tag("ol", *(tag("li", row) for row in rows)),
        class_="section",
    )  # fmt: skip


def _row(row: Row, star: Markup, tip: str, paper: float | None, across: Axis, colour: str, index: int) -> Markup:
    value = _in_words(row)
    return tag(
        "div",
        tag("span", row.variant.label, class_="name"),
        tag("span", value, class_="value" + ("" if row.values else " none")),
        tag("svg", _bar(row, across, colour), _paper(paper), class_="bar", aria_hidden="true"),
        star,
        class_="row", id=f"bar-{index}", tabindex="0", role="img", aria_label=tip.replace("\n", "; "), data_tip=tip,
    )  # fmt: skip


def _in_words(row: Row) -> str:
    if row.mean is None:
        return "diverged" if row.diverged else "no result"
    deviation = f" ± {row.std:.2f}" if row.std is not None else ""
    return f"{row.mean:.2f}{deviation}" + (f", {row.diverged} diverged" if row.diverged else "")


def _bar(row: Row, across: Axis, colour: str) -> Markup:
    grid = [tag("line", x1=percent(x), x2=percent(x), y1="0", y2="100%", class_="grid") for x, _ in across.names()]
    if row.mean is None:
        return join(grid)
    size = {"y": "5", "height": "18", "width": percent(across.at(row.mean))}
    bars = [tag("rect", fill=colour, **size)]
    bars += [] if not row.variant.side_branch else [tag("rect", fill="url(#hatch)", **size)]
    if row.std is not None:
        low, high = percent(max(0.0, across.at(row.mean - row.std))), percent(across.at(row.mean + row.std))
        bars += [_whisker(low, high, "halo"), _whisker(low, high, "ink")]
    dots = [tag("circle", cx=percent(across.at(value)), cy="14", r="2.7", class_="seed") for value in row.values]
    return join([*grid, *bars, *dots])


def _whisker(low: str, high: str, kind: str) -> Markup:
    lines = [(low, high, "14", "14"), (low, low, "9.5", "18.5"), (high, high, "9.5", "18.5")]
    return join(tag("line", x1=a, x2=b, y1=c, y2=d, class_=kind) for a, b, c, d in lines)


def _paper(place: float | None) -> Markup:
    return Markup("") if place is None else tag("line", x1=percent(place), x2=percent(place), y1="1", y2="27", class_="paper")


def _colour(row: Row, share: float) -> str:
    if row.variant.reference:
        return REFERENCE
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(FIRST, LAST, strict=True))


def _unit(rows: Sequence[Row]) -> tuple[float, str]:
    return cost_unit(row.gmacs or 0.0 for row in rows)


def _star_places(rows: Sequence[Row]) -> list[float | None]:
    """Shares of the width, with room for the number at the right of each star."""
    known = [(row.gmacs, row.variant.reference) for row in rows if row.gmacs is not None]
    costs = [gmacs for gmacs, reference in known if not reference] or [gmacs for gmacs, _ in known]
    least, most = min(costs, default=0.0), max(costs, default=0.0)
    span = most - least

    def place(gmacs: float) -> float:
        """A reference that costs less or more than every step stands at the edge; its number says what it costs."""
        return 0.1 + (0.5 * min(max((gmacs - least) / span, -0.1), 1.1) if span else 0.2)

    return [None if row.gmacs is None else place(row.gmacs) for row in rows]


def _joined(rows: Sequence[Row], places: Sequence[float | None]) -> list[Markup]:
    """Each row's star, with its piece of the dashed line from one adopted row to the next."""
    path = [(i, place) for i, place in enumerate(places) if place is not None and rows[i].variant.adopted]
    pieces: list[list[Markup]] = [[] for _ in rows]
    for (i, a), (j, b) in pairwise(path):
        for k in range(i, j + 1):
            top, bottom = max(i, k - 0.5), min(j, k + 0.5)
            x1, x2 = (a + (b - a) * (y - i) / (j - i) for y in (top, bottom))
            ends = {"y1": percent(top - k + 0.5), "y2": percent(bottom - k + 0.5)}
            pieces[k].append(tag("line", x1=percent(x1), x2=percent(x2), class_="path", **ends))
    times = _unit(rows)[0]
    return [
        tag("svg", *piece, _star(place, row.gmacs, times), class_="cost", aria_hidden="true")
        for row, place, piece in zip(rows, places, pieces, strict=True)
    ]


def _star(place: float | None, gmacs: float | None, times: float) -> Markup:
    if place is None or gmacs is None:
        return Markup("")
    written = tag("text", f"{gmacs * times:.1f}", x="12", y="4.5")
    return tag("svg", tag("path", d=STAR), written, x=percent(place), y="50%", overflow="visible", class_="star")


def _scale(heading: str, across: Axis, unit: str, beside: Axis | None) -> Markup:
    lines = [_ticks("scale", across, heading, unit)]
    if beside:
        lines.append(_ticks("scale paper-scale", beside, f"the paper’s own scale, {NOT_COMPARABLE}", ""))
    return join(lines)


def _ticks(kind: str, across: Axis, name: str, unit: str) -> Markup:
    marks = [tag("text", label, x=percent(x), y="14", text_anchor="middle") for x, label in across.names()]
    return tag(
        "div", tag("svg", *marks, class_="bar"), tag("span", name, class_="axis-name"), tag("span", unit, class_="cost-name"),
        class_=kind, aria_hidden="true",
    )  # fmt: skip


# --- accuracy against multiply-adds ----------------------------------------------------------------------------------


def scatter(study: Study, analysis: Analysis) -> Markup:
    """Score against multiply-adds: a numbered point a row, named beside it where the page is wide and in a list where not."""
    known = [
        (i, row, row.gmacs, row.mean) for i, row in enumerate(analysis.rows) if row.mean is not None and row.gmacs is not None
    ]
    if not known:
        return tag("p", "No run is done yet.", class_="empty")
    times, unit, ordered = *_unit(analysis.rows), study.plan.kind == "roadmap"
    up, across = accuracy_axis(analysis.rows), axis([gmacs * times for *_, gmacs, _ in known], below=0.1)
    at = [(across.at(gmacs * times), 1 - up.at(mean)) for *_, gmacs, mean in known]
    metric, said, names = (
        study.plan.metric,
        tips(study, analysis),
        _beside(at, {i + 1: row.variant.label for i, row, *_ in known}),
    )
    points = [_point(i, row, place, up, said[i], name) for (i, row, *_), place, name in zip(known, at, names, strict=True)]
    path = [place for (_, row, *_), place in zip(known, at, strict=True) if row.variant.adopted and ordered]
    joined = [
        tag("line", x1=percent(a[0]), y1=percent(a[1]), x2=percent(b[0]), y2=percent(b[1]), class_="path")
        for a, b in pairwise(path)
    ]
    listed = [tag("li", row.variant.label, value=i + 1) for i, row, *_ in known]
    plot = tag(
        "svg",
        *_grid(up, across),
        *joined,
        *points,
        class_="plot",
        role="group",
        aria_label=f"{metric.label.capitalize()} against multiply-adds",
    )
    return join([_framed(plot, up, across, unit, metric.heading), tag("ol", *listed, class_="names", aria_hidden="true")])


def _framed(plot: Markup, up: Axis, across: Axis, unit: str, heading: str) -> Markup:
    left = [tag("text", label, x="100%", dx="-8", y=percent(1 - y), dy="4", text_anchor="end") for y, label in up.names()]
    below = [tag("text", label, x=percent(x), y="18", text_anchor="middle") for x, label in across.names()]
    return tag(
        "div",
        tag("svg", *left, class_="left", aria_hidden="true"), plot, tag("svg", *below, class_="below", aria_hidden="true"),
        tag("p", f"across: multiply-adds of one image, {unit}; up: {heading}", class_="axis-name"),
        class_="scatter",
    )  # fmt: skip


def _grid(up: Axis, across: Axis) -> list[Markup]:
    lines = [tag("line", x1="0", x2="100%", y1=percent(1 - y), y2=percent(1 - y), class_="grid") for y, _ in up.names()]
    return lines + [tag("line", x1=percent(x), x2=percent(x), y1="0", y2="100%", class_="grid") for x, _ in across.names()]


def _point(index: int, row: Row, place: tuple[float, float], up: Axis, tip: str, name: Markup) -> Markup:
    whisker = Markup("")
    if row.mean is not None and row.std is not None:
        half = row.std / (up.high - up.low)
        whisker = tag("line", x1="0", x2="0", y1=percent(-half), y2=percent(half), class_="ink")
    return tag(
        "svg",
        whisker, tag("circle", r="9"), tag("text", index + 1, y="3.5", text_anchor="middle", class_="number"), name,
        x=percent(place[0]), y=percent(place[1]), overflow="visible", id=f"point-{index}", tabindex="0", role="img",
        class_="point" + " side" * row.variant.side_branch + " reference" * row.variant.reference,
        aria_label=tip.replace("\n", "; "), data_tip=tip,
    )  # fmt: skip


Box = tuple[float, float, float, float]


def _beside(at: Sequence[tuple[float, float]], names: Mapping[int, str]) -> list[Markup]:
    """A name beside every point, each where it covers least of what is there; numbered where it is farther off."""
    points = [(x * PLOT[0], y * PLOT[1]) for x, y in at]
    taken: list[Box] = [(x - 10, y - 10, x + 10, y + 10) for x, y in points]
    found = []
    for (x, y), (number, name) in zip(points, names.items(), strict=True):
        width = LETTER * (len(name) + 3)
        places = [(dx, dy, end) for dy in PLACES for dx, end in ((13, "start"), (-13, "end"), (0, "middle"))]
        boxes = [_box(x + dx, y + dy, width, end) for dx, dy, end in places if dx or abs(dy) > 10]
        places = [place for place in places if place[0] or abs(place[1]) > 10]
        best = min(range(len(places)), key=lambda i: (_covered(boxes[i], taken), i))
        taken.append(boxes[best])
        dx, dy, end = places[best]
        found.append(tag("text", name if dy == PLACES[0] else f"{number} {name}", x=dx, y=dy, text_anchor=end, class_="name"))
    return found


def _box(x: float, y: float, width: float, anchor: str) -> Box:
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - LINE + 3, left + width, y + 3


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Square pixels of other things that a box would cover, those outside the plot among them."""
    outside = max(0.0, -box[0]) + max(0.0, box[2] - PLOT[0] - 20) + max(0.0, -box[1]) + max(0.0, box[3] - PLOT[1])
    shared = (
        max(0.0, min(box[2], other[2]) - max(box[0], other[0])) * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    return outside * LINE + sum(shared)
