"""Alarming results explain themselves: runs at chance, and changes that a short run can hardly show."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from conftest import QUICK
from records import made
from test_report import VALUES, study
from torch import nn

from roadmap.record.alarms import alarms, at_chance, layer_scale_reached
from roadmap.record.folder import RunFolder
from roadmap.record.result import Metric
from roadmap.report.columns import markdown
from roadmap.report.report import Report
from roadmap.run import __main__ as door
from roadmap.train.evaluate import batch_statistics

DATA = {"classes": 10, "train": 1000, "val": 700}


def run(score, norm="batch", epochs=1, **about):
    model = {"norm": norm, "layer_scale": about.pop("layer_scale", None)}
    recipe = {"batch_size": 50, "epochs": epochs, "lr": 1e-3, "lr_batch": 50}
    return made(top1=score, model=model, recipe=recipe, data=DATA | about.pop("data", {}), **about)


def test_chance_is_what_guessing_would_score():
    assert [at_chance(run(score)) for score in (2.0, 10.0, 12.2, 12.4, 50.0)] == [True, True, True, False, False]
    assert not at_chance(run(100.0, data={"classes": 2, "val": 4}))  # so few images tell nothing
    assert not at_chance(made(top1=1.0))  # an older record
    assert not at_chance(made(status="diverged", data=DATA))


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (run(10.0), "at chance: guessing gives 10.0 %; likely by BatchNorm's running statistics, .* after 20 updates"),
        (run(10.0, score_by_batch=42.0), "by BatchNorm's .*: each batch's own statistics give top-1 42.00 %"),
        (run(10.0, score_by_batch=11.0), "and each batch's own statistics give top-1 11.00 %: it has not learnt"),
        (run(10.0, "layer"), "at chance: guessing gives 10.0 %$"),
        (run(10.0, epochs=100), "at chance: guessing gives 10.0 %$"),
        (run(50.0, "layer", layer_scale=1e-6), "behind a layer scale of 1e-06, which 20 updates raise to about 0.01 at most"),
    ],
)
def test_a_run_says_why(result, says):
    (line,) = alarms(result)
    assert re.search(says, line)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (
            {"miou": 30.9, "iou_nucleus": 0.0, "iou_border": 0.0, "iou_background": 92.8},
            "no pixel of a class but background is found",
        ),
        ({"miou": 40.0, "iou_nucleus": 20.0, "iou_border": 0.0, "iou_background": 92.8}, ""),
        ({"miou": 99.0, "iou_background": 99.0}, ""),  # the only class that there is
        ({"box_ap": 0.1, "box_ap50": 0.6}, "box AP at an overlap of one half is 0.6 %"),
        ({"box_ap": 2.0, "box_ap50": 6.0}, ""),
    ],
)
def test_a_detector_or_segmenter_that_learnt_nothing_says_so(scores, says):
    key = next(iter(scores))
    result = run(0.0)
    result = replace(result, metric=Metric(key, key, "%", True), scores=scores)
    assert at_chance(result) == bool(says)
    assert [line for line in alarms(result) if says and says in line and "after 20 updates" in line] == alarms(result)


def test_a_layer_scale_that_had_time_to_grow_is_no_alarm():
    assert alarms(run(50.0, "layer", epochs=20, layer_scale=1e-6)) == []
    assert layer_scale_reached(run(50.0, layer_scale=0.1)) is None
    assert layer_scale_reached(run(50.0)) is None


def test_the_table_and_its_notes_say_it(tmp_path):
    def change(lines):
        for line in lines:
            line["data"] = DATA
            line["recipe"] = {"batch_size": 50, "epochs": 1, "lr": 1e-3, "lr_batch": 50}
            line["model"] = {"norm": "batch", "kernel_size": 3 if line["step"]["name"] == "d" else 7, "layer_scale": 1e-6}

    folder = study(tmp_path, {**VALUES, "a": [10.0, 10.1, 9.9], "b": [10.0, 61.0, 62.0]}, change=change)
    report = Report.read(folder)
    text = markdown(report)
    assert "10.00 ± 0.10 (at chance)" in text
    assert "(1 at chance)" in text
    assert "At chance, no better than guessing: a, 3 runs, likely by BatchNorm's running statistics" in text
    assert "Can hardly show, at so few updates: b, c, side, d." in text
    assert "at_chance" in report.table


@pytest.mark.parametrize("toggle", ["block_part", "layer_scale", "drop_path"])
def test_every_change_behind_a_layer_scale_is_said_to_hardly_show(tmp_path, toggle):
    def change(lines):
        for line in lines:
            line |= {"data": DATA, "recipe": {"batch_size": 50, "epochs": 1, "lr": 1e-3, "lr_batch": 50}}
            line["model"] = {"norm": "batch", "kernel_size": 7, "layer_scale": 1e-6}

    folder = study(tmp_path, VALUES, change=change)
    plan = (folder / "study.json").read_text().replace('["kernel_size"]', f'["{toggle}"]')
    (folder / "study.json").write_text(plan)
    assert "Can hardly show, at so few updates: b, c, side, d." in markdown(Report.read(folder))


def test_batch_statistics_leave_no_trace():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = 5 + torch.randn(8, 3, 4, 4)
    with batch_statistics(network) as any_norms:
        assert any_norms
        assert network[0](images).mean().abs() < 1e-5
    assert network[0](images).mean() > 4
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with batch_statistics(nn.Linear(1, 1)) as any_norms:
        assert not any_norms


def test_a_run_of_a_few_updates_measures_the_reason(tmp_path, monkeypatch, capsys):
    words = [*QUICK, "+step=resnet", "recipe.epochs=1", "recipe.warmup_epochs=0", f"output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["run", *words])
    monkeypatch.chdir(tmp_path)
    assert door.main() == 0
    said = capsys.readouterr().out
    (file,) = tmp_path.glob("single/runs/*/result.json")
    result = RunFolder(file.parent).result()
    assert at_chance(result)
    assert result.score_by_batch > 20
    assert f"each batch's own statistics give top-1 {result.score_by_batch:.2f} %" in said
    assert json.loads(file.read_text())["score_by_batch"] == result.score_by_batch
