"""Whole sweeps that are killed, doubled and filled up: they end with the table of the sweep that nobody touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import QUICK

SMALL = [
    *[o for o in QUICK if not o.startswith("scale")],
    "recipe.batch_size=64",
    "recipe.epochs=3",
    "runtime.checkpoint_seconds=0.1",
]
TABLES = ("table.md", "figure.svg", "study.json")  # table.csv has a column of speeds


def start(folder, *more, **options):
    """A sweep in a session of its own, as a terminal or a scheduler gives it."""
    line = [sys.executable, "-m", "roadmap.sweep", "study=digits", *SMALL, f"output={folder}", *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)


def ends(process, seconds=300):
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def outcome(folder):
    """What a study says: its results without times, and its files byte by byte, without what times change."""
    results = {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("result.json")}
    timeless = {
        name: {key: value for key, value in result.items() if key not in ("seconds", "images_per_second")}
        for name, result in results.items()
    }
    losses = {path.parent.name: path.read_bytes() for path in folder.rglob("updates.csv")}
    return timeless, losses, {name: (folder / "digits" / name).read_bytes() for name in TABLES}


def runs_of(folder):
    """Processes of this study's runs, by what their claims say."""
    pids = []
    for path in folder.glob("digits/runs/*/claim"):
        with suppress(OSError, ValueError):
            pids.append(json.loads(path.read_text())["pid"])
    return pids


def kill(pid, number=signal.SIGKILL):
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def leftovers(folder):
    return [path for pattern in ("*.partial*", "checkpoints", "claim") for path in folder.rglob(pattern)]


def test_two_sweeps_of_one_study_and_kills_all_the_time(tmp_path, storm, figure):
    """Sweeps and runs are killed at random and started again; in the end it is the study that nobody touched."""
    steps = "study.steps=[resnet,depthwise,gelu,layer_norm]" if storm else "study.steps=[layer_norm]"
    study = [steps, f"study.seeds=[{','.join(map(str, range(12 if storm else 2)))}]"]
    runs, kills, sweepers = (48, 100, 3) if storm else (2, 4, 2)
    assert ends(start(tmp_path / "whole", *study))[0] == 0
    folder, draw, killed = tmp_path / "killed", random.Random(0), 0
    running = [start(folder, *study) for _ in range(sweepers)]
    while running:
        time.sleep(draw.uniform(0.3, 1.2))
        victims = [process.pid for process in running] + 3 * runs_of(folder)
        if killed < kills:
            kill(draw.choice(victims))
            killed += 1
        for process in list(running):
            if process.poll() is not None:
                running.remove(process)
                process.communicate()
                if process.returncode != 0 and killed < kills:
                    running.append(start(folder, *study))
        if killed >= kills and not running:
            break
    assert ends(start(folder, *study))[0] == 0
    assert outcome(folder) == outcome(tmp_path / "whole")
    assert len(list(folder.rglob("result.json"))) == runs
    assert not leftovers(folder)
    assert not list(folder.rglob("*.corrupt"))
    figure(f"{killed} SIGKILLs, {sweepers} sweeps, {runs} runs: the same results, losses and tables; nothing left over")


def test_a_sweep_whose_group_is_told_to_stop_saves(tmp_path, storm):
    """As Slurm and `timeout` do it: the signal goes to all processes at once."""
    folder = tmp_path / "stopped"
    study = ("study.steps=[gelu]", "study.seeds=[0]", "recipe.epochs=6", "runtime.checkpoint_seconds=300")
    sweep = start(folder, *study)
    while not list(folder.rglob("history.jsonl")):
        time.sleep(0.05)
        assert sweep.poll() is None
    pids = runs_of(folder)
    os.killpg(sweep.pid, signal.SIGTERM)
    code, said = ends(sweep, 35)
    assert code == 143, said
    assert "the same command goes on" in said
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a run lives on")
    assert list(folder.rglob("checkpoints/*.pt"))
    if storm:
        assert ends(start(folder, *study))[0] == 0  # and goes on
        assert not leftovers(folder)


@pytest.mark.storm
@pytest.mark.parametrize("kilobytes", [60, 200, 400, 900])
def test_a_disk_that_fills_up_and_is_cleared(tmp_path, kilobytes):
    """Exit code 3, the last good state kept; with room again the same command ends with the same results."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        study = ("study.steps=[gelu]", "study.seeds=[0,1]")
        code, said = ends(start(disk, *study))
        assert code == 3, said
        assert "Traceback" not in said
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert ends(start(disk, *study))[0] == 0
        assert len(list(disk.rglob("result.json"))) == 2
        assert not list(disk.rglob("*.corrupt"))
        assert not leftovers(disk)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
