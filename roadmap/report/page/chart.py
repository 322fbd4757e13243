"""What the page's charts show and where: shares of the width and height, colours, and which name stands where.

Hue alone carries no meaning: side branches are hatched or hollow, references say so, the paper's marks have a form of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

from roadmap.base.tables import cost_unit
from roadmap.record.result import Metric
from roadmap.report.columns import table_columns
from roadmap.report.frames import PAPER
from roadmap.report.page.axis import Axis, axis, score_axis
from roadmap.report.places import Box, free_place
from roadmap.report.published import aside, published_row
from roadmap.report.report import Report
from roadmap.report.statistics import Row

FIRST, LAST = (121, 141, 196), (98, 77, 176)  # 3:1 or more on the light ground and on the dark one
REFERENCE = "#bd6a22"
LONG = 18  # letters: names that are longer have a wider column
PLOT = (640.0, 330.0)  # px, the least for which names are placed beside their points
HEIGHTS = (4, -14, 22, -26, 34)  # px: at which a name may stand beside its point, the best first
LETTER, LINE = 6.4, 14.0  # px: width of a letter and height of a line

Line = tuple[float, float, float, float]  # x1, y1, x2, y2


def tips(report: Report) -> list[str]:
    """What is said of every row when it is pointed at or focused: a line a fact, the same words as in the table."""
    columns, metric = {column.key: column for column in table_columns(report.study.plan)}, report.study.plan.metric
    words = [{key: column.text(row) for key, column in columns.items()} for row in report.rows]
    return [
        "\n".join(_tip(row, cells, columns["delta"].heading, metric, *aside(report.study.plan)))
        for row, cells in zip(report.analysis.rows, words, strict=True)
    ]


def _tip(row: Row, cells: dict[str, str], compared: str, metric: Metric, whose: str, said: str) -> list[str]:
    lines = [cells["label"], f"{metric.heading}: {cells[metric.key]} (n = {cells['seeds']})"]
    lines += ["; ".join(f"seed {seed}: {value:.2f}" for seed, value in row.by_seed.items())] if row.values else []
    lines += [f"{compared}: {cells['delta']}" + (f", {cells['verdict']}" if cells["verdict"] else "")] if cells["delta"] else []
    lines += [f"multiply-adds: {cells['gmacs']} G; parameters: {cells['params_m']} M"] if row.gmacs is not None else []
    return lines + ([f"{whose}: {cells[PAPER[0]]} ({said})"] if cells.get(PAPER[0]) else [])


# --- the roadmap -----------------------------------------------------------------------------------------------------


def roadmap(report: Report, tips: Sequence[str]) -> dict[str, Any]:
    """Every row as a bar with its deviation, its seeds, and its multiply-adds as a star on a scale of their own."""
    rows, plan = report.analysis.rows, report.study.plan
    paper = [published_row(plan, row.variant.name) for row in rows]
    scores, papers = score_axis(rows), axis([mark.score for mark in paper if mark], below=0.3, most=100.0)
    stars, (times, unit) = _star_places(rows), cost_unit(row.gmacs or 0.0 for row in rows)
    bars = [
        {
            **_bar(row, scores, _colour(row, index / max(len(rows) - 1, 1))),
            "index": index,
            "tip": tip,
            "paper": papers.at(mark.score) if mark else None,
            "star": star,
            "cost": "" if row.gmacs is None else f"{row.gmacs * times:.1f}",
            "path": path,
        }
        for index, (row, tip, mark, star, path) in enumerate(zip(rows, tips, paper, stars, _joined(rows, stars), strict=True))
    ]
    return {
        "sections": [(group, list(bars)) for group, bars in groupby(bars, key=itemgetter("group"))],
        "hatched": any(row.variant.side_branch and row.values for row in rows),
        "long": max((len(row.variant.label) for row in rows), default=0) > LONG,
        "ticks": scores.marks(),
        "paper_ticks": papers.marks() if any(paper) else [],
        "cost_name": f"★ multiply-adds, {unit}" if any(stars) else "",
    }


def _bar(row: Row, scores: Axis, colour: str) -> dict[str, Any]:
    mean, std = row.mean, row.std
    return {
        "label": row.variant.label,
        "group": row.variant.group,
        "words": _in_words(row),
        "colour": colour,
        "hatched": row.variant.side_branch,
        "mean": None if mean is None else scores.at(mean),
        "deviation": None if mean is None or std is None else (max(0.0, scores.at(mean - std)), scores.at(mean + std)),
        "seeds": [scores.at(value) for value in row.values],
    }


def _in_words(row: Row) -> str:
    if row.mean is None:
        return "diverged" if row.diverged else "no result"
    deviation = f" ± {row.std:.2f}" if row.std is not None else ""
    return f"{row.mean:.2f}{deviation}" + (f", {row.diverged} diverged" if row.diverged else "")


def _colour(row: Row, share: float) -> str:
    if row.variant.reference:
        return REFERENCE
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(FIRST, LAST, strict=True))


def _star_places(rows: Sequence[Row]) -> list[float | None]:
    """Shares of the width, with room for the number at the right of each star.

    A reference that costs less or more than every step stands at the edge; its number says what it costs.
    """
    known = [(row.gmacs, row.variant.reference) for row in rows if row.gmacs is not None]
    costs = [gmacs for gmacs, reference in known if not reference] or [gmacs for gmacs, _ in known]
    least, span = min(costs, default=0.0), max(costs, default=0.0) - min(costs, default=0.0)
    shares = [None if row.gmacs is None else (row.gmacs - least) / span if span else 0.4 for row in rows]
    return [None if share is None else 0.1 + 0.5 * min(max(share, -0.1), 1.1) for share in shares]


def _joined(rows: Sequence[Row], places: Sequence[float | None]) -> list[list[Line]]:
    """Each row's pieces of the dashed line from one adopted row's star to the next; it breaks at a row without a star."""
    path = [(i, place) for i, place in enumerate(places) if rows[i].variant.adopted]
    pieces: list[list[Line]] = [[] for _ in rows]
    for (i, a), (j, b) in pairwise(path):
        if a is None or b is None:
            continue
        for k in range(i, j + 1):
            top, bottom = max(i, k - 0.5), min(j, k + 0.5)
            x1, x2 = (a + (b - a) * (y - i) / (j - i) for y in (top, bottom))
            pieces[k].append((x1, top - k + 0.5, x2, bottom - k + 0.5))
    return pieces


# --- accuracy against multiply-adds ----------------------------------------------------------------------------------


def scatter(report: Report, tips: Sequence[str]) -> dict[str, Any] | None:
    """Score against multiply-adds: a numbered point a row, named beside it where the page is wide and in a list where not."""
    rows = report.analysis.rows
    times, unit = cost_unit(row.gmacs or 0.0 for row in rows)
    known = [
        (i, row, row.gmacs * times, row.mean) for i, row in enumerate(rows) if row.mean is not None and row.gmacs is not None
    ]
    if not known:
        return None
    up, across = score_axis(rows), axis([cost for _, _, cost, _ in known], below=0.1)
    places = [(across.at(cost), 1 - up.at(mean)) for _, _, cost, mean in known]
    names = _names(places, {i + 1: row.variant.label for i, row, _, _ in known})
    points = [
        {
            "index": i, "label": row.variant.label, "tip": tips[i], "x": x, "y": y, "name": name,
            "hollow": row.variant.side_branch, "reference": row.variant.reference,
            "half": None if row.std is None else row.std / (up.high - up.low),
        }
        for (i, row, _, _), (x, y), name in zip(known, places, names, strict=True)
    ]  # fmt: skip
    ordered = report.study.plan.kind == "roadmap"
    placed = {i: place for (i, *_), place in zip(known, places, strict=True)}
    path = [placed.get(i) for i, row in enumerate(rows) if row.variant.adopted and ordered]
    return {
        "up": up.marks(),
        "across": across.marks(),
        "unit": unit,
        "points": points,
        "named": all(names),  # else a list says which number is which
        "path": [(*a, *b) for a, b in pairwise(path) if a and b],
    }


def _names(places: Sequence[tuple[float, float]], labels: Mapping[int, str]) -> list[dict[str, Any] | None]:
    """A name beside every point, numbered where it is farther off; none where it would cover what is there."""
    points = [(x * PLOT[0], y * PLOT[1]) for x, y in places]
    covered: list[Box] = [(x - 10, y - 10, x + 10, y + 10) for x, y in points]
    beside = [(dx, dy, anchor) for dy in HEIGHTS for dx, anchor in ((13, "start"), (-13, "end"), (0, "middle"))]
    beside = [place for place in beside if place[0] or abs(place[1]) > 10]
    names: list[dict[str, Any] | None] = []
    for (x, y), (number, label) in zip(points, labels.items(), strict=True):
        width = LETTER * (len(label) + 3 + sum(map(label.count, "MW@")))
        boxes = [_box(x + dx, y + dy, width, anchor) for dx, dy, anchor in beside]
        place, over = free_place(boxes, covered, (0.0, 0.0, PLOT[0] + 20, PLOT[1]))
        if over > 1:
            names.append(None)
            continue
        covered.append(boxes[place])
        dx, dy, anchor = beside[place]
        names.append({"text": label if dy == HEIGHTS[0] else f"{number} {label}", "dx": dx, "dy": dy, "anchor": anchor})
    return names


def _box(x: float, y: float, width: float, anchor: str) -> Box:
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - LINE + 3, left + width, y + 3
