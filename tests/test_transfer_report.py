"""Whether what helps one task helps others: planted twins and opposites come back, with the noise of both sides."""

from __future__ import annotations

import csv
import dataclasses
import json
from itertools import pairwise
from random import Random

import matplotlib
import numpy as np
import pytest
from large import large_study
from records import made
from test_figures import assert_publishable
from test_statistics import chain, measured

import roadmap.report
from roadmap.base.errors import Refused
from roadmap.config.identity import decisive
from roadmap.config.schema import TaskName
from roadmap.record.result import dump_result
from roadmap.record.study import write_plan
from roadmap.report.agreement import agreement_of
from roadmap.report.figure import STYLE
from roadmap.report.records import load
from roadmap.report.transfer import likeness, noise_of_both, notes, read_transfer
from roadmap.report.transfer.__main__ import main, render
from roadmap.report.transfer.figure import drawn
from roadmap.sweep.plan import plan
from roadmap.tasks.metrics import METRICS, score_named

STEPS = ("resnet", "patchify_stem", "depthwise", "inverted_bottleneck", "kernel_7", "gelu", "fewer_norms", "layer_norm")
FEWER = ("resnet", "depthwise", "gelu", "layer_norm")
TOP1 = dict(zip(STEPS, (60.0, 61.0, 57.0, 63.0, 68.0, 68.5, 66.0, 66.2), strict=True))
WORTH = {step: TOP1[step] - TOP1[before] for before, step in pairwise(STEPS)}


def planted(folder, task, steps, scores, begun=""):
    """The records of a study of a task whose runs have these scores: functions of the step's top-1."""
    chosen = [f"study.steps=[{','.join(steps)}]", "study.seeds=[0,1,2]", f"study.name={folder.name}"]
    found = plan(["+study=roadmap", "scale=atto", f"task={task}", *chosen, f"output={folder.parent}"])
    about, lines = found.study_plan(), []
    write_plan(folder, about)
    for run in about.runs.values():
        (point,) = [p for p in found.points if p.folder.path.name == run.name]
        step = run.row.variant.name
        model = decisive(point.experiment, "")["model"]
        result = made(run.name, step=point.experiment.step, seed=run.seed, data={"val": 1000}, model=model)
        values = {key: score(TOP1.get(step, 0.0)) + noise(step, run.seed) for key, (score, noise) in scores.items()}
        init = {"run": begun[step, run.seed], "study": "digits"} if begun else None
        result = dataclasses.replace(result, metric=METRICS[TaskName(task)], scores=values, init=init)
        lines.append(json.dumps(dump_result(result)))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return about


def small(seed, deviation=0.05):
    values = {}
    random = Random(seed)
    return lambda step, run: values.setdefault((step, run), random.gauss(0, deviation))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("transfer")
    about = planted(root / "digits", "classification", STEPS, {"top1": (lambda top1: top1, small(0))})
    begun = {(run.row.variant.name, run.seed): run.name for run in about.runs.values()}
    scores = {
        "box_ap": (lambda top1: top1 / 2, small(1)),
        "mask_ap": (lambda top1: 100 - top1, small(2)),
        "box_ap50": (lambda top1: top1, small(3)),
        "box_ap_small": (lambda top1: 50.0, small(4)),
    }
    planted(root / "detection", "detection", STEPS, scores, begun)
    planted(root / "segmentation", "segmentation", FEWER, {"miou": (lambda top1: top1, small(5))})
    return root


@pytest.fixture(scope="module")
def transfer(studies):
    return read_transfer([studies / name for name in ("digits", "detection", "segmentation")])


def side(transfer, key):
    return next(one for one in (transfer.first, *transfer.sides, *transfer.within) if one.metric.key == key)


def test_every_side_finds_what_is_planted(transfer):
    assert [one.metric.label for one in transfer.sides] == ["box AP", "mask AP", "mIoU"]
    assert [one.metric.label for one in transfer.within] == ["box AP50", "box AP small"]
    for i, effect in enumerate(transfer.asked):
        if effect.label.endswith(")"):
            continue
        worth = WORTH[effect.name]
        for key, planted in (
            ("top1", worth),
            ("box_ap", worth / 2),
            ("mask_ap", -worth),
            ("box_ap50", worth),
            ("box_ap_small", 0),
        ):
            found = side(transfer, key).estimates[i]
            assert found.value == pytest.approx(planted, abs=0.2), (effect.name, key)
            assert bool(found.resolved) == (abs(planted) > 0.3), (effect.name, key)


