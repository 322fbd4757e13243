"""One process at a time at a run, whatever happens to the others; results are written once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from records import made

from roadmap.base import files as storage
from roadmap.base.errors import Held
from roadmap.record.folder import RunFolder

TESTS = str(Path(__file__).parent.parent)
HOLD = """
import os, sys, time
from pathlib import Path
from roadmap.record.folder import RunFolder
with RunFolder(Path(sys.argv[1])).claimed() as mine:
    if os.fork() == 0:  # as a loader's process: it outlives the holder
        time.sleep(30)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
    try:
        mine.write_result({"by": os.getpid()})
    except Exception as error:
        print(type(error).__name__, flush=True)
    else:
        print("written", flush=True)
"""


class Holder:
    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def test_a_run_has_one_holder_and_a_dead_one_is_followed_at_once(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with Holder(folder.path) as other:
        with pytest.raises(Held, match=f"process {other.process.pid} on .*, since .* is carrying out this run"), folder.claimed():
            pass
        assert f"process {other.process.pid}" in folder.holder()
        os.kill(other.process.pid, signal.SIGKILL)  # its child lives on
        other.process.wait()
        assert folder.holder() is None
        with folder.claimed() as mine:
            mine.write_result(made(reason="mine"))
    assert folder.result() == made(reason="mine")
    assert folder.holder() is None
    assert [path.name for path in folder.path.iterdir()] == ["result.json"]


def test_a_stopped_holder_that_lost_its_claim_writes_nothing(tmp_path):
    """A process that stood still keeps its claim; where a user takes it away, it must notice."""
    folder = RunFolder(tmp_path / "run")
    with Holder(folder.path) as other:
        os.kill(other.process.pid, signal.SIGSTOP)
        assert folder.holder() is not None
        (folder.path / "claim").unlink()
        with folder.claimed() as mine:
            os.kill(other.process.pid, signal.SIGCONT)
            other.process.stdin.write("\n")
            other.process.stdin.flush()
            assert other.process.stdout.readline() == "Held\n"
            assert folder.result() is None
            mine.write_result(made(reason="mine"))
    assert folder.result() == made(reason="mine")


def test_a_claim_with_another_s_token_is_lost(tmp_path):
    """As on a network disk whose server took the lock back."""
    with RunFolder(tmp_path / "run").claimed() as mine:
        mine.check_claim()
        os.pwrite(mine.claim.descriptor, json.dumps({"token": "x", "pid": 1, "host": "h", "since": "s"}).ljust(200).encode(), 0)
        for write in (lambda: mine.write_result(made()), lambda: mine.add_epoch({"epoch": 0}), mine.check_claim):
            with pytest.raises(Held, match="has taken over"):
                write()
    assert not (tmp_path / "run/result.json").exists()


def test_a_result_is_written_once(tmp_path):
    with RunFolder(tmp_path / "run").claimed() as mine:
        mine.write_result(made(reason="first"))
        with pytest.raises(Held, match="written by another process"):
            mine.write_result(made(reason="second"))
        with pytest.raises(Held, match="this process"), RunFolder(tmp_path / "run").claimed():
            pass
        assert mine.holder() == "this process"
        mine.check_claim()  # asking did not give it away
    assert RunFolder(tmp_path / "run").result() == made(reason="first")


def test_a_file_system_without_hard_links_has_results_too(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage.write_atomic(tmp_path / "result.json", "1", once=True)
    with pytest.raises(FileExistsError):
        storage.write_atomic(tmp_path / "result.json", "2", once=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"result.json": "1"}


SWEEPER = """
import os, sys, time, random
from pathlib import Path
from roadmap.base.errors import Held
from roadmap.record.folder import RunFolder

sys.path.insert(0, sys.argv[3])
from records import made

root, count = Path(sys.argv[1]), int(sys.argv[2])
witness = os.open(root / "witness", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
folders = [RunFolder(root / f"run-{i}") for i in range(count)]
while left := [folder for folder in folders if folder.result() is None]:
    folder = random.choice(left)
    if folder.holder() is not None:
        continue
    try:
        with folder.claimed() as mine:
            if mine.result() is not None:
                continue
            for epoch in range(2):
                mine.add_epoch({"epoch": epoch})
                time.sleep(random.uniform(0, 0.004))
            mine.write_result(made(reason=str(os.getpid())))
            os.write(witness, f"{folder.path.name}\\n".encode())
    except Held:
        pass
"""


def test_sweepers_of_one_folder_do_each_task_once(tmp_path, storm, figure):
    """Tasks are tiny and the sweepers are killed all the time; each task has one result, and nobody wrote a second."""
    sweepers, tasks, kills = (8, 200, 60) if storm else (4, 60, 8)

    def start():
        return subprocess.Popen([sys.executable, "-c", SWEEPER, str(tmp_path), str(tasks), TESTS])

    running, killed = [start() for _ in range(sweepers)], 0
    while running:
        time.sleep(random.uniform(0, 0.3))
        running = [process for process in running if process.poll() is None]
        if running and killed < kills:
            victim = random.choice(running)
            os.kill(victim.pid, signal.SIGSTOP if random.random() < 0.2 else signal.SIGKILL)
            time.sleep(random.uniform(0, 0.05))
            victim.kill()
            victim.wait()
            killed += 1
            running = [process for process in running if process is not victim] + [start()]
    witnessed = (tmp_path / "witness").read_text().split()
    results = [RunFolder(tmp_path / f"run-{i}").result() for i in range(tasks)]
    assert all(results)
    assert len(witnessed) == len(set(witnessed))
    assert tasks - killed <= len(witnessed) <= tasks  # one killed between its result and its word is not heard
    assert all(len(RunFolder(tmp_path / f"run-{i}").history()) == 2 for i in range(tasks))
    for i in range(tasks):
        RunFolder(tmp_path / f"run-{i}").tidy()
    assert {path.name for path in tmp_path.glob("run-*/*")} == {"history.jsonl", "result.json"}
    figure(f"{sweepers} sweepers, {tasks} tasks, {killed} kills: {len(results)} results, 0 written twice")
