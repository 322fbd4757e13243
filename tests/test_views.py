"""What a step is worth by each of several studies: planted worths come back from every one of them, others are refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from random import Random

import matplotlib
import pytest
from large import large_study
from records import editing, made
from test_figures import assert_publishable

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.record.result import dump_result
from roadmap.record.study import write_plan
from roadmap.report.figure import STYLE
from roadmap.report.plots import interactions
from roadmap.report.views import VIEWS, Views, notes, read_views
from roadmap.report.views.__main__ import main, render
from roadmap.report.views.figure import drawn
from roadmap.sweep.plan import plan

CHAIN = ("resnet", "depthwise", "move_up_depthwise", "kernel_5", "kernel_7", "kernel_9", "gelu")
STEPS = ("depthwise", "kernel_7", "gelu")
WORTH = {"depthwise": -6.0, "kernel_7": 4.0, "gelu": 0.0}
TOGETHER = 3.0  # what a depthwise convolution and a kernel of 7 add beyond both
KINDS = ("roadmap", "leave_one_out", "add_one_in", "orderings", "interactions")


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder for each kind, with the records of networks whose score is known."""
    root = tmp_path_factory.mktemp("views")
    start, end = (compose(["scale=atto", f"+step={step}"]).model for step in ("resnet", "separate_downsampling"))

    def share(model, toggle):
        if toggle == "kernel_size":
            return (model.kernel_size - 3) / 4 if model.kernel_size <= 7 else 1.0
        return float(getattr(model, toggle) == getattr(end, toggle) != getattr(start, toggle))

    def score(model):
        there = {
            name: share(model, toggle) for name, toggle in zip(STEPS, ("depthwise", "kernel_size", "activation"), strict=True)
        }
        return 60 + sum(WORTH[name] * part for name, part in there.items()) + TOGETHER * there["depthwise"] * there["kernel_7"]

    for number, kind in enumerate(KINDS):
        steps = CHAIN if kind == "roadmap" else STEPS
        chosen = [f"study.steps=[{','.join(steps)}]", "study.seeds=[0,1,2]", "study.orders=4"]
        found = plan([f"+study={kind}", "scale=atto", "recipe=short", *chosen])
        about, random, lines = found.study_plan(), Random(number), []
        write_plan(root / kind, about)
        for run in about.runs.values():
            point = next(p for p in found.rows[run.row.variant.name] if p.folder.path.name == run.name)
            value = score(point.experiment.model) + random.gauss(0, 0.1)
            data = {"fingerprint": "f", "val": 1000}
            result = made(run.name, value, step=point.experiment.step, seed=run.seed, gmacs=0.01, data=data, recipe={"lr": 1.0})
            lines.append(json.dumps(dump_result(result)))
        (root / kind / "records.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def views(studies):
    return read_views([studies / kind for kind in KINDS])


def test_every_view_finds_what_is_planted(views):
    expected = dict.fromkeys(KINDS[:4], WORTH)
    expected["leave_one_out"] = WORTH | {"depthwise": -3.0, "kernel_7": 7.0}  # the other one is there
    expected["orderings"] = WORTH | {"depthwise": -4.5, "kernel_7": 5.5}  # as often before the other one as after it
    expected["roadmap"] = WORTH | {"kernel_7": 7.0}
    for kind, worths in expected.items():
        for step, worth in worths.items():
            found = views.worths[step, kind]
            assert found.value == pytest.approx(worth, abs=0.25), (kind, step)
            assert found.resolved or not worth, (kind, step)
            assert views.reports[kind].analysis.fewest(found) == 3


def test_kernel_5_and_7_of_the_cumulative_study_are_one_change_with_one_interval(views):
    analysis = views.reports["roadmap"].analysis
    five, seven = (analysis.estimate(name) for name in ("kernel_5", "kernel_7"))
    whole = views.worths["kernel_7", "roadmap"]
    assert whole.value == pytest.approx(five.value + seven.value)
    assert whole.effect.weights == {"kernel_7": 1.0, "move_up_depthwise": -1.0}  # the row between them is in neither
    assert whole.half_width < five.half_width + seven.half_width
    assert ("kernel_5", "roadmap") not in views.worths
    assert any("kernel sz. → 5 and kernel sz. → 7 are one change" in note for note in notes(views))


def test_steps_that_a_view_has_not_are_missing(views, studies, tmp_path, monkeypatch, capsys):
    assert ("kernel_9", "add_one_in") not in views.worths
    folder = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["views", *(str(studies / kind) for kind in KINDS), "--to", str(folder)])
    assert main() == 0
    with (folder / "views.csv").open() as lines:
        rows = {(row["step"], row["view"]): row for row in csv.DictReader(lines)}
    assert rows["kernel_9", "add_one_in"]["effect"] == "" and rows["kernel_9", "add_one_in"]["n"] == "0"
    assert rows["kernel_7", "roadmap"]["resolved"] == "True" and rows["kernel_7", "roadmap"]["n"] == "3"
    assert float(rows["depthwise", "leave_one_out"]["effect"]) == pytest.approx(-3.0, abs=0.25)
    (line,) = [line for line in (folder / "views.md").read_text().splitlines() if line.startswith("| kernel sz. → 9")]
    assert line.count("missing") == 3
    names = {f"{stem}.{kind}" for stem in ("views", "pairs") for kind in ("svg", "png", "pdf")}
    assert {path.name for path in folder.iterdir()} == names | {"views.csv", "views.md", "views.html"}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main() == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "left out of the whole" in capsys.readouterr().out


