"""Hydra's Optuna sweeper: `-m hydra/sweeper=optuna data.held_out=0.2 recipe.lr=interval(1e-4,1e-2)`.

What is optimised is the score of images held out of training; by the evaluation images nothing is ever chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from roadmap.base.errors import Refused
from roadmap.config.overrides import parse
from roadmap.config.schema import Experiment
from roadmap.record.result import Metric

CHOSEN = "hydra/sweeper=optuna"
COUNTS = ("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs")
RESULTS = "optimization_results.yaml"  # as the sweeper calls it
OWN = {"hydra.sweeper.n_jobs": "1", "hydra.sweeper.sampler.seed": "0"}  # one job at a time, and the same ones every time


def optimises(overrides: Sequence[str]) -> bool:
    """Whether the command line asks for Optuna."""
    return CHOSEN in overrides


def ends(overrides: Sequence[str]) -> list[str]:
    """The overrides with the two ends of each interval in its place: every job lies between such."""
    return [_ends(override) for override in parse(overrides)]


def _ends(override: Override) -> str:
    value, line = override.value(), str(override.input_line)
    return f"{line.split('=')[0]}={value.start},{value.end}" if isinstance(value, IntervalSweep) else line


def check_optimised(overrides: Sequence[str], multirun: bool) -> None:
    """Refuse what could not be optimised, before any job is looked at."""
    if not multirun:
        raise Refused(f"{CHOSEN}: several runs; add -m")
    swept = {override.key_or_group for override in parse(overrides) if override.is_sweep_override()}
    if {"task", "study"} & swept:
        raise Refused(f"{CHOSEN}: one task and one study; scores of several are not compared")
    for override in parse(overrides):
        if override.key_or_group in COUNTS and not (type(value := override.value()) is int and value >= 1):
            raise Refused(f"{override.input_line}: must be a whole number, at least 1")
    if not swept:
        raise Refused(f"{CHOSEN}: nothing to choose; give a setting an interval or values: recipe.lr=interval(1e-4,1e-2)")
    if not installed():
        raise Refused(f"{CHOSEN} needs Hydra's sweeper for Optuna: pip install 'roadmap[optuna]'")


def installed() -> bool:
    """Whether Hydra would find its sweeper for Optuna."""
    with suppress(ModuleNotFoundError):
        return find_spec("hydra_plugins.hydra_optuna_sweeper") is not None
    return False


def check_held_out(experiment: Experiment) -> None:
    """Refuse to optimise the score of the evaluation images."""
    if not experiment.data.held_out:
        raise Refused(
            f"data.held_out=0: must be above 0 with {CHOSEN}: settings are chosen by images held out of training, "
            "never by those that results are reported on; for example data.held_out=0.2"
        )


def words(overrides: Sequence[str], metric: Metric) -> list[str]:
    """What the sweeper is told beside the command line: which way is better, and what makes it repeatable.

    Raises:
        Refused: where the command line says the other way.

    """
    given: Mapping[str, str] = dict(word.split("=", 1) for word in overrides if "=" in word)
    better = "maximize" if metric.higher_is_better else "minimize"
    if given.get("hydra.sweeper.direction", better) != better:
        raise Refused(f"hydra.sweeper.direction={given['hydra.sweeper.direction']}: must be {better}, for {metric.label}")
    unseeded = "hydra/sweeper/sampler" in given  # another may have no seed
    own = {key: value for key, value in OWN.items() if key not in given and not (unseeded and key.endswith("seed"))}
    return [f"{key}={value}" for key, value in {**own, "hydra.sweeper.direction": better}.items() if key not in given]


def best(folder: Path, metric: Metric) -> str:
    """The best settings and their score, as the sweeper wrote them down; empty where it did not."""
    file = folder / RESULTS
    if not file.is_file():
        return ""
    found = OmegaConf.load(file)
    settings = " ".join(f"{key}={value}" for key, value in found.best_params.items())
    return f"best: {settings}\n{metric.text(found.best_value)} of the images held out; {file}"
