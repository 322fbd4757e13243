"""Parts of one's own, rows that start from other rows and studies that start from others, on a real Slurm and a real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file

from conftest import QUICK
from slurm_cluster import Cluster, missing

import roadmap

no_slurm = pytest.mark.skipif(missing() is not None or find_spec("submitit") is None, reason="needs Slurm and submitit")
no_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'roadmap[ray]'")
ENGINES = [pytest.param("slurm", marks=no_slurm), pytest.param("ray", marks=no_ray)]
pytestmark = [pytest.mark.clusters, pytest.mark.parametrize("engine", ENGINES)]

PARTS = """
from roadmap.parts import activation

@activation("mish", cost={"aten::mish": 0})
def mish():
    from torch import nn
    return nn.Mish()
"""
ROWS = """# @package _global_
study:
  name: own
  seeds: [0, 1]
  rows:
    - {name: first, step: gelu, set: [model.activation=mish]}
    - {name: again, step: gelu, set: [model.activation=mish], after: first, compare: first}
"""


NEXT = """# @package _global_
study: {name: next, seeds: [0, 1], rows: [{name: first, step: gelu, set: [model.activation=mish]}]}
"""


@pytest.fixture
def sweep(engine, tmp_path, monkeypatch):
    """`sweep(engine, output, *words)`: a sweep with parts of one's own through the command line; returns its results by run."""
    my = tmp_path / "my"
    (my / "study").mkdir(parents=True)
    (my / "parts.py").write_text(PARTS)
    (my / "study" / "own.yaml").write_text(ROWS)
    (my / "study" / "next.yaml").write_text(NEXT)
    cluster = Cluster(tmp_path / "cluster") if engine == "slurm" else None
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    own = {"PYTHONPATH": str(Path(roadmap.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    environment = {**kept, **(cluster.environment if cluster else {}), **own}

    def swept(engine, output, *words):
        line = [sys.executable, "-m", "roadmap.sweep", *words, *QUICK, "--config-dir", "my", "parts=[my]"]
        line += [f"engine={engine}", f"output={output}", *["engine.minutes=30"] * (engine == "slurm")]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        found = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / output).rglob("result.json")}
        return {name: [result.get(key) for key in ("scores", "train_loss", "init")] for name, result in found.items()}

    yield swept
    if cluster:
        cluster.stop()


def test_rows_after_others_with_parts_come_out_as_on_this_machine(engine, sweep):
    there, here = (sweep(where, f"out-{where}", "study=own") for where in (engine, "local"))
    assert there == here
    assert sorted(name.rsplit("-", 1)[0] for name in there) == ["again-s0", "again-s1", "first-s0", "first-s1"]
    starts = {name: result[2] for name, result in there.items() if name.startswith("again")}
    firsts = {name.split("-")[1]: name for name in there if name.startswith("first")}
    assert all(start == {"run": firsts[name.split("-")[1]]} for name, start in starts.items())


def test_a_study_starts_from_another_ones_runs(engine, sweep):
    sweep("local", "out", "study=own")
    words = ["study=next", "study.start=out/own", "recipe.epochs=1", "recipe.warmup_epochs=0"]
    there, here = (sweep(where, f"next-{where}", *words) for where in (engine, "local"))
    assert there == here
    assert all(result[2]["run"].startswith(name.rsplit("-", 1)[0]) for name, result in there.items())
