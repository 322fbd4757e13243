"""The two forms of the record, `result.json` and `study.json`: of this version and the one before, or refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from records import made, result_file, write
from test_report import VALUES, study

from roadmap.base.errors import Refused
from roadmap.config.schema import StepConfig
from roadmap.config.steps import known_steps
from roadmap.record import folder as folders
from roadmap.record import provenance
from roadmap.record.folder import RunFolder
from roadmap.record.result import dump_result, load_result
from roadmap.record.study import dump_plan, find_plan, load_plan, read_plan, write_plan
from roadmap.report import effects, frame, table
from roadmap.report.records import load
from roadmap.report.write import write_report

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "experiments" / "digits"


def test_a_result_is_read_as_it_was_written(tmp_path):
    with RunFolder(tmp_path / "gelu-s0-1").claimed() as folder:
        result = made("gelu-s0-1", 50.0, scores={"top5": 90.0}, model={"kernel_size": 7}, versions={"torch": "2"}, seconds=1.5)
        folder.write_result(result)
    assert folder.result() == result
    assert (result.score, result.final, result.done) == (50.0, "top-1 50.00 %", True)
    written = json.loads((folder.path / "result.json").read_text())
    assert written["format"] == 2
    assert written["metric"] == {"key": "top1", "label": "top-1", "unit": "%", "higher_is_better": True}
    assert written["scores"] == {"top1": 50.0, "top5": 90.0}


def test_a_result_of_the_version_before_is_read_in_today_s_form(tmp_path):
    """Its scores stood beside everything else, and it held a difference that depends on which other runs were done."""
    old = {
        "run": "gelu-s0-1", "study": "digits", "scale": "atto", "seed": 0, "status": "done",
        "step": {"name": "gelu", "parent": "kernel_7", "label": "ReLU → GELU", "group": ""},
        "top1": 50.0, "top5": 90.0, "top1_without_ema": None, "val_loss": 1.0, "train_loss": 1.5, "delta_top1": 3.0,
        "gmacs": 0.01, "seconds": 2.0, "model": {"kernel_size": 7},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(old))
    result = RunFolder(tmp_path).result()
    assert result.scores == {"top1": 50.0, "top5": 90.0, "top1_without_ema": None, "val_loss": 1.0}
    assert (result.step.parent, result.train_loss, result.model) == ("kernel_7", 1.5, {"kernel_size": 7})
    assert load_result(dump_result(result), tmp_path) == result
    diverged = load_result({**old, "status": "diverged", "reason": "the loss is nan", "top1": None}, tmp_path)
    assert (diverged.scores, diverged.score, diverged.reason) == ({}, None, "the loss is nan")


def test_a_record_says_which_cpu_it_was_made_on_and_older_ones_stay_as_they_are(tmp_path, monkeypatch):
    result = made("gelu-s0-1", 50.0, cpu="A Processor", instructions="AVX2")
    written = dump_result(result)
    assert (written["cpu"], written["instructions"]) == ("A Processor", "AVX2")
    assert load_result(written, tmp_path) == result
    older = {key: value for key, value in written.items() if key not in ("cpu", "instructions")}
    assert dump_result(load_result(older, tmp_path)) == older  # its fingerprint, by which uploads are known, stays too
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")
    for content, name in (
        ("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 9R14\nflags : avx2\n", "AMD EPYC 9R14"),
        ("processor : 0\nBogoMIPS : 108.00\nModel : Raspberry Pi 5 Model B\n", "Raspberry Pi 5 Model B"),
    ):
        (tmp_path / "cpuinfo").write_text(content)
        assert provenance.cpu_model() == name
    (tmp_path / "cpuinfo").write_text("")
    assert provenance.cpu_model() != ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "of format 3; roadmap .* reads formats 1 and 2"),
        ({"format": "new"}, "of format new"),
        ({"surprise": 1}, "surprise should not be in it"),
        ({"metric": None}, "metric should be in it"),
    ],
)
def test_a_result_of_another_form_is_refused_with_its_file(tmp_path, change, message):
    content = {
        key: value for key, value in {**dump_result(made(top1=1.0)), **change}.items() if value is not None or key != "metric"
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match=f"result.json: .*{message}"):
        RunFolder(tmp_path).result()


def changed(content, path, value):
    """A copy of a record with this value at the place that `path` names, a.b.0.c."""
    place = copy = json.loads(json.dumps(content))
    *before, last = path.split(".")
    for key in before:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("scores.top1", float("nan"), "scores.top1=nan: must be finite, or null"),
        ("scores.top1", float("inf"), "scores.top1=inf: must be finite, or null"),
        ("scores.top1", "high", "scores.top1='high': must be a number, or null"),
        ("scores.top1", True, "scores.top1=True: must be a number, or null"),
        ("gmacs", float("nan"), "gmacs=nan: must be finite, or null"),
        ("seconds", "long", "seconds='long': must be a number, or null"),
        ("seed", "zero", "seed='zero': must be a whole number"),
        ("data", None, "data=None: must be an object"),
        ("step", None, "step=None: must be an object"),
        ("metric", {"key": "top1"}, "metric={'key': 'top1'}: must have a key and a label"),
        ("status", "doen", "status=doen: allowed: running, done, diverged. Did you mean 'done'?"),
    ],
)
def test_a_value_that_a_result_cannot_have_is_refused_with_its_file_and_run(path, value, said):
    content = dump_result(made("gelu-s0-1", 50.0, seconds=1.0, gmacs=1.0))
    with pytest.raises(Refused, match=re.escape(f"place: gelu-s0-1: {said}")):
        load_result(changed(content, path, value), "place")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rows.0.name", None, "rows: name=None: each must have a name of its own"),
        ("rows.1.name", "resnet", "rows: name='resnet': each must have a name of its own"),
        ("rows.1.parent", "nobody", "rows: stage_ratio: parent='nobody': there is no such row"),
        ("effects.0.weights", None, "effects: stage_ratio: weights=None: must be a number for each"),
        ("effects.0.weights.resnet", "x", "must be a number for each of its rows"),
        ("question", None, "not the plan of a study"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused_with_its_place(path, value, said):
    content = json.loads((DIGITS / "study.json").read_text())
    with pytest.raises(Refused, match=re.escape(said)):
        load_plan(changed(content, path, value), DIGITS / "study.json")


def test_lines_of_records_are_counted_and_may_hold_any_letter(tmp_path):
    for name in ("study.json", "records.jsonl"):
        shutil.copy(DIGITS / name, tmp_path)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join([lines[0].replace('"reason": ""', '"reason": "\u2028"'), *lines[1:]]) + "\n")
    assert len(load(tmp_path).results) == 80
    file.write_text(f"{lines[0]}\n{lines[1][:500]}\n")
    with pytest.raises(Refused, match=r"records.jsonl: not readable: line 2: "):
        load(tmp_path)
    file.write_text(lines[0].replace('"history": [[', '"history": [[1.0], ['))
    with pytest.raises(Refused, match=r"history=\[\[1.0\].* must be three numbers for each epoch"):
        load(tmp_path)
    file.write_text(lines[0].replace('"history": [[', '"history": [["x", null, 1.0], ['))
    with pytest.raises(Refused, match=r"history=\[\['x'.* must be three numbers for each epoch"):
        load(tmp_path)


def test_epochs_of_another_form_are_refused_or_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    good = '{"epoch": 0, "train_loss": 1.0, "top1": 50.0}\n'
    for torn in ("3\n", "[" * 100_000, '{"epoch": 1, "tr'):
        folder.history_file.write_text(good + torn)
        assert folder.curves("top1") == [[1.0, None, 50.0]]
    folder.history_file.write_text(good.replace("1.0", '"x"'))
    with pytest.raises(Refused, match=r"history\.jsonl: train_loss='x': must be a number, or null"):
        folder.curves("top1")


def test_what_is_nested_without_end_is_no_record(tmp_path):
    for name in ("study.json", "records.jsonl"):
        shutil.copy(DIGITS / name, tmp_path)
    for name in ("records.jsonl", "study.json"):
        (tmp_path / name).write_text("[" * 100_000)
        with pytest.raises(Refused, match=f"{name}.*nested too deeply"):
            load(tmp_path)
    (tmp_path / "result.json").write_text("[" * 100_000)
    assert RunFolder(tmp_path).result() is None


def test_a_reader_writes_nothing_and_the_writer_sets_a_torn_result_aside(tmp_path):
    file = tmp_path / "result.json"
    file.write_text('{"status": "do')
    assert RunFolder(tmp_path).result() is None
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    with RunFolder(tmp_path).claimed() as folder:
        folder.write_result(made(top1=1.0))
    assert RunFolder(tmp_path).result() == made(top1=1.0)
    assert (tmp_path / "result.json.corrupt").read_text() == '{"status": "do'


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = read_plan(DIGITS)
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert (tmp_path / "study.json").read_bytes() == (DIGITS / "study.json").read_bytes()
    assert [row.variant.name for row in plan.rows][:2] == ["resnet", "stage_ratio"]
    assert len(plan.runs) == len(plan.rows) * len(plan.seeds)
    first = plan.runs[plan.rows[1].runs[2]]
    assert (first.seed, first.index, first.row.variant.parent) == (plan.seeds[2], 1, "resnet")


def test_a_plan_of_another_form_is_refused_with_its_file(tmp_path):
    content = dump_plan(read_plan(DIGITS))
    old = {key: value for key, value in content.items() if key not in ("format", "metric")}
    assert load_plan(old, tmp_path) == read_plan(DIGITS)
    for change, message in (
        ({"format": 3}, "of format 3"),
        ({"seeds": None}, "not the plan of a study"),
        ({"more": 1}, "not the plan"),
    ):
        with pytest.raises(Refused, match=message):
            load_plan({**content, **change}, tmp_path)
    assert find_plan(tmp_path) is None
    (tmp_path / "study.json").write_text("{")
    assert find_plan(tmp_path) is None


def test_the_committed_studies_are_in_today_s_form():
    for folder in (ROOT / "experiments").glob("*/study.json"):
        records = [json.loads(line) for line in (folder.parent / "records.jsonl").read_text().splitlines()]
        assert {content["format"] for content in [json.loads(folder.read_text()), *records]} == {2}


# --- pandas ----------------------------------------------------------------------------------------------------------


def test_a_frame_has_everything_that_the_records_have(tmp_path):
    table = frame(DIGITS)
    assert len(table) == len(load(DIGITS).results)
    assert {"row", "step", "seed", "status", "top1", "top5", "val_loss", "gmacs", "params_m", "seconds", "device"} <= {*table}
    assert {"model.kernel_size", "recipe.lr", "data.fingerprint", "versions.torch", "git.commit", "history"} <= {*table}
    assert table.groupby("row")["model.kernel_size"].first()["kernel_5"] == 5
    assert list(frame(study(tmp_path, VALUES))["step"]) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["side"] * 3 + ["d"] * 3


def test_a_frame_of_single_runs_needs_no_study(tmp_path):
    for seed, score in enumerate((50.0, 60.0)):
        run = tmp_path / "runs" / f"gelu-s{seed}-1"
        run.mkdir(parents=True)
        write(run, made(run.name, score, seed=seed))
        (run / "history.jsonl").write_text('{"epoch": 0, "train_loss": 2.0, "val_loss": 1.0, "top1": 40.0}\n')
    table = frame(tmp_path)
    assert list(table["top1"]) == [50.0, 60.0]
    assert list(table["row"]) == ["gelu", "gelu"]
    assert table["history"][0] == [[2.0, 1.0, 40.0]]
    with pytest.raises(Refused, match="no run that is done"):
        frame(tmp_path / "runs")


def unplanned(folder, *runs):
    """Single runs: (step, seed, score, kernel size, learning rate) each."""
    steps = known_steps()
    for number, (step, seed, score, kernel, lr) in enumerate(runs):
        run = folder / "runs" / f"{step}-s{seed}-{number:08x}"
        run.mkdir(parents=True)
        about = StepConfig(step, steps[step].parent, steps[step].label)
        model = {"kernel_size": kernel, "activation": "gelu" if step == "gelu" else "relu", "depthwise": step != "resnet"}
        data = {"source": "digits", "image_size": 32, "fingerprint": "f", "train": 10 + number}
        recipe = {"lr": lr, "epochs": 3}
        result = made(run.name, score, step=about, seed=seed, model=model, data=data, recipe=recipe, recipe_name="short")
        write(run, result)
    return folder


def compared(folder):
    return {row.variant.name: (row.variant.parent, row.toggles) for row in load(folder).plan.rows}


def test_runs_that_no_study_planned_are_rows_by_step(tmp_path):
    values = {"resnet": 50.0, "kernel_7": 60.0, "kernel_9": 61.0, "gelu": 62.0}
    folder = unplanned(tmp_path, *((step, seed, value + seed, 3, 0.1) for step, value in values.items() for seed in (0, 1, 2)))
    assert compared(folder) == {
        "resnet": (None, ()),
        "kernel_7": ("resnet", ("depthwise",)),
        "kernel_9": ("kernel_7", ()),
        "gelu": ("kernel_7", ("activation",)),
    }
    found = effects(folder).set_index("effect")
    assert dict(found["value"]) == {"kernel_7": 10.0, "kernel_9": 1.0, "gelu": 2.0}
    assert found["resolved"].to_list() == [True, False, False]
    assert not load(folder).plan.row("kernel_9").variant.adopted
    _, said = write_report(folder)
    assert "No study planned these runs" in said
    assert "| ReLU → GELU" in (folder / "table.md").read_text()
    before = (folder / "table.md").read_bytes()
    shutil.rmtree(folder / "runs")  # and from the records alone
    write_report(folder)
    assert (folder / "table.md").read_bytes() == before


def test_runs_under_other_heads_are_rows_of_their_own(tmp_path):
    folder = unplanned(tmp_path, ("gelu", 0, 50.0, 3, 0.1), ("gelu", 0, 60.0, 3, 0.1))
    for file, channels in zip(sorted(folder.glob("runs/*/result.json")), (32, 64), strict=True):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"head": {"channels": channels}}))
    assert list(compared(folder)) == ["gelu head.channels=32", "gelu head.channels=64"]


def test_runs_that_no_study_planned_are_rows_by_settings_too(tmp_path):
    runs = [(step, 0, 50.0, kernel, lr) for step in ("kernel_7", "gelu") for kernel in (7, 3) for lr in (0.1, 0.02)]
    folder = unplanned(tmp_path, *runs, ("resnet", 0, 50.0, 3, 0.1))
    known, k3, k7 = compared(folder), "kernel_7 model.kernel_size=3", "kernel_7 model.kernel_size=7"
    assert list(known)[:2] == ["resnet recipe.lr=0.1", "kernel_7 model.kernel_size=3 recipe.lr=0.02"]
    assert known[f"{k3} recipe.lr=0.1"] == ("resnet recipe.lr=0.1", ("depthwise",))
    assert known[f"{k7} recipe.lr=0.1"] == (f"{k3} recipe.lr=0.1", ("kernel_size",))
    assert known[f"{k7} recipe.lr=0.02"] == (f"{k3} recipe.lr=0.02", ("kernel_size",))
    for kernel in (3, 7):
        for lr in (0.1, 0.02):
            row = f"model.kernel_size={kernel} recipe.lr={lr}"
            assert known[f"gelu {row}"] == (f"kernel_7 {row}", ("activation",))
    assert set(frame(folder)["row"]) == set(known)
    assert [row.variant.label for row in load(folder).plan.rows][-1] == "ReLU → GELU, kernel_size=7, recipe.lr=0.1"
    write(folder / "runs" / "resnet-s0-00000008", replace(made("resnet-s0-00000008", 1.0), scale="tiny"))
    with pytest.raises(Refused, match="their scale differs: atto, tiny"):
        load(folder)
    assert len(frame(folder)) == 9


def test_a_seed_that_a_row_has_not_is_missing(tmp_path):
    folder = unplanned(tmp_path, ("resnet", 0, 50.0, 3, 0.1), ("resnet", 4, 52.0, 3, 0.1), ("gelu", 4, 60.0, 3, 0.1))
    rows = table(folder).set_index("step")
    assert (rows.loc["gelu", "n"], rows.loc["gelu", "missing"], rows.loc["resnet", "missing"]) == (1, 1, 0)
    assert effects(folder)["value"].to_list() == [9.0]


def test_effects_are_those_of_the_report(tmp_path):
    table = effects(study(tmp_path, VALUES))
    assert list(table) == ["effect", "value", "low", "high", "p", "p_holm", "resolved"]
    found = table.set_index("effect")
    assert list(found["value"]) == [10.0, 0.5, 0.5, 9.5]
    assert list(found["resolved"]) == [True, False, False, True]
    assert found["low"]["b"] < 10 < found["high"]["b"]


def test_frames_need_no_torch():
    code = (
        f"import sys, roadmap.report as r; r.frame({str(DIGITS)!r}), r.effects({str(DIGITS)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT).returncode == 0


def test_runs_that_differ_in_the_recipe_are_not_comparable():
    one = made("a-s0-1", 1.0, recipe={"lr": 1})
    assert one.comparable(made("b-s1-1", 2.0, seed=1, recipe={"lr": 1}, model={"kernel_size": 3}))
    assert not one.comparable(replace(one, recipe={"lr": 2}))
    assert result_file(json.dumps({**dump_result(one), "history": []})) == json.dumps(dump_result(one))


def test_a_folder_of_runs_is_listed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    runs, listings = tmp_path / "runs", []
    monkeypatch.setattr(folders, "_by_run", lambda folder, look=folders._by_run: listings.append(folder) or look(folder))
    assert folders.runs_of(runs, "0-aaaaaaaa") == []
    for name in ("gelu-s0-aaaaaaaa", "mine-s0-aaaaaaaa", "gelu-s1-aaaaaaaa"):
        (runs / name).mkdir(parents=True)
    assert [path.name for path in folders.runs_of(runs, "0-aaaaaaaa")] == ["gelu-s0-aaaaaaaa", "mine-s0-aaaaaaaa"]
    (runs / "gelu-s2-bbbbbbbb").mkdir()  # perhaps within the same tick of the file system's clock
    assert [path.name for path in folders.runs_of(runs, "2-bbbbbbbb")] == ["gelu-s2-bbbbbbbb"]
    os.utime(runs, (1, 1))
    listings.clear()
    assert all(folders.runs_of(runs, f"{seed}-aaaaaaaa") for seed in (0, 1) * 50)
    assert len(listings) == 1
    (runs / "gelu-s0-aaaaaaaa").rmdir()
    assert [path.name for path in folders.runs_of(runs, "0-aaaaaaaa")] == ["mine-s0-aaaaaaaa"]
