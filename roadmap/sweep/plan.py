"""A study as a list of runs: every step with every seed, each with its folder and whether it is done. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.base.errors import Held, Refused, placed
from roadmap.config.checks import NAME, check, study_folder
from roadmap.config.compose import compose, with_settings
from roadmap.config.effects import ineffective_settings, said_twice
from roadmap.config.identity import start_of
from roadmap.config.overrides import config_folders, quoted
from roadmap.config.schema import Experiment, StudyKind
from roadmap.config.steps import all_steps, check_whole, known_steps
from roadmap.data.images import sources
from roadmap.model.check import compose_run, differs
from roadmap.paper.published import Published, read_published
from roadmap.record.folder import RunFolder, runs_of
from roadmap.record.study import PlannedRow, StudyPlan, Variant, same_in_all, seed_and_identity, write_plan
from roadmap.record.weights import weights_file
from roadmap.run.preflight import check_network, preflight
from roadmap.run.start import begun, check_start, following, hashed
from roadmap.sweep.design import Design, design, in_order, set_between
from roadmap.sweep.equal_cost import at_equal_cost
from roadmap.tasks.metrics import METRICS


@dataclass(frozen=True)
class Point:
    """One run of a study; `command` is what follows `python -m roadmap.run` to carry out this run and no other."""

    name: str  # the variant and the seed
    experiment: Experiment
    fingerprint: str
    folder: RunFolder
    command: tuple[str, ...]
    before: Point | None = None  # the run from whose weights it starts

    @property
    def which(self) -> str:
        """Its seed and identity, by which it is known whatever its row is called."""
        return seed_and_identity(self.folder.path.name)

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.folder.result() is not None

    @property
    def trained(self) -> bool:
        """Whether it is done and did not diverge."""
        result = self.folder.result()
        return result is not None and result.done

    def result_elsewhere(self, with_weights: bool = False) -> RunFolder | None:
        """The folder of the same run, done in another study under the same `output`, and where asked with its weights."""
        output = self.folder.path.parents[2]
        studies = sorted(output.iterdir()) if output.is_dir() else []
        for path in (path for study in studies for path in runs_of(study / "runs", self.which)):
            with suppress(Refused):  # a record of another version of roadmap, or no weights
                result = RunFolder(path).result() if path != self.folder.path else None
                if result is not None and result.done:
                    if with_weights:
                        weights_file(path)
                    return RunFolder(path)
        return None

    def reuse_result(self, with_weights: bool = False) -> bool:
        """Copy the record if another study has this run, and where asked its weights; return whether it did."""
        other = None if self.done else self.result_elsewhere(with_weights)
        if other is None:
            return False
        with suppress(Held), self.folder.claimed() as mine:
            mine.copy_record(other)
            return True
        return False


@dataclass(frozen=True)
class SweepPlan:
    """Every run of a study, and what its report needs to know: parents come before the rows that are compared with them."""

    design: Design
    rows: dict[str, tuple[Point, ...]]  # runs of each variant, by seed; variants of one network share theirs
    first: Experiment  # the roadmap's first step: scale, data and recipe are those of every row that declares no others
    warnings: tuple[str, ...] = ()
    published: Published | None = None

    @property
    def points(self) -> list[Point]:
        """Every run once."""
        return list({point.folder.path: point for points in self.rows.values() for point in points}.values())

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.points[0].folder.path.parent.parent

    def study_plan(self) -> StudyPlan:
        """What `study.json` says: the question, the rows of the table in order, their runs, and the effects."""
        first, runs = self.first, [point.experiment for point in self.points]
        study, data, recipe = first.study, first.data, first.recipe
        return StudyPlan(
            study=study.name,
            question=study.question,
            kind="rows" if study.rows else str(study.kind),
            scale=first.scale,
            data=str(data.source) + (f" ({100 * data.held_out:g} % of train held out)" if data.held_out else ""),
            image_size=same_in_all(run.data.image_size for run in runs),
            epochs=same_in_all(run.recipe.epochs if run.recipe.updates is None else 0 for run in runs),
            recipe=recipe.name,
            seeds=tuple(study.seeds),
            rows=tuple(map(self._row, self.design.variants)),
            effects=self.design.effects,
            metric=METRICS[first.task.name],
            published=self.published,
        )

    def _row(self, variant: Variant) -> PlannedRow:
        point = self.rows[variant.name][0]
        parent = self.rows[variant.parent][0].experiment if variant.parent else None
        between = set_between(parent or self.first, point.experiment)
        own = {override.split("=")[0] for override in variant.overrides}
        toggles = [key for key in between if parent or not key.startswith("model.") or key in own]  # its network is its step's
        own_start = point.experiment.study.start is None and start_of(parent or self.first) != start_of(point.experiment)
        toggles += ["start.weights"] * own_start
        runs = tuple(other.folder.path.name for other in self.rows[variant.name])
        return PlannedRow(variant, tuple(key.removeprefix("model.") for key in toggles), runs)

    def write(self) -> None:
        """Write `study.json` into the study's folder."""
        try:
            write_plan(self.folder, self.study_plan())
        except OSError as error:
            raise Refused(f"output={self.first.output}: {self.folder} cannot be written: {error}") from error


