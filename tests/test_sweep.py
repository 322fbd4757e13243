"""Sweeps: every run in its own process, nothing done twice, nothing lost, failures told apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK

import roadmap
from roadmap.base.errors import Refused
from roadmap.config import compose as composing
from roadmap.config.compose import compose
from roadmap.sweep import plan
from roadmap.sweep.engines import machine
from roadmap.sweep.engines.local import Local

SMALL = [
    *[o for o in QUICK if not o.startswith("scale")],
    "recipe.batch_size=256",
    "study.steps=[resnet,gelu]",
    "study.seeds=[0,1]",
]


def sweep(*arguments, cwd, timeout=240):
    command = [sys.executable, "-m", "roadmap.sweep", "study=digits", *SMALL, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def results(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("result.json")}


def test_a_sweep_from_start_to_table(tmp_path):
    first = sweep(cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    study = tmp_path / "experiments" / "digits"
    done = results(study)
    assert all(result["cpu"] and result["instructions"] for result in done.values())
    assert sorted((r["step"]["name"], r["seed"]) for r in done.values()) == [
        ("gelu", 0),
        ("gelu", 1),
        ("resnet", 0),
        ("resnet", 1),
    ]
    assert {"table.md", "table.csv", "figure.svg", "figure.png", "records.jsonl", "study.json"} <= {
        p.name for p in study.iterdir()
    }
    written = {name: (study / name).read_bytes() for name in ("table.md", "figure.svg", "figure.png", "study.json")}

    # A point of a study is the run that the command line gives, bit for bit.
    overrides = ["+study=digits", "+step=gelu", *SMALL, "seed=1", "output=alone"]
    subprocess.run([sys.executable, "-m", "roadmap.run", *overrides], cwd=tmp_path, check=True, capture_output=True)
    ((alone, single),) = results(tmp_path / "alone").items()
    swept = done[alone]
    assert [single[key] for key in ("scores", "train_loss")] == [swept[key] for key in ("scores", "train_loss")]

    # Again, one result lost and one torn: these two are done again and come out the same, nothing else is trained or changes.
    lost, torn, *kept = sorted(study.rglob("result.json"))
    stamps = {p: p.stat().st_mtime_ns for p in kept}
    lost.unlink()
    torn.write_text(torn.read_text()[:100])
    again = sweep(cwd=tmp_path)
    assert "4 runs, 2 done already" in again.stdout
    assert torn.with_suffix(".json.corrupt").exists()
    assert {name: result["scores"] for name, result in results(study).items()} == {name: r["scores"] for name, r in done.items()}
    assert {p: p.stat().st_mtime_ns for p in kept} == stamps
    assert {name: (study / name).read_bytes() for name in written} == written

    # The table from the committed files alone, without the runs.
    (study / "runs").rename(tmp_path / "runs")
    before = {
        name: (study / name).read_bytes() for name in ("table.md", "table.csv", "figure.svg", "figure.png", "records.jsonl")
    }
    (study / "figure.png").unlink()
    subprocess.run([sys.executable, "-m", "roadmap.report", str(study)], check=True, capture_output=True)
    assert {name: (study / name).read_bytes() for name in before} == before

    # Committed records do not make a fresh sweep skip its work.
    assert not any(point.done for point in plan.plan(["+study=digits", *SMALL, f"output={tmp_path}/experiments"]).points)


WAYS_TO_DIE = """
import os, signal, sys
import roadmap.run.execute as module
whole = module.execute

def fail(): raise ValueError("a fault of the test")

def interrupt(): raise KeyboardInterrupt

def leave():
    if not os.path.exists("left"):
        open("left", "w").close()
        os._exit(1)

WAYS = [lambda: os.kill(os.getpid(), signal.SIGKILL), fail, lambda: sys.exit(7), interrupt, leave]

def execute(experiment, found, fingerprint):
    for way in WAYS[experiment.seed:experiment.seed + 1]:
        way()
    return whole(experiment, found, fingerprint)

module.execute = execute
"""


def driver(folder, fault, *arguments):
    """A sweep with a fault planted in the server that its runs are forked from, through a module that it preloads."""
    (folder / "fault.py").write_text(fault)
    (folder / "driver.py").write_text(
        "import sys\nfrom roadmap.sweep.engines import local\nfrom roadmap.sweep import __main__ as sweep\n"
        "local.PRELOADED.append('fault')\nif __name__ == '__main__':\n    sys.exit(sweep.main())\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{Path(roadmap.__file__).parent.parent}:{folder}"}
    command = [sys.executable, "driver.py", "study=digits", *SMALL, *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_server_of_runs_starts_as_a_command_does():
    """Looking for garbage seldom: with Python's usual threshold its imports take a sixth longer, while every core waits."""
    code = "import gc; from roadmap.sweep.engines.local import PRELOADED; __import__(PRELOADED[0]); print(*gc.get_threshold())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[0]) >= 100_000


def test_runs_that_die_do_not_reach_the_others(tmp_path):
    study = ("study.steps=[gelu]", "study.seeds=[0,1,2,3,4,5]")
    stopped = driver(tmp_path, WAYS_TO_DIE, *study, "--max-failures", "2")
    _, err = stopped.communicate(timeout=240)
    assert stopped.returncode == 1, err
    assert len(results(tmp_path)) <= 1  # at one at a time; the third may be under way where there is room for more
    assert "runs are stopped or not started" in err
    done = driver(tmp_path, WAYS_TO_DIE, *study, "--retry-failed")
    _, err = done.communicate(timeout=240)
    assert done.returncode == 1, err
    assert {result["seed"] for result in results(tmp_path).values()} == {4, 5}
    assert "5 runs failed and are started again" in err
    for seed, says in enumerate(["killed by SIGKILL", "a fault of the test", "exit code 7", "KeyboardInterrupt"]):
        (line,) = [line for line in err.splitlines() if line.startswith(f"failed: gelu-s{seed}:")]
        assert says in line
    assert err.count("log.txt") == 4
    assert "4 missing" in (tmp_path / "experiments" / "digits" / "table.md").read_text()


