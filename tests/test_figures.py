"""Figures fit to publish: with many rows and long or hostile names nothing is cut off, and no words lie on others."""

from __future__ import annotations

import io
import re
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from large import large_study
from matplotlib.text import Text
from PIL import Image
from test_report import study

from roadmap.report import lettering, plots
from roadmap.report.figure import STYLE, drawn, every_kind, paper_picture, picture
from roadmap.report.page import render
from roadmap.report.report import Report

LARGE = {
    "12 rows with references and groups": {"rows": 12, "references": 2},
    "30 rows with groups": {"rows": 30},
    "28 rows of long names, with references": {"rows": 28, "references": 2, "groups": False, "length": 90},
}


def figures(report):
    study, analysis = report.study, report.analysis
    yield "figure", drawn(picture(report))
    yield "cost", plots.against(study, analysis.rows, "gmacs", "multiply-adds of one image")
    yield "throughput", plots.against(study, analysis.rows, "images_per_second", "images per second", compare=False)
    yield "curves", plots.curves(study, analysis.rows, 2, "top-1, %")
    yield "effects", plots.effects(study, analysis.estimates)


def words(figure):
    """Every text that is drawn, with its box in pixels."""
    found = []

    def draw(text, renderer):
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), Text.get_window_extent(text, renderer)))

    figure.draw_without_rendering()  # all find their places
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.draw_without_rendering()
    return found


def assert_publishable(figure):
    found = words(figure)
    width, height = figure.bbox.width, figure.bbox.height
    cut = [text for text, box in found if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    assert not cut
    over = [
        (one, other)
        for (one, a), (other, b) in combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    assert not over


@pytest.mark.parametrize("about", LARGE.values(), ids=LARGE)
def test_nothing_is_cut_off_and_no_words_lie_on_others(tmp_path, about):
    report = Report.read(large_study(tmp_path, **about))
    labels = {row.variant.label.split(" (ref")[0] for row in report.analysis.rows}
    with matplotlib.rc_context(STYLE):
        for name, figure in figures(report):
            assert figure is not None, name
            assert_publishable(figure)
            said = " ".join(" ".join(text.split()) for text, _ in words(figure))
            there = [label for label in labels if "".join(label.split()) in "".join(said.split())]
            assert len(there) >= len(labels) - (name == "effects") * 3, name  # the first row has no effect, nor have references


def test_the_paper_s_figure(tmp_path):
    with matplotlib.rc_context(STYLE):
        assert_publishable(drawn(paper_picture()))


def test_every_kind_of_file(tmp_path):
    report = Report.read(large_study(tmp_path, rows=3))
    found = plots.plots(report)
    assert {"cost", "throughput", "curves", "losses", "effects"} == {name.split(".")[0] for name in found}
    assert all({f"{name.split('.')[0]}.{kind}" for kind in ("svg", "png", "pdf")} <= found.keys() for name in found)
    for name, content in found.items():
        assert content.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[name.rsplit(".", 1)[1]])


def test_fewer_colours_change_no_pixel_much(tmp_path):
    report = Report.read(large_study(tmp_path, rows=6, references=1))
    with matplotlib.rc_context(STYLE):
        figure = drawn(picture(report))
        small = Image.open(io.BytesIO(every_kind(figure)["png"]))
        whole = io.BytesIO()
        figure.savefig(whole, format="png", dpi=150)
    apart = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(Image.open(whole).convert("RGB"), int))
    assert small.mode == "P"
    assert apart.max() < 64
    assert apart.mean() < 1


def test_the_numbers_of_points_at_one_place_stand_apart(tmp_path):
    with matplotlib.rc_context(STYLE):
        axes = matplotlib.figure.Figure().add_subplot()
        axes.set_xlim(0, 2)
        axes.set_ylim(0, 2)
        plots.numbered(axes.figure, axes, [(1, 1)] * 9)
        assert_publishable(axes.figure)


@pytest.mark.parametrize("text", ["a few words of usual length", "W" * 60, "漢字 " * 20, "$x^2$ \\frac{1}{2}", "", " a  b "])
def test_lines_are_no_wider_than_their_room(text):
    lines = lettering.broken(text, 80).split("\n")
    assert all(lettering.width(line) <= 80 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_widths_are_those_of_the_renderer():
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(dpi=72)
        for text in ("separate ↑ d. conv → 11", "WWW iii"):
            box = figure.text(0, 0, text).get_window_extent()
            assert lettering.width(text) == pytest.approx(box.width, rel=0.06, abs=2)


def test_what_is_missing_is_neither_drawn_nor_explained(tmp_path):
    values = {"a": [50.0], "b": [60.0], "d": [70.0]}
    report = Report.read(study(tmp_path, values, seeds=1))
    every = dict(figures(report))
    said = {name: " ".join(text for text, _ in words(figure)) for name, figure in every.items() if figure}
    assert "one run a row" in said["figure"] and "hatched" not in said["figure"] and said["figure"].count("missing") == 2
    assert "one run a row, so no intervals" in said["effects"]
    assert not any("interval;" in text or "deviation" in text for text in said.values())
    (path, *_) = every["figure"].axes[1].get_lines()
    assert np.isnan(path.get_xdata()).tolist() == [False, False, True, False]  # a, b, c, d: no line leads past c
    page = render(report)
    assert page.count('class="path"') == 2 + 1  # from a to b: a piece in each row's column of costs, and one over the costs
    last = render(Report.read(study(tmp_path / "last", {"a": [50.0], "b": [60.0]}, seeds=1)))
    assert re.findall(r'id="curve-(\d)" checked', last) == ["0", "1"]  # the first and last that have a curve
    more = Report.read(study(tmp_path / "more", {**values, "a": [50.0, 51.0], "b": [60.0, 61.0], "c": [62.0]}, seeds=2))
    assert "no line: of a row with one run" in " ".join(text for text, _ in words(dict(figures(more))["effects"]))
