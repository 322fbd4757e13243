"""W&B: offline, read back with W&B's own reader; and runs that are brought to a server later, each once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK
from omegaconf import OmegaConf

from roadmap import replay as replay_door
from roadmap.base.errors import EXIT_FAILED, EXIT_REFUSED, Refused
from roadmap.config.compose import compose
from roadmap.config.identity import plain
from roadmap.record.folder import RunFolder
from roadmap.sweep.plan import plan
from roadmap.tracking.wandb import upload as replay
from roadmap.tracking.wandb.process import Uploader
from roadmap.tracking.wandb.run import MARKER, WandbRun

sys.path.append(str(Path(__file__).parent / "faults"))
from fake_wandb import KEY, serving
from records import made, write

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("no_wandb")
RUN = [*QUICK, "recipe.batch_size=256", "runtime.keep_weights=false"]
EPOCHS = 3
SUMMARY = ("top1", "top5", "gmacs", "params_m", "delta_top1", "status", "images_per_second")


@pytest.fixture
def server(monkeypatch):
    with serving() as fake:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        yield fake


def program(*words, cwd):
    env = {**os.environ, "HOME": str(cwd)}
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=180)


def inspect(folder, *arguments):
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *arguments, "--json", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def numbers(whole, summary):
    """What W&B's reader finds in an offline run: its epochs, and its summary."""
    epochs = re.findall(r'"(?:train_loss|val_loss|top1|epoch)": *[^,}\s]+', whole)
    return epochs, [re.findall(f'"{key}": *[^,}}\\s]+', summary) for key in SUMMARY]


def mirrors(run):
    return sorted((run / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def test_offline_run_is_read_back_and_replayed(tmp_path, monkeypatch):
    done = program("roadmap.run", *RUN, "-m", "+step=kernel_7,gelu", "logger=wandb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "experiments" / "single"
    (run,) = study.glob("runs/gelu-*")
    result, before = (RunFolder(path).result() for path in (run, next(study.glob("runs/kernel_7-*"))))
    (mirror,) = mirrors(run)
    summary, whole = inspect(mirror, "--summary"), inspect(mirror)
    for key in ("top1", "gmacs", "params_m", "delta_top1"):
        assert f'"{key}"' in summary
    shown = {"top1": result.score, "gmacs": result.gmacs, "params_m": result.params_m, "delta_top1": result.score - before.score}
    for value in shown.values():
        assert str(round(value, 3))[:5] in summary
    for text in ("gelu", "digits", "kernel_size", "train_loss", "val_loss"):
        assert text in whole + summary
    assert replayed(run, "--offline", monkeypatch=monkeypatch) == 0
    again = mirrors(run)[-1]
    assert again != mirror
    assert numbers(inspect(again), inspect(again, "--summary")) == numbers(whole, summary)
    assert numbers(whole, summary)[0]


# --- replay ----------------------------------------------------------------------------------------------------------


def record(folder, step, seed=0, top1=50.0):
    """A run that is done, as its folder tells it."""
    run = folder / "runs" / f"{step}-s{seed}-12345678"
    run.mkdir(parents=True, exist_ok=True)
    composed = plain(compose(["scale=atto", "recipe=smoke", f"+step={step}", f"seed={seed}"]))
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(composed)))
    lines = [{"epoch": e, "train_loss": 2.5 - e / 8, "top1": top1 + e, "top1_without_ema": None} for e in range(EPOCHS)]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(run, made(run.name, top1 + EPOCHS - 1, seed=seed, gmacs=0.25, seconds=1.5))
    return run


def replayed(*arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["replay", *map(str, arguments)])
    return replay_door.main()


def own(lines):
    return [{key: value for key, value in line.items() if not key.startswith("_")} for line in lines]


def test_a_run_is_called_by_its_row(tmp_path, monkeypatch, capsys):
    """In a leave-one-out all runs are of one step, and their folders are named by it."""
    found = plan(["+study=leave_one_out", "scale=atto", "study.steps=[gelu]", "study.seeds=[0]", f"output={tmp_path}"])
    found.write()
    for point in found.points:
        run = record(found.folder, point.experiment.step.name)
        run.rename(point.folder.path)
    assert replayed(found.folder, "--dry-run", monkeypatch=monkeypatch) == 0
    whole, without = (point.folder.path.name for point in found.points)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        [f"{whole}: to upload", f"without_gelu-s0 ({without}): to upload"]
    )
    config = plain(found.points[1].experiment)
    assert WandbRun.of(config, found.points[1].folder.path, online=False).name == "without_gelu-s0"