def test_a_worth_that_depends_on_its_place_is_named(views):
    assert {one.effect.name for (_, one), _ in views.apart} == {"depthwise", "kernel_7"}
    assert any(note.startswith("Two views' intervals share nothing") and "depth conv" in note for note in notes(views))
    alone = Views({kind: views.reports[kind] for kind in ("add_one_in", "interactions")})
    assert any("does not show here" in note for note in notes(alone))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": {"lr": 2.0}}, r"they differ in recipe\.lr: 1\.0 / 2\.0"),
        ({"data": {"fingerprint": "other", "val": 1000}}, r"they differ in data\.fingerprint: f / other"),
        ({"scale": "femto"}, "they differ in scale: atto / femto"),
        ({"init": {"weights": "abc"}}, r"they differ in start\.weights: None / abc"),
        ({"head": {"nms": 0.5}}, r"they differ in head\.nms: None / 0.5"),
    ],
)
def test_studies_of_other_things_are_refused(studies, tmp_path, change, said):
    other = tmp_path / "other"
    shutil.copytree(studies / "add_one_in", other)
    with editing(other) as lines:
        for line in lines:
            line |= change
    with pytest.raises(Refused, match=said):
        read_views([studies / "roadmap", other])


def test_what_is_no_view_is_refused(studies, monkeypatch):
    with pytest.raises(Refused, match="are both of the kind roadmap; needed: one of each kind"):
        read_views([studies / "roadmap", studies / "roadmap"])
    with pytest.raises(Refused, match="1 study; needed: two or more"):
        read_views([studies / "roadmap"])
    monkeypatch.setattr(
        "sys.argv", ["views", str(studies / "roadmap"), str(studies / "orderings"), "--to", str(studies / "roadmap")]
    )
    with pytest.raises(Refused, match="a study's folder or a file; needed: a folder of its own"):
        main()


def test_a_worth_is_not_summed_where_every_row_sets_the_width(studies):
    """At equal cost each row has a width of its own, which makes no chain of them."""
    from roadmap.report.views import _changes

    about = read_views([studies / "roadmap", studies / "add_one_in"]).reports["roadmap"].study.plan
    rows = tuple(dataclasses.replace(row, toggles=("width", *row.toggles)) for row in about.rows)
    found = _changes(dataclasses.replace(about, kind="equal_flops", rows=rows))
    assert [step for step, parts in found.items() if len(parts) > 1] == ["kernel_7"]
    assert "move_up_depthwise" in found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    return read_views([large_study(root / kind, 30, kind=kind) for kind in ("roadmap", "leave_one_out", "add_one_in")])


def test_nothing_is_cut_off_in_the_figure(large, views):
    with matplotlib.rc_context(STYLE):
        for found in (large, views):
            assert_publishable(drawn(found))
        assert_publishable(interactions(views.pairs.study, views.pairs.analysis))


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_any_width(large, views, tmp_path, chromium, width):
    chromium.width(width)
    for name, found in (("large", large), ("planted", views)):
        (tmp_path / f"{name}.html").write_text(render(found))
        chromium.open(f"file://{tmp_path}/{name}.html")
        assert chromium.js("document.documentElement.scrollWidth") <= width
        assert chromium.js("document.querySelectorAll('.view .bar .worth').length") == len(found.worths)
        assert not chromium.complaints()
    said = chromium.js("document.body.innerText")
    assert all(VIEWS[kind] in said for kind in views.kinds)
    assert chromium.js("document.querySelectorAll('.pairs tbody td').length") == 6
