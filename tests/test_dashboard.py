"""W&B's view, report and sweep file, and TensorBoard: what they name is what runs log, and what is read back is the record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from roadmap import config, dashboard
from roadmap.errors import Refused
from roadmap.mirror import SUMMARY
from roadmap.record import RunFolder
from roadmap.report.records import load
from roadmap.report.statistics import analyse
from roadmap.report.table import csv_rows, table_rows
from roadmap.steps import CONF, known_steps
from roadmap.tracking import tracker

DIGITS = Path(__file__).parent.parent / "experiments" / "digits"
SWEEP = CONF / "wandb-sweep.yaml"


@pytest.fixture
def folder(tmp_path):
    for name in ("study.json", "records.jsonl"):
        shutil.copy(DIGITS / name, tmp_path / name)
    return tmp_path


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["dashboard", *map(str, arguments)])
    return dashboard.main()


def test_the_specification_names_what_runs_log(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    files = [folder / "one.json", folder / "two.json"]
    for file in files:
        assert call(monkeypatch, folder, "--json", file) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    specification = json.loads(files[0].read_text())
    assert set(specification) == {"view", "report"}
    text = json.dumps(specification["view"])
    summaries = set(re.findall(r"summary:(\w+)", text))
    assert {"top1", "gmacs", "delta_top1", "images_per_second"} <= summaries <= {*SUMMARY, "step_index", "row_index"}
    for word in ("step.value.name", "step_index", "train_loss", "val_loss", "Run Comparer"):
        assert word.lower().replace(" ", "") in text.lower().replace(" ", "")
    run = load(DIGITS).results[0]["run"]
    assert run in text
    assert json.loads((DIGITS / "study.json").read_text())["question"] in json.dumps(specification["report"])


def test_the_roadmap_s_table_is_read_back_from_w_and_b(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    assert call(monkeypatch, folder, "--offline") == 0
    assert call(monkeypatch, folder, "--offline") == 0  # once
    (offline,) = folder.rglob("offline-run-*")
    (table,) = offline.rglob("*.table.json")
    content = json.loads(table.read_text())
    study = load(folder)
    analysis = analyse(study)
    read, exact = table_rows(study, analysis), csv_rows(study, analysis)
    assert [row[0] for row in content["data"]] == [row["label"] for row in read]
    column = content["columns"].index("top1_mean")
    assert [row[column] for row in content["data"]] == [row["top1_mean"] for row in exact]
    reader = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(offline)]
    said = subprocess.run(reader, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.count('"row_number"') >= 16
    assert "sep. d.s. conv" not in said or "table" in said


def test_without_a_login_nothing_is_saved(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    before = sorted(folder.rglob("*"))
    with pytest.raises(Refused, match="not logged in"):
        call(monkeypatch, folder)
    assert sorted(folder.rglob("*")) == before


def test_every_command_of_the_sweep_file_is_a_run():
    """Written out as W&B's agent does: `${args_no_hyphens}` becomes key=value."""
    sweep = OmegaConf.to_container(OmegaConf.load(SWEEP), resolve=False)
    assert sweep["parameters"]["+step"]["values"] == list(known_steps())
    assert sweep["parameters"]["seed"]["values"] == [0, 1, 2]
    for step in known_steps():
        words = {"+step": step, "seed": 2}
        line = []
        for word in sweep["command"]:
            line += [f"{k}={v}" for k, v in words.items()] if word == "${args_no_hyphens}" else [word]
        experiment = config.compose(line[line.index("roadmap.run") + 1 :])
        assert (experiment.step.name, experiment.seed, experiment.logger, experiment.wandb.mode) == (step, 2, "wandb", "online")


def test_tensorboard_holds_each_epoch_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment = config.compose(["+step=gelu", "scale=atto", "logger=tensorboard", f"output={tmp_path}"])
    folder = RunFolder.of(experiment, "0" * 16)
    folder.path.mkdir(parents=True)
    for sitting in (2, 3):  # the second repeats the last epoch of the first, as after a kill
        told = tracker(experiment, folder)
        for epoch in range(sitting - 2, sitting):
            line = {"epoch": epoch, "train_loss": 2.0 - epoch, "top1": 10.0 * epoch + sitting, "top1_without_ema": None}
            folder.add_epoch(line)
            told.epoch(line)
    told.finish({"status": "done", "top1": 13.0, "gmacs": 0.5})
    read = EventAccumulator(str(folder.path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("top1")] == [(0, 2.0), (1, 13.0), (2, 23.0)]
    assert [event.step for event in read.Scalars("train_loss")] == [0, 1, 2]
    assert [event.value for event in read.Scalars("final/gmacs")] == [0.5]


def test_without_tensorboard_a_run_goes_on(tmp_path, monkeypatch, caplog):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    experiment = config.compose(["+step=gelu", "scale=atto", "logger=tensorboard", f"output={tmp_path}"])
    folder = RunFolder.of(experiment, "0" * 16)
    folder.path.mkdir(parents=True)
    told = tracker(experiment, folder)
    told.epoch({"epoch": 0, "top1": 1.0})
    told.finish({"status": "done"})
    assert [record.message for record in caplog.records] == [
        "logger=tensorboard: tensorboard is not installed (pip install tensorboard); the run goes on without it"
    ]