def test_study_arrives_once(tmp_path, monkeypatch, server, capsys):
    study = tmp_path / "study"
    runs = [record(study, "gelu"), record(study, "kernel_7", top1=40.0)]
    unfinished = record(study, "layer_norm")
    (unfinished / "result.json").unlink()
    assert replayed(study, monkeypatch=monkeypatch) == 0
    assert sorted(server.inserted) == sorted(run.name for run in runs)
    for run in runs:
        there = server.runs[run.name]
        lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        assert own(there["history"]) == [{k: v for k, v in line.items() if v is not None} for line in lines]
        assert {key: there["summary"][key] for key in SUMMARY if key in there["summary"]} == {
            "top1": RunFolder(run).result().score,
            "gmacs": 0.25,
            "status": "done",
        }
        assert there["groupName"] == json.loads(there["config"])["step"]["value"]["name"] == run.name.split("-")[0]
        marker = json.loads((run / MARKER).read_text())
        assert (marker["id"], marker["entity"], marker["project"]) == (run.name, "me", "roadmap")
    said, before = capsys.readouterr().out, len(server.requests)
    assert [f"{run.name}: {server.url}/me/roadmap/runs/{run.name}" for run in runs] == said.splitlines()
    assert replayed(study, monkeypatch=monkeypatch) == 0
    assert "all uploaded already" in capsys.readouterr().out
    assert len(server.requests) == before


def test_run_that_lost_its_marker_or_its_last_epochs_is_completed(tmp_path, monkeypatch, server):
    """What a kill leaves behind: some epochs there, no summary, no marker."""
    run = record(tmp_path / "study", "gelu")
    assert replayed(run, monkeypatch=monkeypatch) == 0
    whole = own(server.runs[run.name]["history"])
    server.runs[run.name].update(history=server.runs[run.name]["history"][:1], summary={})
    (run / MARKER).unlink()
    assert replayed(run, monkeypatch=monkeypatch) == 0
    assert own(server.runs[run.name]["history"]) == whole
    assert server.inserted == {run.name: 1}
    assert server.received[run.name] == [0, 1, 2, 1, 2]  # the server lost two
    assert (run / MARKER).exists()


def test_changed_result_is_a_run_of_its_own(tmp_path, monkeypatch, server, capsys):
    run = record(tmp_path / "study", "gelu")
    assert replayed(run, monkeypatch=monkeypatch) == 0
    record(tmp_path / "study", "gelu", top1=60.0)
    assert replayed(run, monkeypatch=monkeypatch) == 0
    first, second = server.runs
    assert second.startswith(first)
    assert [line["top1"] for line in server.runs[second]["history"]] == [60.0, 61.0, 62.0]
    assert f"an earlier result stays at {server.url}/me/roadmap/runs/{first}" in capsys.readouterr().out
    before = len(server.requests)
    assert replayed(run, monkeypatch=monkeypatch) == 0
    assert len(server.requests) == before