def plan(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> SweepPlan:
    """The runs of the study that these overrides name (`+study=NAME` among them).

    Raises:
        Refused: for anything that one of the runs could not start from.

    """
    steps = all_steps(*config_dirs)
    first = _first(overrides, next(iter(known_steps(*config_dirs))), config_dirs)
    inventory = preflight(first)  # before the other steps are composed, which takes seconds
    fingerprint = sources.fingerprint(first.data, inventory)

    def experiment_of(step: str, recipe: str = "") -> Experiment:
        words = [word for word in overrides if not (recipe and word.startswith("recipe="))]
        return compose([*words, *([f"recipe={recipe}"] * bool(recipe)), f"+step={step}"], config_dirs)

    check_whole([row.step for row in first.study.rows] or first.study.steps, config_dirs)
    with placed(_file_of(first, overrides, config_dirs)):
        study = design(first.study, steps, experiment_of)
    if not first.study.rows and first.study.kind == StudyKind.equal_flops:
        study = at_equal_cost(study, experiment_of, inventory.classes)  # torch, from here on
    known = {_images_of(first): fingerprint}
    rows, study = _rows_of(study, lambda variant, before: _points(variant, overrides, config_dirs, known, before))
    for row in rows.values():
        check_network(row[0].experiment, inventory.classes)
        _check_starts(row, inventory.classes)
    name = first.study.published
    published = None if name is None else read_published(name, {**steps, **rows})
    return SweepPlan(study, rows, first, tuple(_warnings(rows, study, overrides, config_dirs)), published)


def _first(overrides: Sequence[str], step: str, config_dirs: Sequence[Path]) -> Experiment:
    """The experiment of the first step, with which every other run shares scale, data and recipe; its seeds are checked."""
    if any(override.startswith("reference=") for override in overrides):
        raise Refused("reference=NAME is a single run's; a study names its references in study.references=[NAME,...]")
    if any(override.startswith("study.row=") for override in overrides):
        raise Refused("study.row=NAME is a single run's; a study lists its rows in study.rows")
    first = compose_run([*overrides, f"+step={step}"], config_dirs)
    follows = next((row.name for row in first.study.rows if row.after is not None), None)
    for key, said in (("init", first.init), ("study.start", first.study.start)):
        if follows is not None and said is not None:
            raise Refused(f"{key}={said}: must be null beside after, by which study.rows say what {follows} starts from")
    seeds = first.study.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise Refused(f"study.seeds={seeds}: must name at least one, and none twice")
    for seed in seeds:
        check(dataclasses.replace(first, seed=seed))
    return first


def _rows_of(
    study: Design, points_of: Callable[[Variant, tuple[Point, ...]], tuple[Point, ...]]
) -> tuple[dict[str, tuple[Point, ...]], Design]:
    """The runs of each variant, those that others start from first.

    A network is trained once, however many variants have it; an effect that would compare it with itself is left out.
    """
    known: dict[str, Point] = {}
    shared: dict[str, tuple[Point, ...]] = {}
    for variant in in_order(study.variants):
        before = shared[variant.after] if variant.after is not None else ()
        shared[variant.name] = tuple(known.setdefault(point.which, point) for point in points_of(variant, before))
    rows = {variant.name: shared[variant.name] for variant in study.variants}
    effects = [effect for effect in study.effects if len({rows[name][0].folder.path for name in effect.weights}) > 1]
    return rows, dataclasses.replace(study, effects=tuple(effects))


def _check_starts(row: Sequence[Point], classes: Sequence[str]) -> None:
    """Refuse a row whose start weights are not its network's, or will not be there."""
    first, before = row[0], row[0].before
    if before is None:
        each_its_own = first.experiment.study.start is not None
        for point in [point for point in row if not point.done] if each_its_own else [first]:
            check_start(point.experiment, classes)
        return
    if not before.experiment.runtime.keep_weights:
        raise Refused(
            f"runtime.keep_weights=false: must be true where a run starts from another one's weights, as {first.name} does"
        )
    from roadmap.run.given import try_follow  # torch

    try_follow(first.experiment, before.experiment, classes, f"{first.name} after {before.name}")
    for point in row:
        if point.before is not None and point.before.trained and not point.done:
            weights_file(point.before.folder.path)


def _points(
    variant: Variant,
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    fingerprints: dict[tuple[Any, ...], str],
    before: Sequence[Point],
) -> tuple[Point, ...]:
    """The runs of one variant; a step that takes other images, or more at once, has them checked."""
    words = [*overrides, f"reference={variant.name}" if variant.reference else f"+step={variant.step}"]
    base = hashed(compose_run(words, config_dirs))
    file = _file_of(base, overrides, config_dirs)
    kind = "study.rows:" if base.study.rows else "row"
    with placed(f"{file}{': ' * bool(file)}{kind} {variant.name}" if variant.overrides else ""):
        experiment = with_settings(base, variant.overrides) if variant.overrides else base
        if _images_of(experiment) not in fingerprints:
            fingerprints[_images_of(experiment)] = sources.fingerprint(experiment.data, preflight(experiment))
    fingerprint = fingerprints[_images_of(experiment)]
    words = [*overrides, *variant.overrides]
    if experiment.study.rows and variant.name != experiment.step.name and NAME.fullmatch(variant.name):
        experiment = dataclasses.replace(experiment, study=dataclasses.replace(experiment.study, row=variant.name))
        words.append(f"study.row={variant.name}")

    def point(seed: int, start: Point | None) -> Point:
        run = begun(dataclasses.replace(experiment, seed=seed), variant.name)
        run = run if start is None else following(run, start.folder.path)
        folder, command = RunFolder.of(run, fingerprint), _command(run, words, config_dirs)
        return Point(f"{variant.name}-s{seed}", run, fingerprint, folder, command, start)

    seeds = experiment.study.seeds
    starts: Sequence[Point | None] = before or [None] * len(seeds)
    return tuple(point(seed, start) for seed, start in zip(seeds, starts, strict=True))


def _file_of(experiment: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path]) -> str:
    """The file of one's own that lists the rows of the study; empty where none does."""
    names = [word.removeprefix("+study=") for word in overrides if word.startswith("+study=")] * bool(experiment.study.rows)
    files = [folder / "study" / f"{name}.yaml" for name in names for folder in config_dirs]
    return next((str(file) for file in files if file.is_file()), "")


