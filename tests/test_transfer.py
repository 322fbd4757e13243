"""Runs that start from another study's: each from the one of its own row and seed, or refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from runs import executed
from safetensors.torch import load_file

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.record.study import dump_plan
from roadmap.report.notes import notes
from roadmap.report.report import Report
from roadmap.report.transfer import read_transfer, starts
from roadmap.run.start import resolved
from roadmap.sweep.plan import plan
from roadmap.sweep.preview import preview

ROWS = ["+study=roadmap", "study.steps=[resnet,gelu]", "study.seeds=[0,1]"]
CLASSIFIED = [
    *ROWS,
    *QUICK,
    "data=digits",
    "data.image_size=32",
    "recipe.epochs=1",
    "recipe.warmup_epochs=0",
    "study.name=digits",
]
DENSE = [
    *(word for word in QUICK if word != "recipe=smoke"),
    "task=segmentation", "head.channels=16", "head.aux_channels=16", "recipe.updates=2", "recipe.warmup_epochs=0",
    "recipe.batch_size=4", "data.workers=0", "study.name=scenes",
]  # fmt: skip


def train(found):
    for point in found.points:
        executed(point.experiment, point.fingerprint)
    found.write()


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """The folder of a finished study of classification, two rows with two seeds."""
    found = plan([*CLASSIFIED, f"output={tmp_path_factory.mktemp('parent')}"])
    train(found)
    return found.folder


def dense(parent, tmp_path, *overrides):
    return plan([*ROWS, *DENSE, f"study.start={parent}", f"output={tmp_path}", *overrides])


@pytest.fixture
def copy(parent, tmp_path):
    """The same study in a folder that a test may spoil."""
    return shutil.copytree(parent, tmp_path / "copy" / "digits")


def test_each_run_starts_from_that_of_its_row_and_seed_on_every_engine(parent, tmp_path):
    found = dense(parent, tmp_path)
    for row, points in found.rows.items():
        for seed, point in enumerate(points):
            after = Path(point.experiment.after)
            assert after.parent == parent / "runs" and after.name.startswith(f"{row}-s{seed}-")
            assert f"after='{after}'" in point.command and f"study.start='{parent}'" in point.command
            assert resolved(compose([*point.command])).after == point.experiment.after
    assert "resnet of " + str(parent) in preview(found, found.points)
    scratch = plan([*ROWS, *DENSE, f"output={tmp_path}"])
    assert {p.folder.path.name for p in found.points}.isdisjoint(p.folder.path.name for p in scratch.points)
    assert all("start.weights" not in row.toggles for row in found.study_plan().rows)
    assert dump_plan(found.study_plan()) == dump_plan(
        dataclasses.replace(scratch.study_plan(), rows=found.study_plan().rows)
    )  # apart from the runs' names


def test_a_single_run_takes_that_of_its_step_and_seed_wherever_it_is_called(parent, tmp_path, monkeypatch):
    monkeypatch.chdir(parent)
    alone = resolved(compose(["+step=gelu", *DENSE, "study.start=../digits", "seed=1", f"output={tmp_path}"]))
    point = dense(Path("../digits"), tmp_path).rows["gelu"][1]
    assert Path(alone.after).samefile(point.experiment.after)
    monkeypatch.chdir("/")
    assert Path(resolved(compose([*point.command])).after).is_dir()


def test_runs_are_trained_from_the_others_weights_and_say_so(parent, tmp_path):
    found = dense(parent, tmp_path, "recipe.lr=1e-12", "recipe.min_lr=0", "study.seeds=[0]")
    point = found.rows["gelu"][0]
    line = [sys.executable, "-m", "roadmap.run", *point.command]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no effect" not in done.stderr
    result = point.folder.result()
    assert result.init == {"run": Path(point.experiment.after).name, "study": "digits"}
    theirs, ours = (load_file(Path(place) / "weights.safetensors") for place in (point.experiment.after, point.folder.path))
    kept = [name for name in theirs if name.startswith("stages") and name.endswith("weight")]
    assert kept
    for name in kept:
        torch.testing.assert_close(ours[f"backbone.{name}"], theirs[name], atol=1e-5, rtol=0)
    train(found)
    found = read_transfer([parent, found.folder])
    assert starts(found.first, found.sides[0])
    assert [side.estimates[0] is not None for side in (found.first, *found.sides)] == [True, True]
    report = Report.read(found.sides[0].study.folder)
    assert "Each run started from the weights of the run of its own row and seed in digits." in notes(
        report.study, report.analysis
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.steps=[resnet,layer_norm]"], r"study\.start=.*digits: has no row 'layer_norm'; .*resnet"),
        (["study.seeds=[0,2]"], r"study\.start=.*digits: has no seed 2; its seeds are 0, 1"),
        (["scale=femto"], r"resnet-s0-\w+ is of scale atto; this run is of scale femto"),
        (["model.width=16"], r"resnet-s0-\w+ is of another network, there / here: model\.width: 8 / 16"),
        (["model.activation=gelu"], r"is of another network, there / here: model\.activation: relu / gelu"),
        (["init=timm:resnet50"], r"init=timm:resnet50: must be null beside study\.start"),
    ],
)
def test_what_the_other_study_has_not_is_refused(parent, tmp_path, overrides, message):
    with pytest.raises(Refused, match=message):
        dense(parent, tmp_path, *overrides)


def test_a_folder_without_a_study_and_runs_without_weights_are_refused(copy, tmp_path):
    with pytest.raises(Refused, match=r"nowhere: no study"):
        dense(tmp_path / "nowhere", tmp_path)
    (weights,) = (copy / "runs").glob("gelu-s1-*/weights.safetensors")
    weights.unlink()
    with pytest.raises(Refused, match=rf"{weights}: not there; a run keeps its weights with runtime\.keep_weights=true"):
        dense(copy, tmp_path)
    record = weights.with_name("result.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "diverged"}))
    with pytest.raises(Refused, match="no finished run: it diverged"):
        dense(copy, tmp_path)
    record.unlink()
    with pytest.raises(Refused, match="no finished run"):
        dense(copy, tmp_path)


def test_a_start_of_rows_or_of_another_study_beside_it_is_refused(parent, tmp_path):
    with pytest.raises(Refused, match=r"after=elsewhere/runs/gelu-s0-1a2b3c4d: must be null beside study\.start"):
        compose(["+step=gelu", f"study.start={parent}", "after=elsewhere/runs/gelu-s0-1a2b3c4d"])
    rows = "study.rows=[{name: a, step: gelu},{name: b, step: gelu, after: a}]"
    with pytest.raises(Refused, match=r"study\.start=.*: must be null beside after, by which study.rows say what b starts from"):
        dense(parent, tmp_path, rows)
