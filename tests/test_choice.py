"""`roadmap.report.choice`: the table that a recipe is chosen by."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from roadmap.record.result import dump_result, load_result

ROOT = Path(__file__).parent.parent


@pytest.fixture
def runs(tmp_path):
    """The digits study's runs of both ends, as if they had been scored on held-out images; one of each at another rate."""
    file = ROOT / "experiments" / "digits" / "records.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        del content["history"]
        result = load_result(content, file)
        if result.step.name in ("resnet", "separate_downsampling"):
            lr = 1e-3 if result.seed == 2 else 2e-3
            result = replace(result, data={**result.data, "held_out": 0.2}, recipe={**result.recipe, "lr": lr})
            folder = tmp_path / "runs" / result.run
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps(dump_result(result)))
    return tmp_path


def choice(folder):
    command = [sys.executable, "-m", "roadmap.report.choice", folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_a_row_for_each_setting_and_a_column_for_each_end(runs):
    text = choice(runs).stdout
    assert "digits, 32 px, scale atto" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["lr", "resnet", r"separate\_downsampling", "mean"]
    assert {row[0] for row in rows[1:]} >= {"0.001", "0.002"}
    assert any(" ± " in row[1] for row in rows if row[0] == "0.002")


def test_a_setting_that_some_records_leave_at_its_default_is_a_row_of_its_own(runs):
    for file in sorted(runs.glob("runs/*-s1-*/result.json")):
        content = json.loads(file.read_text())
        content["recipe"] |= {"layer_decay": 0.8}
        file.write_text(json.dumps(content))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in choice(runs).stdout.splitlines() if line.startswith("| ")
    ]
    assert sorted(rows[0][:2]) == [r"layer\_decay", "lr"]
    assert {tuple(row[:2]) for row in rows[1:]} >= {("0.001", ""), ("0.002", ""), ("0.002", "0.8")}


def test_runs_that_were_scored_on_val_are_refused(runs):
    first = next(runs.glob("runs/*/result.json"))
    first.write_text(first.read_text().replace('"held_out": 0.2', '"held_out": 0.0'))
    ended = choice(runs)
    assert ended.returncode == 2
    assert "a choice never sees the evaluation images" in ended.stderr
