"""Sweeps on Ray, through the real command line: workers and runs that are killed, stops, and a cluster that was there before."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import QUICK
from killing import wait_for

import roadmap
from roadmap.base.errors import Refused
from roadmap.config.compose import compose

pytestmark = [
    pytest.mark.clusters,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'roadmap[ray]'"),
]

SMALL = [*[o for o in QUICK if not o.startswith("scale")], "runtime.device=cpu"]
LONG = [*SMALL, "study.steps=[resnet]", "recipe.epochs=10", "recipe.batch_size=32", "runtime.checkpoint_seconds=0.1"]
PLANTED = """
import atexit, json, os, sys, time
from pathlib import Path
began = time.time()

def note():
    about = {"began": began, "ended": time.time(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "folder": os.getcwd()}
    (Path(__file__).parent / f"note-{os.getpid()}.json").write_text(json.dumps(about))

if "roadmap.run" in sys.orig_argv:
    atexit.register(note)
    if {"+step=gelu", "seed=1"} <= set(sys.orig_argv):
        print("a fault of the test", file=sys.stderr, flush=True)
        os._exit(1)
"""


@pytest.fixture(autouse=True)
def own_environment():
    """What the engine says to Ray through the environment ends with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def start(folder, *more, **env):
    """A sweep on Ray; `folder` is where it works, and may hold a `sitecustomize.py` for its runs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env = {**kept, "PYTHONPATH": f"{Path(roadmap.__file__).parent.parent}:{folder}", **env}
    line = [sys.executable, "-m", "roadmap.sweep", "study=digits", "engine=ray", *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def ends(process, seconds=200):
    """The end of a sweep; one that does not end is killed, and Ray's processes with it."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def under_way(folder, epochs=2):
    """The process of a run that has checkpoints and a few epochs behind it."""
    for path in folder.rglob("claim"):
        with suppress(OSError, ValueError):
            if list(path.parent.glob("checkpoints/*.pt")) and len(history(path.parent)) >= epochs:
                return json.loads(path.read_text())["pid"]
    return None


def history(folder):
    timed = ("seconds", "images_per_second")
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


def came_out(folder):
    found = {path.parent: json.loads(path.read_text()) for path in folder.rglob("result.json")}
    return {p.name: ([r["scores"], r["train_loss"]], history(p)) for p, r in found.items()}


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants(pid):
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = parent(path.name)
    found, more = set(), {pid}
    while more:
        found |= more
        more = {child for child, of in parents.items() if of in more} - found
    return found - {pid}


def alive(pids):
    """Those of these processes that still run; a zombie whose parent has gone is nobody's burden."""
    found = []
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def test_a_sweep_with_a_run_that_fails_and_two_at_a_time(tmp_path, storm, figure):
    """Each run has half of the one GPU, which is not there but for its number: two at a time, and each is shown its number."""
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    began = time.monotonic()
    steps = "[resnet,gelu]" if storm else "[gelu]"
    more = [
        *SMALL,
        "recipe.batch_size=256",
        "recipe.lr_batch=256",
        f"study.steps={steps}",
        "study.seeds=[0,1]",
        "engine.gpus=0.5",
    ]
    process = start(tmp_path, *more, CUDA_VISIBLE_DEVICES="7", HOME=str(tmp_path))
    wait_for(lambda: process.poll() is not None or list(tmp_path.rglob("log.txt")))
    figure(f"{time.monotonic() - began:.1f} s to the first run")
    code, out, err = ends(process)
    assert code == 1, err
    assert len(came_out(tmp_path)) == (3 if storm else 1)
    (line,) = [line for line in err.splitlines() if line.startswith("failed: ")] or [err]
    assert line.startswith("failed: gelu-s1: ")
    assert "exit code 1: a fault of the test" in line
    assert err.count("log.txt") == 1
    assert "1 missing" in (tmp_path / "experiments" / "digits" / "table.md").read_text()
    assert "ray" not in out.lower()
    assert not [line for line in err.splitlines() if not line.startswith(("[", "failed: ", "        "))], err
    notes = [json.loads(path.read_text()) for path in tmp_path.glob("note-*.json")]
    assert [(note["gpus"], note["folder"]) for note in notes] == [("7", str(tmp_path))] * (3 if storm else 1)
    at_once = [sum(other["began"] <= note["began"] < other["ended"] for other in notes) for note in notes]
    assert max(at_once) <= 2
    assert not (tmp_path / ".ray").exists()  # no password of Ray's own in the home folder


@pytest.mark.storm
@pytest.mark.parametrize("victim", ["worker", "run"])
def test_a_killed_worker_or_run_is_started_again_and_changes_nothing(tmp_path, victim, figure):
    code, _, err = ends(start(tmp_path, *LONG, "study.seeds=[0]", "output=calm"))
    assert code == 0, err
    process = start(tmp_path, *LONG, "study.seeds=[0]", "output=stormy")
    pid = wait_for(lambda: under_way(tmp_path / "stormy"))
    os.kill(parent(pid) if victim == "worker" else pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: under_way(tmp_path / "stormy", epochs=0) not in (None, pid) or process.poll() is not None)
    figure(f"{time.monotonic() - began:.1f} s until the next attempt has the run")
    code, _, err = ends(process)
    assert code == 0, err
    assert came_out(tmp_path / "stormy") == came_out(tmp_path / "calm") != {}


@pytest.mark.storm
def test_a_run_that_is_killed_too_often_fails(tmp_path):
    process = start(tmp_path, *LONG, "study.seeds=[0]", "engine.retries=1")
    first = wait_for(lambda: under_way(tmp_path))
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: under_way(tmp_path) not in (None, first) and under_way(tmp_path))
    os.kill(second, signal.SIGKILL)
    code, _, err = ends(process)
    assert code == 1, err
    assert "killed by SIGKILL, 2 times" in err