def test_a_study_of_fewer_steps_is_set_against_the_same_differences(transfer):
    """`depthwise` is compared with the ResNet there, so the first study's is too, in a row of its own."""
    labels = {effect.label: i for i, effect in enumerate(transfer.asked)}
    (label,) = [label for label in labels if label.startswith("depth conv (from ResNet")]
    for key in ("top1", "box_ap50", "miou"):
        assert side(transfer, key).estimates[labels[label]].value == pytest.approx(TOP1["depthwise"] - TOP1["resnet"], abs=0.2)
    assert side(transfer, "miou").estimates[labels["“patchify” stem"]] is None
    assert len(side(transfer, "miou").own) == 3


def test_twins_agree_opposites_disagree_and_few_steps_say_nothing(transfer):
    same, opposite, few = transfer.agreements
    assert (same.tau.value, opposite.tau.value, few) == (1.0, -1.0, None)
    assert same.steps == len(STEPS) - 1
    assert same.tau.low > 0.2 and opposite.tau.high < -0.2
    said = "\n".join(notes(transfer))
    assert "The runs of detection started from the weights of those of digits." in said
    assert "The runs of segmentation started from random weights, not from those of digits." in said
    assert "mIoU, segmentation, beside top-1, digits: no correlation: fewer than 5 differences" in said


def test_where_all_differences_are_equal_there_is_no_correlation(studies, tmp_path):
    """As where no network has learnt anything yet."""
    planted(tmp_path / "flat", "segmentation", STEPS, {"miou": (lambda top1: 2.7, lambda step, seed: 0.0)})
    assert read_transfer([studies / "digits", tmp_path / "flat"]).agreements == (None,)


def test_the_command_writes_tables_figure_and_page(studies, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    arguments = [str(studies / name) for name in ("digits", "detection", "segmentation")]
    monkeypatch.setattr("sys.argv", ["transfer", *arguments, "--to", str(folder)])
    assert main() == 0
    with (folder / "transfer.csv").open() as lines:
        rows = {(row["step"], row["parent"], row["score"]): row for row in csv.DictReader(lines)}
    assert float(rows["kernel_7", "inverted_bottleneck", "mask_ap"]["difference"]) == pytest.approx(-5, abs=0.2)
    assert rows["kernel_7", "inverted_bottleneck", "mask_ap"]["n"] == "3"
    assert rows["kernel_7", "inverted_bottleneck", "miou"]["difference"] == ""
    with (folder / "correlations.csv").open() as lines:
        taus = {row["score"]: row for row in csv.DictReader(lines)}
    assert taus.keys() == {"box_ap", "mask_ap"} and float(taus["mask_ap"]["tau"]) == -1
    text = (folder / "transfer.md").read_text()
    assert "Where box AP, detection changes" in text and "box AP small, detection" in text
    assert {path.name for path in folder.iterdir()} == {
        "correlations.csv", *(f"transfer.{kind}" for kind in ("csv", "md", "html", "svg", "png", "pdf"))
    }  # fmt: skip
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main() == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "Kendall's tau" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["transfer", *arguments, "--to", str(studies / "digits")])
    with pytest.raises(Refused, match="a study's folder or a file"):
        main()


def test_what_cannot_be_set_against_each_other_is_refused(studies, tmp_path):
    digits = studies / "digits"
    for folders in ([digits], [digits, digits]):
        with pytest.raises(Refused, match="needed: a study and others of the same steps, none twice"):
            read_transfer(folders)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("study.json", "records.jsonl"):
        (other / name).write_text((studies / "detection" / name).read_text().replace('"width": 40', '"width": 64'))
    with pytest.raises(Refused, match=r"other networks in row inverted_bottleneck: model\.width: 40 / 64"):
        read_transfer([digits, other])
    planted(tmp_path / "apart", "segmentation", ("stage_ratio", "kernel_9"), {"miou": (lambda top1: 50.0, small(6))})
    with pytest.raises(Refused, match="have no difference in common"):
        read_transfer([digits, tmp_path / "apart"])


def test_any_score_of_a_study_has_its_effects(studies):
    table = roadmap.report.effects(studies / "detection", score="mask_ap").set_index("effect")
    assert table.loc["kernel_7", "value"] == pytest.approx(-5, abs=0.2) and table.loc["kernel_7", "resolved"]
    assert "mask_ap_mean" in roadmap.report.table(studies / "detection", score="mask_ap")
    with pytest.raises(Refused, match=r"detection: its runs have no score 'mask_a'; .*mask_ap"):
        roadmap.report.effects(studies / "detection", score="mask_a")
    study = load(studies / "detection")
    assert study.scored_by("box_ap") is study
    assert [score_named(key).heading for key in ("mask_ap_large", "top5", "iou_3", "miou", "val_loss")] == [
        "mask AP large, %", "top-5, %", "IoU of 3, %", "mIoU, %", "val loss"
    ]  # fmt: skip


