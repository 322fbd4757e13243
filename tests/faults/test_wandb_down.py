"""W&B that is down, lies, or dies in mid-run: the run does not notice. Real servers on this machine, wandb as it is."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import QUICK
from fake_wandb import KEY, black_hole, serving
from killing import wait_for
from records import made, write

import roadmap
from roadmap.config.compose import compose
from roadmap.config.identity import plain
from roadmap.tracking.wandb.process import Uploader
from roadmap.tracking.wandb.run import MARKER, WandbRun
from roadmap.tracking.wandb.server import Unavailable, connect

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("no_wandb")
ROOT = str(Path(roadmap.__file__).parent.parent)
RUN = [*QUICK, "recipe.batch_size=256", "runtime.keep_weights=false", "+step=gelu"]
EPOCHS = 4
MOST = 10.0  # seconds that W&B may cost a run, start and end together
# What is wrong with the server or the login, and what the warning must say.
AT_START = {
    "unreachable": "does not answer",
    "black hole": "timed out",
    "silent": "timed out",
    "401": "refuses this API key",
    "429": "429",
    "500": "500",
    "malformed": "something else than W&B",
    "list": "something else than W&B",
    "wrong key": "refuses this API key",
    "no key": "not logged in",
    "not installed": "not installed",
}
MIDWAY = {"silent": "timed out", "500": "500", "401": "refuses this API key", "malformed": "something else than W&B"}
EVERY = {**AT_START, **{f"midway {name}": said for name, said in MIDWAY.items()}}
SHORT = {"unreachable", "black hole", "wrong key", "not installed", "midway silent"}
LONG = EVERY.keys() - SHORT  # only with --storm


def faults(*left_out):
    names = [name for name in EVERY if name not in left_out]
    return [pytest.param(name, marks=pytest.mark.storm) if name in LONG else name for name in names]


def shown(folder, online=True):
    composed = plain(compose(["scale=atto", "recipe=smoke", "+step=gelu"]))
    return WandbRun.of(composed, folder, online)


class Training:
    """What training does to its record and its tracker, without training."""

    def __init__(self, folder, online=True, **different):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seconds = folder, 0.0
        self.tracker = self.timed(Uploader, dataclasses.replace(shown(folder, online), **different))

    def timed(self, function, *arguments):
        start = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self.seconds += time.monotonic() - start

    def epochs(self, first, last):
        for epoch in range(first, last):
            lines = [{"epoch": e, "train_loss": 2 - e / 10, "top1": 50.0 + e, "top5": None} for e in range(epoch + 1)]
            (self.folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            self.timed(self.tracker.update)

    def finish(self, status="done"):
        result = made(self.folder.name, 50.0 + EPOCHS - 1, status=status, gmacs=0.5)
        if status != "running":
            write(self.folder, result)
        self.timed(self.tracker.close)
        return result


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, request):
    """One training under every fault, all at once: their seconds and what they said."""
    folder = tmp_path_factory.mktemp("down")
    left_out = set() if request.config.getoption("--storm", default=False) else LONG
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        started = {name: _start(name, folder, stack, patch) for name in AT_START if name not in left_out}
        ran_into = [name for name in MIDWAY if f"midway {name}" not in left_out]
        midway = {name: _start(name, folder, stack, patch, midway=True) for name in ran_into}
        for training, _ in started.values():
            training.epochs(0, EPOCHS)
        for training, fake in midway.values():
            training.epochs(0, 2)
            wait_for(lambda fake=fake: any(path.endswith("file_stream") for path, _ in fake.requests))
        for name, (training, fake) in midway.items():
            fake.fault = int(name) if name.isdigit() else name
            training.epochs(2, EPOCHS)
        time.sleep(1)  # a real epoch takes longer than none
        for training, _ in [*started.values(), *midway.values()]:
            training.finish()
    found = {name: training for name, (training, _) in started.items()}
    return found | {f"midway {name}": training for name, (training, _) in midway.items()}


def _start(name, folder, stack, patch, midway=False):
    fault = None if midway else int(name) if name.isdigit() else name if name in ("silent", "malformed", "list") else None
    fake = stack.enter_context(serving(fault))
    patch.setenv("WANDB_API_KEY", KEY if name != "wrong key" else KEY[::-1])
    patch.setenv("WANDB_BASE_URL", fake.url)
    patch.setenv("PYTHONPATH", ROOT)
    if name == "unreachable":
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    elif name == "black hole":
        patch.setenv("WANDB_BASE_URL", stack.enter_context(black_hole()))
    elif name == "no key":
        patch.delenv("WANDB_API_KEY")
    elif name == "not installed":
        (folder / "blocked" / "wandb").mkdir(parents=True)
        (folder / "blocked" / "wandb" / "__init__.py").write_text("raise ImportError('not here')")
        patch.setenv("PYTHONPATH", f"{folder / 'blocked'}{os.pathsep}{ROOT}")
    return Training(folder / ("midway" if midway else "start") / name.replace(" ", "_")), fake


@pytest.mark.parametrize("name", faults())
def test_costs_a_run_less_than_ten_seconds(trainings, name):
    assert trainings[name].seconds < MOST


@pytest.mark.parametrize("name", faults())
def test_fault_is_named(trainings, name):
    assert re.search(EVERY[name], trainings[name].tracker.fault)
    assert KEY not in trainings[name].tracker.fault
    assert not (trainings[name].folder / MARKER).exists()


@pytest.mark.parametrize("name", faults("not installed", *(name for name in EVERY if name not in AT_START)))
def test_offline_run_is_written_instead(trainings, name):
    assert list((trainings[name].folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_three_sessions_of_a_run_are_one(tmp_path, monkeypatch, caplog):
    """A run that is stopped and goes on logs each epoch once, also one that it repeats from a checkpoint."""
    with serving() as fake:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        for first, last, status in ((0, 2, "running"), (1, 3, "running"), (3, EPOCHS, "done")):
            training = Training(tmp_path / "gelu-s0-1")
            training.epochs(first, last)
            result = training.finish(status)
            assert training.tracker.fault is None
            assert (training.folder / MARKER).exists() == (status == "done")
    assert not caplog.records
    assert list(fake.inserted.values()) == [1]
    run = fake.runs["gelu-s0-1"]
    assert run["complete"]
    assert [line["epoch"] for line in run["history"]] == [line["_step"] for line in run["history"]] == list(range(EPOCHS))
    assert fake.received["gelu-s0-1"] == list(range(EPOCHS))
    assert (run["summary"]["top1"], run["summary"]["status"]) == (result.score, "done")
    assert json.loads((training.folder / MARKER).read_text())["result"] == run["summary"]["record"]


def test_a_server_that_loses_epochs_is_found_out(tmp_path, monkeypatch):
    with serving("forgetful") as fake:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        training = Training(tmp_path / "gelu-s0-1", patience=1.5)
        training.epochs(0, EPOCHS)
        wait_for(lambda: any(path.endswith("file_stream") for path, _ in fake.requests))
        training.finish()
    assert f"holds 0 of {EPOCHS} epochs" in training.tracker.fault
    assert not (training.folder / MARKER).exists()


def test_offline_asks_nobody(tmp_path, monkeypatch):
    with serving() as fake:
        for name in ("WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, fake.url)
        training = Training(tmp_path / "gelu-s0-1", online=False)
        training.epochs(0, EPOCHS)
        training.finish()
    assert fake.requests == []
    assert training.tracker.fault is None
    assert list((training.folder / "wandb").glob("offline-run-*"))


def test_nothing_is_left_running(tmp_path, monkeypatch):
    """Killed while the server says nothing: W&B's processes end too."""
    with serving() as fake:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        program = (
            "import os, sys; sys.path[:0] = sys.argv[1:]; from pathlib import Path; from test_wandb_down import Training\n"
            "training = Training(Path('gelu-s0-1')); training.epochs(0, 2)\n"
            "print(training.tracker.process.pid, flush=True); input()"
        )
        here = Path(__file__).parent
        command = [sys.executable, "-c", program, str(here), str(here.parent)]
        trained = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        mirror = int(trained.stdout.readline())
        wait_for(lambda: any(path.endswith("file_stream") for path, _ in fake.requests))
        service = _children(mirror)
        assert service
        fake.fault = "silent"
        trained.send_signal(signal.SIGKILL)
        trained.communicate()
        wait_for(lambda: not any(_runs(process) for process in (mirror, *service)), 10)


