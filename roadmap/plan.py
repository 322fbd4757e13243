"""A study as a list of runs: every step with every seed, each with its folder and whether it is done. No torch here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap import config
from roadmap.checks import check
from roadmap.data import sources
from roadmap.errors import Refused, nearest
from roadmap.layout import layout
from roadmap.overrides import config_folders, quoted
from roadmap.record import RunFolder, check_output
from roadmap.schema import Experiment
from roadmap.steps import Step, known_steps
from roadmap.storage import write_whole


@dataclass(frozen=True)
class Point:
    """One run of a study; `command` is what follows `python -m roadmap.run` to carry out this run and no other."""

    experiment: Experiment
    fingerprint: str
    folder: RunFolder
    command: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.folder.result() is not None


@dataclass(frozen=True)
class Plan:
    """All runs of a study, parents before children, and what the report needs to know about them."""

    steps: tuple[Step, ...]
    points: tuple[Point, ...]
    warnings: tuple[str, ...] = ()

    @property
    def first(self) -> Experiment:
        """Any run's experiment: scale, data and recipe are the same in all."""
        return self.points[0].experiment

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.points[0].folder.path.parent.parent

    def describe(self) -> dict[str, Any]:
        """What `study.json` says: the question, the rows of the table in order, and the runs that fill them."""
        experiment = self.first
        return {
            "study": experiment.study.name,
            "question": experiment.study.question,
            "scale": config.plain(experiment.scale),
            "data": str(experiment.data.source),
            "image_size": experiment.data.image_size,
            "epochs": experiment.recipe.epochs,
            "recipe": experiment.recipe.name,
            "seeds": list(experiment.study.seeds),
            "steps": [dataclasses.asdict(step) for step in self.steps],
            "runs": [point.folder.path.name for point in self.points],
        }

    def write(self) -> None:
        """Write `study.json` into the study's folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "study.json", json.dumps(self.describe(), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise Refused(f"output={self.first.output}: {self.folder} cannot be written: {error}") from error


def plan(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Plan:
    """The runs of the study that these overrides name (`+study=NAME` among them).

    Raises:
        Refused: for anything that one of the runs could not start from.

    """
    known = known_steps(*config_dirs)
    first = config.compose([*overrides, f"+step={next(iter(known))}"], config_dirs)
    study = first.study
    names = list(known) if study.steps == ["all"] else study.steps
    for name in names:
        if name not in known:
            raise Refused(f"study.steps: there is no step {name!r}; {nearest(name, list(known))}")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds) or len(set(names)) < len(names) or not names:
        raise Refused(f"study.steps={names}, study.seeds={study.seeds}: each must name at least one, and none twice")
    for seed in study.seeds:
        check(dataclasses.replace(first, seed=seed))
    check_output(first)
    found = sources.check(first)  # data and seeds first: composing every step takes seconds
    steps = [step for step in known.values() if step.name in names]
    experiments = [config.compose([*overrides, f"+step={step.name}"], config_dirs) for step in steps]
    fingerprint = sources.fingerprint(first.data, found)
    runs = [dataclasses.replace(experiment, seed=seed) for experiment in experiments for seed in study.seeds]
    points = [Point(run, fingerprint, RunFolder.of(run, fingerprint), _command(run, overrides, config_dirs)) for run in runs]
    return Plan(tuple(steps), tuple(points), tuple(_warnings(steps, experiments, overrides, config_dirs)))


def _command(run: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path]) -> tuple[str, ...]:
    """The arguments of `python -m roadmap.run` that describe this run, from any working directory but for `data.path`."""
    folders = [word for folder in config_folders(config_dirs) for word in ("--config-dir", str(folder))]
    output = quoted(str(Path(run.output).absolute()))
    return (*folders, *overrides, f"+step={run.step.name}", f"seed={run.seed}", f"output={output}")


def _warnings(
    steps: Sequence[Step], experiments: Sequence[Experiment], overrides: Sequence[str], config_dirs: Sequence[Path]
) -> list[str]:
    """Overrides that have no effect on any step, and steps that they make equal to their parents."""
    said = [config.warnings(run, [*overrides, f"+step={run.step.name}"], config_dirs) for run in experiments]
    keys = set.intersection(*({warning.split()[0] for warning in warnings} for warnings in said))
    found = [warning for warning in said[0] if warning.split()[0] in keys]
    if any(override.startswith("seed=") for override in overrides):
        found.append("seed has no effect in a sweep: study.seeds lists the seeds")
    layouts = {run.step.name: layout(run.model) for run in experiments}
    for step in steps:
        if step.parent in layouts and layouts[step.name] == layouts[step.parent]:
            found.append(f"step {step.name} has the network of its parent {step.parent} under these overrides")
    return found