def _images_of(experiment: Experiment) -> tuple[Any, ...]:
    """What the images of a run and their number in an update depend on."""
    data = experiment.data
    return data.source, data.path, data.held_out, experiment.recipe.batch_size


def _command(run: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path]) -> tuple[str, ...]:
    """The arguments of `python -m roadmap.run` that describe this run, from any working directory but for `data.path`."""
    other = ("study.steps", "study.seeds", "study.start", "seed", "output")
    own = [word for word in overrides if word.split("=")[0] not in other]
    folders = [word for folder in config_folders(config_dirs) for word in ("--config-dir", str(folder))]
    output = quoted(str(Path(run.output).absolute()))
    trained = f"+step={run.step.name}" if run.reference is None else f"reference={run.reference}"
    start = [f"study.start={quoted(str(study_folder(run.study.start)))}"] if run.study.start is not None else []
    after = [f"after={quoted(run.after)}"] if run.after is not None else []
    return (*folders, *own, trained, *start, *after, f"seed={run.seed}", f"output={output}")


def _warnings(
    rows: Mapping[str, tuple[Point, ...]], study: Design, overrides: Sequence[str], config_dirs: Sequence[Path]
) -> list[str]:
    """Overrides that have no effect on any row, and rows that they make equal to those they are compared with."""
    experiments = {name: points[0].experiment for name, points in rows.items()}
    if any(run.study.start is not None for run in experiments.values()):  # every row has a start of its own
        experiments = {name: dataclasses.replace(run, after=None) for name, run in experiments.items()}
    steps = [run for run in experiments.values() if run.reference is None]
    idle = [ineffective_settings(run, [*overrides, f"+step={run.step.name}"], config_dirs) for run in steps]
    everywhere = set.intersection(*({warning.split()[0] for warning in warnings} for warnings in idle))
    warnings = said_twice(overrides) + [warning for warning in idle[0] if warning.split()[0] in everywhere]
    if any(override.startswith("seed=") for override in overrides):
        warnings.append("seed has no effect in a sweep: study.seeds lists the seeds")
    for variant in study.variants:
        own = ineffective_settings(experiments[variant.name], variant.overrides) if experiments[variant.name].study.rows else []
        warnings += [f"row {variant.name}: {warning}" for warning in own]
        if variant.parent in experiments and not differs(experiments[variant.name], experiments[variant.parent]):
            kind = "step" if variant.name == variant.step else "row"
            warnings.append(f"{kind} {variant.name} has the network of its parent {variant.parent} under these overrides")
    return warnings
