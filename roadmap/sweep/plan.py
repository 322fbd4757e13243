"""A study as a list of runs: every step with every seed, each with its folder and whether it is done. No torch here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.base.errors import Held, Refused
from roadmap.base.files import write_whole
from roadmap.base.redaction import hide
from roadmap.config.checks import check
from roadmap.config.compose import with_toggles
from roadmap.config.effects import ineffective_settings
from roadmap.config.identity import plain
from roadmap.config.overrides import config_folders, quoted
from roadmap.config.schema import Experiment, ModelConfig, StudyKind
from roadmap.config.steps import known_steps
from roadmap.data.images import sources
from roadmap.model.check import compose_run
from roadmap.model.layout import layout
from roadmap.record.folder import RunFolder
from roadmap.record.study import Variant
from roadmap.run.preflight import check_output, check_reference
from roadmap.sweep.design import Design, design, set_between


@dataclass(frozen=True)
class Point:
    """One run of a study; `command` is what follows `python -m roadmap.run` to carry out this run and no other."""

    name: str  # the variant and the seed
    experiment: Experiment
    fingerprint: str
    folder: RunFolder
    command: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.folder.result() is not None

    def elsewhere(self) -> RunFolder | None:
        """The same run, done in another study under the same `output`."""
        others = sorted(self.folder.path.parents[2].glob(f"*/runs/*-s{_same(self)}"))
        found = (RunFolder(path) for path in others if path != self.folder.path)
        return next((other for other in found if (result := other.result()) and result["status"] == "done"), None)

    def borrow(self) -> bool:
        """Take over the record of the same run from another study; whether there was one."""
        other = None if self.done else self.elsewhere()
        if other is None:
            return False
        with suppress(Held), self.folder.claimed() as mine:
            mine.copy_record(other)
            return True
        return False


@dataclass(frozen=True)
class Plan:
    """All runs of a study, those that are compared with before those that are, and what the report needs to know of them."""

    design: Design
    rows: dict[str, tuple[Point, ...]]  # runs of each variant, by seed; variants of one network share theirs
    warnings: tuple[str, ...] = ()

    @property
    def points(self) -> list[Point]:
        """Every run once."""
        return list({point.folder.path: point for points in self.rows.values() for point in points}.values())

    @property
    def first(self) -> Experiment:
        """Any run's experiment: scale, data and recipe are the same in all."""
        return self.points[0].experiment

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.points[0].folder.path.parent.parent

    def describe(self) -> dict[str, Any]:
        """What `study.json` says: the question, the rows of the table in order, their runs, and the effects."""
        experiment = self.first
        held = experiment.data.held_out
        return {
            "study": experiment.study.name,
            "question": experiment.study.question,
            "kind": "rows" if experiment.study.rows else str(experiment.study.kind),
            "scale": plain(experiment.scale),
            "data": str(experiment.data.source) + (f" ({100 * held:g} % of train held out)" if held else ""),
            "image_size": experiment.data.image_size,
            "epochs": experiment.recipe.epochs,
            "recipe": experiment.recipe.name,
            "seeds": list(experiment.study.seeds),
            "rows": [self._row(variant) for variant in self.design.variants],
            "effects": [dataclasses.asdict(effect) for effect in self.design.effects],
        }

    def _row(self, variant: Variant) -> dict[str, Any]:
        model = self.rows[variant.name][0].experiment.model
        parent = self.rows[variant.parent][0].experiment.model if variant.parent else model
        runs = [point.folder.path.name for point in self.rows[variant.name]]
        return {**dataclasses.asdict(variant), "toggles": list(set_between(parent, model)), "runs": runs}

    def write(self) -> None:
        """Write `study.json` into the study's folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "study.json", json.dumps(hide(self.describe()), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise Refused(f"output={self.first.output}: {self.folder} cannot be written: {error}") from error


def plan(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Plan:
    """The runs of the study that these overrides name (`+study=NAME` among them).

    Raises:
        Refused: for anything that one of the runs could not start from.

    """
    known = known_steps(*config_dirs)
    if any(override.startswith("reference=") for override in overrides):
        raise Refused("reference=NAME is a single run's; a study names its references in study.references=[NAME,...]")
    first = compose_run([*overrides, f"+step={next(iter(known))}"], config_dirs)
    seeds = first.study.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise Refused(f"study.seeds={seeds}: must name at least one, and none twice")
    for seed in seeds:
        check(dataclasses.replace(first, seed=seed))
    check_output(first)
    # Data and seeds first: composing every step takes seconds.
    found = sources.checked_images(first.data, first.recipe.batch_size)
    fingerprint = sources.fingerprint(first.data, found)

    def model_of(step: str) -> ModelConfig:
        return compose_run([*overrides, f"+step={step}"], config_dirs).model

    designed = design(first.study, known, model_of)
    if not first.study.rows and first.study.kind == StudyKind.equal_flops:
        from roadmap.sweep.equal_cost import at_equal_cost  # torch, from here on

        designed = at_equal_cost(designed, model_of, len(found.classes), first.data.image_size)
    every = {variant.name: _points(variant, overrides, config_dirs, seeds, fingerprint) for variant in designed.variants}
    rows, designed = _shared(every, designed)
    for points in rows.values():
        check_reference(points[0].experiment, len(found.classes))
    warned = _warnings({name: points[0].experiment for name, points in rows.items()}, designed, overrides, config_dirs)
    return Plan(designed, rows, tuple(warned))


def _shared(rows: Mapping[str, tuple[Point, ...]], designed: Design) -> tuple[dict[str, tuple[Point, ...]], Design]:
    """Variants of one network with one run for each seed; what would compare it with itself asks nothing."""
    known: dict[str, Point] = {}
    shared = {name: tuple(known.setdefault(_same(point), point) for point in points) for name, points in rows.items()}
    asked = [effect for effect in designed.effects if len({shared[name][0].folder.path for name in effect.weights}) > 1]
    return shared, dataclasses.replace(designed, effects=tuple(asked))


def _same(point: Point) -> str:
    """Seed and identity: the step may have another name."""
    return point.folder.path.name.rsplit("-s", 1)[1]


def _points(
    variant: Variant, overrides: Sequence[str], config_dirs: Sequence[Path], seeds: Sequence[int], fingerprint: str
) -> tuple[Point, ...]:
    """The runs of one variant."""
    base = compose_run([*overrides, f"reference={variant.name}" if variant.reference else f"+step={variant.step}"], config_dirs)
    experiment = with_toggles(base, variant.overrides) if variant.overrides else base
    words = [*overrides, *variant.overrides]
    runs = [dataclasses.replace(experiment, seed=seed) for seed in seeds]
    return tuple(
        Point(f"{variant.name}-s{run.seed}", run, fingerprint, RunFolder.of(run, fingerprint), _command(run, words, config_dirs))
        for run in runs
    )


def _command(run: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path]) -> tuple[str, ...]:
    """The arguments of `python -m roadmap.run` that describe this run, from any working directory but for `data.path`."""
    own = [word for word in overrides if word.split("=")[0] not in ("study.steps", "study.seeds")]  # a run has one of each
    folders = [word for folder in config_folders(config_dirs) for word in ("--config-dir", str(folder))]
    output = quoted(str(Path(run.output).absolute()))
    trained = f"+step={run.step.name}" if run.reference is None else f"reference={run.reference}"
    return (*folders, *own, trained, f"seed={run.seed}", f"output={output}")


def _warnings(
    experiments: Mapping[str, Experiment], designed: Design, overrides: Sequence[str], config_dirs: Sequence[Path]
) -> list[str]:
    """Overrides that have no effect on any row, and rows that they make equal to those they are compared with."""
    steps = [run for run in experiments.values() if run.reference is None]
    said = [ineffective_settings(run, [*overrides, f"+step={run.step.name}"], config_dirs) for run in steps]
    keys = set.intersection(*({warning.split()[0] for warning in warnings} for warnings in said))
    found = [warning for warning in said[0] if warning.split()[0] in keys]
    if any(override.startswith("seed=") for override in overrides):
        found.append("seed has no effect in a sweep: study.seeds lists the seeds")
    layouts = {name: layout(run.model) for name, run in experiments.items()}
    for variant in designed.variants:
        if variant.parent in layouts and layouts[variant.name] == layouts[variant.parent]:
            what = "step" if variant.name == variant.step else "row"
            found.append(f"{what} {variant.name} has the network of its parent {variant.parent} under these overrides")
    return found