def test_live_run_is_not_repeated(tmp_path, monkeypatch, server):
    run = record(tmp_path / "study", "gelu")
    uploader = Uploader(WandbRun.of(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")), run, online=True))
    uploader.update()
    uploader.close()
    live = {key: value for key, value in server.runs[run.name].items() if key not in ("history", "summary")}
    history, before = own(server.runs[run.name]["history"]), len(server.requests)
    assert replayed(run, monkeypatch=monkeypatch) == 0
    assert len(server.requests) == before
    (run / MARKER).unlink()
    server.runs.clear()
    assert replayed(run, monkeypatch=monkeypatch) == 0
    assert own(server.runs[run.name]["history"]) == history
    for key in ("displayName", "groupName", "jobType", "tags", "project"):
        assert server.runs[run.name][key] == live[key]
    assert _config(server.runs[run.name]) == _config(live)


def _config(there):
    return {key: value for key, value in json.loads(there["config"]).items() if key != "_wandb"}


@pytest.mark.parametrize(
    ("environment", "fault", "said"),
    [
        ({}, None, "not logged in"),
        ({"WANDB_API_KEY": KEY[::-1]}, None, "refuses this API key"),
        ({"WANDB_API_KEY": KEY}, 500, "500"),
        ({"WANDB_API_KEY": KEY}, "malformed", "something else"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, None, "does not answer"),
    ],
)
def test_refused_at_once(tmp_path, monkeypatch, environment, fault, said):
    record(tmp_path / "study", "gelu")
    with serving(fault) as fake:
        for name, value in {"WANDB_BASE_URL": fake.url, **environment}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Refused, match=said):
            replayed(tmp_path / "study", monkeypatch=monkeypatch)
        assert fake.runs == {}


def test_exit_codes_of_the_command(tmp_path):
    record(tmp_path / "study", "gelu")
    done = program("roadmap.replay", "study", cwd=tmp_path)
    assert done.returncode == EXIT_REFUSED
    assert done.stderr.startswith("roadmap: not logged in to https://api.wandb.ai")
    assert program("roadmap.replay", "study", "--dry-run", cwd=tmp_path).stdout == "gelu-s0-12345678: to upload\n"


def test_folder_without_runs_is_refused(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Refused, match="no run that is done"):
            replayed(folder, monkeypatch=monkeypatch)
    run = record(tmp_path, "gelu")
    (run / "config.yaml").write_text("- nonsense")
    with pytest.raises(Refused, match="not a run's configuration"):
        replayed(tmp_path, monkeypatch=monkeypatch)


def test_server_that_goes_away_ends_it(tmp_path, monkeypatch, server, capsys):
    runs = [record(tmp_path / "study", step) for step in ("gelu", "kernel_7")]
    monkeypatch.setattr(replay, "PATIENCE_SECONDS", 3.0)
    held = server.held
    server.held = lambda name: setattr(server, "fault", 500) or held(name)  # at the first question about a run
    with pytest.raises(replay.UploadFailed, match="goes on from here") as caught:
        replayed(tmp_path / "study", monkeypatch=monkeypatch)
    assert caught.value.exit_code == EXIT_FAILED
    assert not any((run / MARKER).exists() for run in runs)
    server.fault, server.held = None, held
    assert replayed(tmp_path / "study", monkeypatch=monkeypatch) == 0
    assert set(server.inserted.values()) == {1}


@pytest.mark.storm
def test_killed_at_any_moment_there_are_no_duplicates(tmp_path, server):
    study, kills = tmp_path / "study", 12
    runs = [record(study, "gelu", seed) for seed in range(3)]
    for kill in range(kills):
        started = subprocess.Popen([sys.executable, "-m", "roadmap.replay", str(study)], stdout=subprocess.DEVNULL)
        time.sleep(0.4 + 2.6 * kill / kills)
        started.kill()
        started.wait()
        if kill % 4 == 3:
            for run in runs:
                shutil.rmtree(run / "wandb", ignore_errors=True)
    assert program("roadmap.replay", str(study), cwd=tmp_path).returncode == 0
    assert server.inserted == {run.name: 1 for run in runs}
    for run in runs:
        assert [line["_step"] for line in server.runs[run.name]["history"]] == list(range(EPOCHS))
        assert (run / MARKER).exists()
