"""Sweeps of `-m` over ranges and choices, and Hydra's Optuna sweeper, which never chooses by the evaluation images."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import QUICK
from omegaconf import OmegaConf

from roadmap.base.errors import Refused
from roadmap.config.overrides import check_override, parse
from roadmap.config.schema import TaskName
from roadmap.record.folder import RunFolder
from roadmap.run import optimise
from roadmap.run import preflight as checks
from roadmap.run.preflight import check_jobs, metric_of
from roadmap.tasks.metrics import METRICS

RATE = "recipe.lr=interval(1e-4,1e-2)"
OPTUNA = [optimise.CHOSEN, "+step=gelu", *QUICK]
HAS_OPTUNA = optimise.installed()
METRIC = METRICS[TaskName.classification]


@pytest.fixture
def with_optuna(monkeypatch):
    monkeypatch.setattr(optimise, "installed", lambda: True)


def jobs_of(monkeypatch, *words):
    """What the jobs of this command line are composed of."""
    seen = []

    def preflight(experiment):
        seen.append(experiment)
        return SimpleNamespace(classes=[])

    monkeypatch.setattr(checks, "preflight", preflight)
    check_jobs(list(words), [], multirun=True)
    return seen


def test_ranges_and_choices_are_swept(monkeypatch):
    jobs = jobs_of(monkeypatch, "seed=range(0,3)", "+step=choice(gelu,kernel_7)", "scale=atto")
    assert [(job.step.name, job.seed) for job in jobs] == [(s, n) for n in range(3) for s in ("gelu", "kernel_7")]
    lengths = jobs_of(monkeypatch, "+step=gelu", "recipe.epochs=range(4,8,2)")
    assert [job.recipe.epochs for job in lengths] == [4, 6]


def test_both_ends_of_an_interval_are_looked_at_before_anything_runs(monkeypatch, with_optuna):
    jobs = jobs_of(monkeypatch, *OPTUNA, RATE, "model.kernel_size=3,5", "data.held_out=0.2")
    assert [(job.recipe.lr, job.model.kernel_size) for job in jobs] == [(1e-4, 3), (1e-4, 5), (1e-2, 3), (1e-2, 5)]
    assert optimise.ends(["recipe.lr=tag(log,interval(0.1,1))", "seed=1"]) == ["recipe.lr=0.1,1.0", "seed=1"]
    with pytest.raises(Refused, match=r"model\.drop_path=2\.0: must be at least 0 and below 1"):
        check_jobs([*OPTUNA, "model.drop_path=interval(0.0,2.0)", "data.held_out=0.2"], [], multirun=True)


@pytest.mark.parametrize(
    ("words", "multirun", "said"),
    [
        ([RATE], True, r"data\.held_out=0: must be above 0 with hydra/sweeper=optuna.*for example data\.held_out=0\.2"),
        ([RATE, "data.held_out=0,0.2"], True, "data.held_out=0: must be above 0"),
        (["data.held_out=0.2"], True, "nothing to choose"),
        ([RATE, "data.held_out=0.2"], False, "add -m"),
        (["task=detection,segmentation", "data.held_out=0.2"], True, "one task and one study"),
    ],
)
def test_what_cannot_be_optimised_is_refused(words, multirun, said, with_optuna):
    with pytest.raises(Refused, match=said):
        check_jobs([*OPTUNA, *words], [], multirun=multirun)


def test_what_is_optimised_is_the_score_of_the_task():
    assert metric_of([*OPTUNA, RATE], []).label == "top-1"
    assert metric_of([optimise.CHOSEN, "+step=gelu", RATE, "task=detection"], []).label == "box AP"


def test_without_the_sweeper_the_words_to_install_it_are_said(monkeypatch):
    monkeypatch.setattr(optimise, "installed", lambda: False)
    with pytest.raises(Refused, match=r"pip install 'roadmap\[optuna\]'"):
        check_jobs([*OPTUNA, RATE, "data.held_out=0.2"], [], multirun=True)
    with pytest.raises(Refused, match=r"cannot be swept; list the values, recipe\.lr=a,b, or add hydra/sweeper=optuna"):
        check_override(parse([RATE])[0])


def test_the_sweeper_maximises_one_job_at_a_time_from_a_seed():
    assert optimise.words([], METRIC) == [
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.sampler.seed=0",
        "hydra.sweeper.direction=maximize",
    ]
    assert optimise.words(["hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=2"], METRIC) == [
        "hydra.sweeper.direction=maximize"
    ]
    with pytest.raises(Refused, match="must be maximize, for top-1"):
        optimise.words(["hydra.sweeper.direction=minimize"], METRIC)


@pytest.mark.parametrize("key", ["sweeper.custom_search_space", "sweeper.sampler._target_", "sweeper._target_", "launcher.a._b"])
def test_a_sweeper_runs_no_code_of_the_command_lines(key):
    (override,) = parse([f"hydra.{key}=os.system"])
    with pytest.raises(Refused, match="not open"):
        check_override(override)


@pytest.mark.skipif(not HAS_OPTUNA, reason="needs hydra-optuna-sweeper, of the extra optuna")
def test_optuna_finds_the_best_of_the_images_held_out(tmp_path):
    words = [*OPTUNA, "hydra.sweeper.n_trials=2", RATE, "data.held_out=0.2", f"output={tmp_path}"]
    command = [sys.executable, "-m", "roadmap.run", "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = OmegaConf.load(tmp_path / "multirun" / optimise.RESULTS)
    results = [RunFolder(path).result() for path in (tmp_path / "single" / "runs").iterdir()]
    assert len(results) == 2
    best = max(results, key=lambda result: result.score)
    assert (found.best_value, found.best_params["recipe.lr"]) == (best.score, best.recipe["lr"])
    assert all(result.data["held_out"] == 0.2 for result in results)
    assert f"best: recipe.lr={best.recipe['lr']}" in done.stdout