def _children(process):
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# One process for several runs: torch is imported once, and the seconds are those of the runs.
SEVERAL = """
import json, sys, time
from roadmap.run.__main__ import main
for line in json.loads(sys.argv[1]):
    sys.argv, start = ["roadmap run", *line], time.monotonic()
    code = main()
    print("measured", code, time.monotonic() - start, flush=True)
"""


def runs(*lines, cwd, **environment):
    """Carry out runs one after another: the folder and the seconds of each."""
    env = {**os.environ, "PYTHONPATH": ROOT, "HOME": str(cwd), **environment}
    lines = [[*RUN, *line, f"output={number}"] for number, line in enumerate(lines)]
    command = [sys.executable, "-c", SEVERAL, json.dumps(lines)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=180)
    measured = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("measured")]
    assert [code for code, _ in measured] == ["0"] * len(lines), done.stderr
    return [(next((cwd / str(i)).glob("single/runs/gelu-*")), float(seconds)) for i, (_, seconds) in enumerate(measured)]


def untimed(folder):
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if not re.search("seconds|_per_second", k)} for entry in (result, *lines)]


ONLINE = ("logger=wandb", "wandb.mode=online")


def check_unaffected(measured, said, cwd):
    """The last run is the first one but for its time, and its log warns once of W&B."""
    (plain, usual), *_, (down, seconds) = measured
    assert untimed(down) == untimed(plain)
    assert seconds - usual < MOST
    (warning,) = [line for line in (down / "log.txt").read_text().splitlines() if "WARNING logger=wandb" in line]
    assert said in warning
    assert f"python -m roadmap.replay {down}" in warning