@pytest.mark.storm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_saves_leaves_nothing_behind_and_goes_on(tmp_path, number, figure):
    more = [*LONG, "study.seeds=[0,1,2]", "runtime.checkpoint_seconds=1000", "engine.jobs=2"]
    process = start(tmp_path, *more)
    wait_for(lambda: [path for path in tmp_path.rglob("history.jsonl") if history(path.parent)])
    its = descendants(process.pid)
    process.send_signal(number)
    began = time.monotonic()
    code, _, err = ends(process, seconds=40)
    figure(f"{time.monotonic() - began:.1f} s from {number.name} to the end")
    assert code == 143, err
    assert "the same command goes on" in err
    assert list(tmp_path.rglob("checkpoints/*.pt"))
    assert not came_out(tmp_path)
    wait_for(lambda: not alive(its), 15)
    code, _, err = ends(start(tmp_path, *more))
    assert code == 0, err
    assert len(came_out(tmp_path)) == 3


@pytest.mark.storm
def test_a_stop_while_ray_starts(tmp_path):
    for seconds in (2.0, 3.0, 4.0):
        process = start(tmp_path, *LONG, "study.seeds=[0]")
        time.sleep(seconds)
        its = descendants(process.pid)
        process.terminate()
        code, _, err = ends(process, seconds=40)
        assert code == 143, err
        assert "Traceback" not in err
        wait_for(lambda: not alive(its), 15)  # noqa: B023


@pytest.mark.storm
def test_a_stop_while_a_driver_of_ray_connects(tmp_path):
    """Ray's C++ takes SIGTERM for itself at the end of the start, which comes soon after its own processes are there."""

    def raylet(of):
        return any(b"raylet" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] for pid in alive(descendants(of)))

    for seconds in (0.0, 0.3, 0.6, 0.9, 1.2, 1.5):
        process = start(tmp_path, *LONG, "study.seeds=[0]")
        wait_for(lambda: raylet(process.pid))  # noqa: B023
        time.sleep(seconds)
        its = descendants(process.pid)
        process.terminate()
        code, _, err = ends(process, seconds=40)
        assert code == 143, err
        assert "Traceback" not in err
        wait_for(lambda: not alive(its), 15)  # noqa: B023


