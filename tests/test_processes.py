"""Beside a busy process OpenMP's threads wait asleep; on an idle machine, and where a user says how, nothing is touched."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from roadmap.base import processes
from roadmap.base.processes import Use, use_of_cores, wait_asleep_beside_others
from roadmap.train.loop import Trainer


@pytest.fixture
def waiting(monkeypatch):
    """What is set of GOMP_SPINCOUNT where in one second the cores worked so long, and this process so long of it."""
    for name in processes.OWN_WAITING:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)

    def call(cores, own, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(processes, "use_of_cores", lambda: Use(11.0, 50.0 + cores, 5.0 + own))
        wait_asleep_beside_others(Use(10.0, 50.0, 5.0))
        return os.environ.get("GOMP_SPINCOUNT")

    return call


def test_threads_wait_asleep_beside_another_process(waiting):
    assert waiting(cores=1.9, own=0.9) == "0"


def test_an_idle_machine_is_left_as_it_is(waiting):
    assert waiting(cores=1.0, own=0.9) is None


def test_what_a_user_set_stays(waiting):
    assert waiting(cores=2.0, own=0.5, GOMP_SPINCOUNT="100") == "100"


def test_a_user_s_policy_stays(waiting):
    assert waiting(cores=2.0, own=0.5, OMP_WAIT_POLICY="active") is None


def test_the_work_of_this_process_is_its_own(monkeypatch, tmp_path):
    before = use_of_cores()
    while sum(os.times()[:4]) < before.own + 0.1:
        pass
    assert use_of_cores().own >= before.own + 0.1
    core = processes.cores()[0]
    (tmp_path / "stat").write_text(
        f"cpu  1 1 1 1 1 1 1 1 0 0\ncpu{core} 100 0 50 9000 700 10 20 20 3 0\ncpu99999 7 7 7 7 7 7 7 7 7 7\n"
    )
    monkeypatch.setattr(processes, "STAT", tmp_path / "stat")
    assert use_of_cores().cores == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    monkeypatch.setattr(processes, "STAT", tmp_path / "none")
    now = use_of_cores()
    assert now.cores == now.own


def test_a_run_knows_that_it_has_become_slow():
    slower = Trainer.slower.fget
    assert slower(SimpleNamespace(speeds=[1.0, 2.0, 50.0] + [95.0] * 10 + [5.0] * 10)) == pytest.approx(19)
    assert slower(SimpleNamespace(speeds=[1.0, 2.0, 50.0] + [95.0] * 30)) == 1
    assert slower(SimpleNamespace(speeds=[95.0] * 10 + [5.0] * 5)) == 1