# --- statistics ------------------------------------------------------------------------------------------------------


def test_likeness_is_that_of_the_residuals():
    random = np.random.default_rng(0)
    one, beside = random.normal(size=(2, 400, 3))
    assert likeness(one + 7, 0.6 * one + 0.8 * beside) == pytest.approx(0.6, abs=0.05)
    assert likeness(one, -one) == pytest.approx(-1)
    assert likeness(one[:, :1], beside[:, :1]) == 0
    holed = one.copy()
    holed[0, 0] = np.nan
    assert likeness(holed, holed) == pytest.approx(1)


def test_the_noise_of_both_sides_is_drawn_as_far_together_as_it_goes_together():
    tables = [measured(np.random.default_rng(side).normal(size=(16, 20))) for side in (0, 1)]
    for together in (0.0, 0.8, -0.5):
        ours, theirs = noise_of_both(*tables, (chain(), chain()), together, 2000)
        found = [np.corrcoef(one, other)[0, 1] for one, other in zip(ours.T, theirs.T, strict=True)]
        assert np.mean(found) == pytest.approx(together, abs=0.07)


def test_the_noise_of_the_other_side_counts_too():
    twins, none = np.arange(10.0), np.zeros((2000, 10))
    beside = np.random.default_rng(0).normal(0, 3, none.shape)
    assert agreement_of(twins, twins, none).tau.low == 1.0
    for noise in ((beside, none), (none, beside)):
        assert agreement_of(twins, twins, *noise).tau.low < 0.95


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize(("correlation", "noise"), [(0.0, 0.5), (0.0, 1.0), (0.6, 0.5)])
def test_the_interval_of_a_correlation_holds_where_both_sides_are_noisy(correlation, noise, shared, storm, figure):
    """Steps' true differences have deviation 1 in both tasks; both are measured with a standard error of `noise`, partly shared.

    Where noise is as large as what it hides and mostly shared, not all that it adds to a correlation is given back.
    """
    random, studies, rows, seeds = np.random.default_rng(12), 600 if storm else 60, 16, 3
    true, covered, naive, deviation = 2 / np.pi * np.arcsin(correlation), 0, 0, noise * (seeds / 2) ** 0.5
    for _ in range(studies):
        steps = random.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], rows - 1).T
        one, beside = deviation * random.normal(size=(2, rows, seeds))
        tables = measured(one), measured(shared * one + (1 - shared**2) ** 0.5 * beside)
        differences = [
            true_ones + chain(rows) @ table.noise.values.mean(1) for true_ones, table in zip(steps, tables, strict=True)
        ]
        alike = likeness(*(table.noise.residuals for table in tables))
        for together in (alike, 0.0):
            drawn = noise_of_both(*tables, (chain(rows), chain(rows)), together, 400)
            tau = agreement_of(*differences, *drawn).tau
            held = tau.low <= true <= tau.high
            covered, naive = covered + held * (together == alike), naive + held * (together != alike)
    shares = f"covered {covered / studies:.3f}, as if apart {naive / studies:.3f}"
    figure(f"correlation {correlation}, noise {noise}, shared {shared}: {shares}")
    least = 0.82 if shared and noise == 1.0 else 0.9
    assert covered / studies > least - 0.08 * (not storm)
    assert not shared or covered >= naive


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two studies of thirty rows with long names."""
    root = tmp_path_factory.mktemp("many")
    return read_transfer([large_study(root / name, 30, kind="roadmap") for name in ("one", "other")])


def test_nothing_is_cut_off_in_the_figure(transfer, many):
    with matplotlib.rc_context(STYLE):
        for found in (transfer, many):
            assert_publishable(drawn(found))


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_any_width(transfer, tmp_path, chromium, width):
    chromium.width(width)
    (tmp_path / "transfer.html").write_text(render(transfer))
    chromium.open(f"file://{tmp_path}/transfer.html")
    assert chromium.js("document.documentElement.scrollWidth") <= width
    shown = sum(found is not None for one in (transfer.first, *transfer.sides) for found in one.estimates)
    assert chromium.js("document.querySelectorAll('.view .bar .worth').length") == shown
    assert not chromium.complaints()
    assert "Does a step that helps one task help the others?" in chromium.js("document.body.innerText")