@pytest.mark.storm
def test_after_max_failures_nothing_new_starts(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    more = [*SMALL, "study.steps=[gelu]", "study.seeds=[1,2,3]", "engine.jobs=1", "--max-failures", "1"]
    code, _, err = ends(start(tmp_path, *more))
    assert code == 1, err
    assert not came_out(tmp_path)
    assert "2 runs are stopped or not started" in err


@contextmanager
def cluster(folder, cores=2):
    """A Ray cluster of one node, in the foreground of a process that ends it; yields its address and how to be let in."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    key = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:
        line = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", f"--num-cpus={cores}"]
        more = [f"--temp-dir={short}", "--include-dashboard=false", f"--object-store-memory={80 * 1024**2}"]
        with (folder / "cluster.txt").open("w") as said:
            head = subprocess.Popen(
                [*line, *more], env={**os.environ, **key}, cwd=short, stdout=said, stderr=said, start_new_session=True
            )
        try:
            wait_for(lambda: "Ray runtime started" in (folder / "cluster.txt").read_text(), 60)
            yield f"127.0.0.1:{port}", key
        finally:
            its = descendants(head.pid)
            head.terminate()
            try:
                head.wait(20)
            except subprocess.TimeoutExpired:
                head.kill()
            for pid in alive(its):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.storm
def test_a_cluster_that_was_there_before(tmp_path, figure):
    """Runs of a cluster, then a sweep that is killed: its runs save and end, and the next sweep goes on with them."""
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    with cluster(tmp_path) as (address, key):
        process = start(tmp_path, *LONG, "study.seeds=[0]", f"engine.address={address}", "output=twice", **key)
        run = wait_for(lambda: under_way(tmp_path / "twice"))
        process.kill()
        ends(process)
        began = time.monotonic()
        wait_for(lambda: not alive([run]), 30)
        figure(f"{time.monotonic() - began:.1f} s until the run of a killed sweep has ended")
        for output in ("once", "twice"):
            code, _, err = ends(start(tmp_path, *LONG, "study.seeds=[0]", f"engine.address={address}", f"output={output}", **key))
            assert code == 0, err
        assert came_out(tmp_path / "once") == came_out(tmp_path / "twice") != {}
        notes = [json.loads(path.read_text()) for path in tmp_path.glob("note-*.json")]
        assert {(note["gpus"], note["folder"]) for note in notes} == {("", str(tmp_path))}
        stranger = {**key, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        code, _, err = ends(start(tmp_path, *SMALL, f"engine.address={address}", "output=none", **stranger))
        assert code == 2, err
        assert "no Ray cluster could be joined" in err


def test_a_cluster_that_is_not_there_is_refused_soon(tmp_path):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        began = time.monotonic()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = ends(start(tmp_path, *SMALL, f"engine.address={address}"), seconds=40)
    assert code == 2, err
    assert address in err
    assert "Traceback" not in err
    assert time.monotonic() - began < 25
    assert not list(tmp_path.rglob("result.json"))


def test_what_cannot_be_asked_of_ray_is_refused():
    from roadmap.sweep.engines.ray import Ray

    for asked in ("engine.nodes=2", "engine.gpus=1.5", "engine.address=ray://host:10001", "engine.address=host"):
        experiment = compose(["+step=gelu", "engine=ray", asked])
        with pytest.raises(Refused, match=asked.replace("/", ".")):
            Ray(experiment.engine)
    with pytest.raises(Refused, match=r"engine.gpus=0.5"):
        Ray(compose(["+step=gelu", "engine=ray", "engine.gpus=0.5", "engine.processes=2"]).engine)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    from roadmap.sweep.engines.ray import Ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Refused, match=r"pip install 'roadmap\[ray\]'"):
        Ray(compose(["+step=gelu", "engine=ray"]).engine)


def test_what_a_run_asks_for():
    from roadmap.sweep.engines.ray import needs

    def asked(*overrides, gpus=0, cores=8):
        experiment = compose(["+step=gelu", "engine=ray", *overrides])
        found = needs(experiment.engine, experiment.runtime, [{"CPU": cores, "GPU": gpus}])
        return found.cpus, found.gpus, found.processes

    assert asked() == (1, 0, 1)
    assert asked(gpus=4) == (1, 1, 1)
    assert asked("runtime.device=cpu", gpus=4) == (1, 0, 1)
    assert asked("runtime.device=cuda") == (1, 1, 1)
    assert asked("engine.gpus=0", gpus=4) == (1, 0, 1)
    assert asked("engine.gpus=0.25", "engine.cpus=3", gpus=4) == (3, 0.25, 1)
    assert asked("engine.gpus=2", gpus=4) == (2, 2, 2)
    assert asked("engine.processes=2", "runtime.threads=2", gpus=4) == (4, 2, 2)
    assert asked("engine.processes=2", "engine.gpus=1", gpus=4) == (2, 1, 2)
    assert asked("runtime.threads=16") == (8, 0, 1)
    assert asked("runtime.threads=16", "engine.address=auto") == (16, 0, 1)
    memory = compose(["+step=gelu", "engine=ray", "engine.memory_gb=0.5"])
    found = needs(memory.engine, memory.runtime, [{"CPU": 2, "memory": 2**28}])
    assert found.memory == 2**29
    assert not found.fit({"CPU": 2, "memory": 2**28})
    assert found.fit({"CPU": 2, "memory": 2**30})
