"""W&B: offline, read back with W&B's own reader; without wandb a run works the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK

from roadmap import config

pytest.importorskip("wandb")
ROOT = str(Path(config.__file__).parent.parent)
RUN = [*QUICK, "recipe.batch_size=256", "runtime.keep_weights=false"]


def run(*overrides, cwd, path=ROOT):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"PYTHONPATH": path, "HOME": str(cwd)}
    command = [sys.executable, "-m", "roadmap.run", *RUN, *overrides]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    results = sorted(Path(cwd).rglob("result.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(results[-1].read_text())


def inspect(folder, *arguments):
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *arguments, "--json", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_offline_run_is_read_back(tmp_path):
    result = run("-m", "+step=kernel_7,gelu", "logger=wandb", cwd=tmp_path)
    assert result["delta_top1"] is not None
    (mirror,) = (tmp_path / "experiments" / "single" / "runs" / result["run"] / "wandb").glob("offline-run-*")
    summary = inspect(mirror, "--summary")
    whole = inspect(mirror)
    for key in ("top1", "gmacs", "params_m", "delta_top1"):
        assert f'"{key}"' in summary
        assert str(round(result[key], 3))[:5] in summary
    for text in ("gelu", "digits", "kernel_size", "train_loss", "val_loss"):
        assert text in whole + summary


def test_without_wandb_a_run_is_the_same(tmp_path):
    blocked = tmp_path / "blocked" / "wandb"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('not installed here')")
    plain = run("+step=gelu", "output=plain", cwd=tmp_path)
    other = run("+step=gelu", "output=other", "logger=wandb", cwd=tmp_path, path=f"{blocked.parent}:{ROOT}")
    assert [other[key] for key in ("top1", "val_loss", "run")] == [plain[key] for key in ("top1", "val_loss", "run")]
    assert "not installed" in next((tmp_path / "other").rglob("log.txt")).read_text()