@pytest.mark.storm
def test_whole_run_against_a_black_hole(tmp_path):
    with black_hole() as url:
        measured = runs([], ONLINE, cwd=tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    check_unaffected(measured, "timed out", tmp_path)


@pytest.mark.storm
def test_whole_run_without_wandb_installed(tmp_path):
    (tmp_path / "blocked" / "wandb").mkdir(parents=True)
    (tmp_path / "blocked" / "wandb" / "__init__.py").write_text("raise ImportError('not here')")
    measured = runs([], ONLINE, cwd=tmp_path, PYTHONPATH=f"{tmp_path / 'blocked'}{os.pathsep}{ROOT}")
    check_unaffected(measured, "not installed", tmp_path)


@pytest.mark.storm
@pytest.mark.parametrize("fault", ["silent", "malformed", 500, 429])
def test_whole_run_against_a_server_that_fails(tmp_path, fault):
    with serving(fault) as fake:
        measured = runs([], ONLINE, cwd=tmp_path, WANDB_BASE_URL=fake.url, WANDB_API_KEY=KEY)
    check_unaffected(measured, EVERY[str(fault)], tmp_path)


ANSWERS = [401, 403, 404, 429, 500, 503, "malformed", "list"]


def test_no_login_asks_nobody():
    with serving() as fake, pytest.raises(Unavailable, match="not logged in"):
        connect(fake.url)
    assert fake.requests == []


@pytest.mark.parametrize("fault", ANSWERS)
def test_answers_that_are_none(fault, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving(fault) as fake, pytest.raises(Unavailable) as caught:
        connect(fake.url)
    said = "refuses" if fault in (401, 403) else str(fault) if isinstance(fault, int) else "something else"
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


def test_warning_comes_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "roadmap"):
        training = Training(tmp_path / "a folder" / "gelu-s0-1")
        os.kill(training.tracker.process.pid, signal.SIGKILL)
        training.epochs(0, EPOCHS)
        training.finish()
    (record,) = caplog.records
    assert "ended early" in record.getMessage()
    assert f"python -m roadmap.replay '{tmp_path}/a folder/gelu-s0-1'" in record.getMessage()