STUCK = """
import os, signal, time
import roadmap.run.execute as module

def execute(experiment, found, fingerprint):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    open("stuck.partial", "w").write(str(os.getpid()))
    os.rename("stuck.partial", "stuck")
    time.sleep(1000)

module.execute = execute
"""


def test_a_run_that_does_not_stop_is_killed_at_the_second_signal(tmp_path):
    process = driver(tmp_path, STUCK, "study.steps=[gelu]", "study.seeds=[0,1]", "engine.jobs=1")
    while not (tmp_path / "stuck").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.terminate()
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert "gelu-s0: stopped; the same command goes on with it" in err
    assert "2 runs are stopped or not started" in err
    assert not Path("/proc", (tmp_path / "stuck").read_text()).exists()


def test_dry_run_and_bad_arguments(tmp_path):
    done = sweep("--dry-run", "recipe.epochs=1", cwd=tmp_path)
    assert done.returncode == 0
    assert "recipe.epochs=1 warms up for recipe.warmup_epochs=0.333333: the recipe has 1 of 3 epochs" in done.stderr
    assert "0 of 2" in done.stdout
    assert "TFLOP" in done.stdout
    assert not (tmp_path / "experiments").exists()
    for arguments in (["--only", "nothing"], ["--jobs", "-1"], ["study.steps=[gelo]"], ["study.seeds=[]"], ["study.seeds=[1,1]"]):
        refused = sweep(*arguments, cwd=tmp_path)
        assert refused.returncode == 2, arguments
        assert "Traceback" not in refused.stderr


def test_the_digits_study_is_every_step_with_five_seeds():
    found = plan.plan(["+study=digits"])
    assert len(found.points) == 80
    assert len({point.folder.path for point in found.points}) == 80
    assert {point.experiment.recipe.epochs for point in found.points} == {3}
    assert found.warnings == ()
    with pytest.raises(Refused, match="no step 'gelo'"):
        plan.plan(["+study=digits", "study.steps=[gelo]"])


@pytest.mark.parametrize("override", ["seed=3", "recipe.lr=0.001"])
def test_a_plan_composes_two_steps_however_many_rows(monkeypatch, override):
    """Composing takes a tenth of a second: the first step, what stands before it, and the others as changes to their parents."""
    composed, compose = [], composing.hydra_compose
    monkeypatch.setattr(composing, "hydra_compose", lambda *args, **kwargs: composed.append(args) or compose(*args, **kwargs))
    composing._compose.cache_clear()
    composing.compose_unchecked.cache_clear()
    assert len(plan.plan(["+study=digits", override]).rows) == 16
    assert len(composed) <= 2


def test_warnings_of_a_sweep_hold_for_every_step():
    equal = plan.plan(["+study=digits", "model.kernel_size=3"]).warnings
    assert [warning.split()[1] for warning in equal] == ["kernel_5", "kernel_7", "kernel_9", "kernel_11"]
    assert plan.plan(["+study=digits", "model.block_bias=true"]).warnings[:1] != ("model.block_bias",)
    idle = plan.plan(["+study=digits", "study.steps=[resnet,depthwise]", "scale.convnext_width=48", "data.path=/x"]).warnings
    assert {warning.split()[0] for warning in idle} == {"scale.convnext_width", "data.path"}
    assert not plan.plan(["+study=digits", "study.steps=[depthwise,increase_width]", "scale.convnext_width=48"]).warnings


def test_slots(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: tuple(range(8)))
    monkeypatch.setattr(machine, "gpus", lambda: ())

    def slots(*overrides):
        experiment = compose(["+step=gelu", *overrides])
        return [(slot.gpu, len(slot.cores)) for slot in machine.slots(experiment.engine, experiment.runtime)]

    assert slots() == [(None, 8)]
    assert slots("runtime.threads=1") == [(None, 1)] * 8
    assert slots("runtime.threads=3") == [(None, 4)] * 2
    assert slots("runtime.threads=16") == [(None, 8)]
    assert slots("engine.jobs=3") == [(None, 2)] * 3
    assert slots("engine.jobs=16", "engine.cpus=2") == [(None, 2)] * 16
    (point, *_) = points = plan.plan(["+study=digits", *SMALL, "engine.jobs=16", "engine.cpus=2"]).points
    with (engine := Local(point.experiment.engine)).open(points):  # slots that share their cores are several slots
        assert engine.capacity(0) == 16
    with pytest.raises(Refused, match=r"engine\.gpus=1\.0"):
        slots("engine.gpus=1")
    with pytest.raises(Refused, match=r"engine\.nodes=2"):
        slots("engine.nodes=2")
    monkeypatch.undo()
    monkeypatch.setattr(machine, "cores", lambda: tuple(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    machine.gpus.cache_clear()
    assert machine.gpus() == ("3", "5")
    assert slots("runtime.threads=1") == [("3", 4), ("5", 4)]
    assert slots("engine.gpus=0.5") == [("3", 2), ("5", 2)] * 2
    assert slots("runtime.device=cpu") == [(None, 8)]
    machine.gpus.cache_clear()
