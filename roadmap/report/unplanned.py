"""Runs that no study planned, as a study would have them: rows by step and settings, each compared with the row before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.config.recipes import conf_file
from roadmap.config.schema import ScaleConfig
from roadmap.config.steps import all_steps, known_steps
from roadmap.record.result import RunResult
from roadmap.record.study import PlannedRow, StudyPlan, Variant, differences_to_parents, same_in_all

COUNTS = ("data.classes", "data.train", "data.val")  # of the images, which their fingerprint stands for
BESIDE = ("precision", "pipeline")  # settings that lie beside recipe and data in a result
Settings = dict[str, Any]


def plan_of(results: Iterable[RunResult], folder: Path) -> StudyPlan:
    """A plan that these runs fulfil: rows in the roadmap's order, and the effect of each row that has one to compare with.

    Raises:
        Refused: where the runs have several metrics or scales, of which no table is made.

    """
    runs = sorted(results, key=lambda result: result.run)
    for key in ("metric", "scale"):
        values = list(dict.fromkeys(str(getattr(result, key)) for result in runs))
        if len(values) > 1:
            raise Refused(
                f"{folder}: no study planned these runs, and their {key} differs: {', '.join(values)}; needed: one {key}"
            )
    seeds = tuple(sorted({result.seed for result in runs}))
    planned = _planned(_rows(runs), seeds)
    return StudyPlan(
        study=folder.resolve().name,
        question=f"{len(runs)} runs that no study planned: rows by step and settings",
        kind="roadmap" if all(row.variant.name == row.variant.step for row in planned) else "rows",
        scale=_scale(runs[0].scale),
        data=", ".join(sorted({str(result.data.get("source", "data of no name")) for result in runs})),
        image_size=same_in_all(result.data.get("image_size", 0) for result in runs),
        epochs=same_in_all(0 if "updates" in result.recipe else result.recipe.get("epochs", 0) for result in runs),
        recipe=", ".join(sorted({result.recipe_name or "of no name" for result in runs})),
        seeds=seeds,
        rows=tuple(planned),
        effects=differences_to_parents(row.variant for row in planned),
        metric=runs[0].metric,
    )


def row_names(results: Sequence[RunResult]) -> dict[str, str]:
    """Of each run, by its name, the name of its row: the step, and in what it differs from others of that step."""
    return {run.run: name for name, runs in _rows(results).items() for run in runs}


def _rows(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of each row, in the roadmap's order."""
    settings = {result.run: _settings(result) for result in results}
    everywhere = _varied(settings[result.run] for result in results) - _of_model(settings.values())
    rows: dict[str, list[RunResult]] = {}
    for _, group in groupby(sorted(results, key=_place), key=_place):
        runs = list(group)
        within = _varied(settings[result.run] for result in runs)
        varied = sorted(everywhere | (within & _of_model(settings.values())))
        for result in sorted(runs, key=lambda run: [_sortable(settings[run.run].get(key)) for key in varied]):
            said = [f"{key}={settings[result.run].get(key)}".replace(" ", "") for key in varied]
            rows.setdefault(" ".join([result.step.name, *said]), []).append(result)
    return rows


def _planned(rows: Mapping[str, Sequence[RunResult]], seeds: Sequence[int]) -> list[PlannedRow]:
    """Each row with the toggles in which it differs from the row that it is compared with."""
    firsts = {name: runs[0] for name, runs in rows.items()}
    settings = {name: _settings(first) for name, first in firsts.items()}
    by_step: dict[tuple[str, str], list[str]] = {}  # the rows of a step that were trained alike
    for name, first in firsts.items():
        by_step.setdefault((first.step.name, _training(settings[name])), []).append(name)
    planned = []
    for name, first in firsts.items():
        parent = None if "reference" in first.model else _parent(name, first, settings, by_step)
        unequal = _unequal(settings[name], settings[parent]) if parent else []
        toggles = tuple(key.removeprefix("model.") for key in unequal if key.startswith("model."))
        planned.append(PlannedRow(_variant(name, first, parent), toggles, _runs(name, rows[name], seeds)))
    return planned


def _variant(name: str, run: RunResult, parent: str | None) -> Variant:
    step, reference, about = run.step, "reference" in run.model, known_steps().get(run.step.name)
    label = (step.label or step.name) + name.removeprefix(step.name).replace(" ", ", ").replace("model.", "")
    adopted = not reference and (about is None or about.adopted)
    return Variant(name, label, step.name, parent, step.group, adopted, reference=reference)


def _parent(
    name: str, run: RunResult, settings: Mapping[str, Settings], by_step: Mapping[tuple[str, str], list[str]]
) -> str | None:
    """The row of the nearest step before it that was trained alike, else the first row of its own step.

    Of several rows of a step, those that differ most from the step before are compared with the one that differs least.
    """
    training = _training(settings[name])
    own = by_step[run.step.name, training]
    near = next((by_step[step, training] for step in _ancestors(run) if (step, training) in by_step), [])

    def distance(row: str, other: str) -> int:
        return len(_unequal(settings[row], settings[other]))

    if near:
        nearest = {row: min(distance(row, other) for other in near) for row in own}
        plain = min(own, key=nearest.__getitem__)
        others = near if nearest[name] == nearest[plain] else [plain]
        return min(others, key=lambda other: distance(name, other))
    first = own if own[0] != name else next(names for (step, _), names in by_step.items() if step == run.step.name)
    return first[0] if first[0] != name else None


def _ancestors(result: RunResult) -> list[str]:
    """The steps that this one stands on, the nearest first."""
    steps, parent, found = known_steps(), result.step.parent, list[str]()
    while parent and parent not in found:
        found.append(parent)
        parent = steps[parent].parent if parent in steps else None
    return found


def _place(result: RunResult) -> tuple[float, str]:
    """In the roadmap's order; a step of one's own half a place after its parent, references at the end."""
    order = list(all_steps())
    name, parent = result.step.name, result.step.parent
    at = order.index(name) if name in order else order.index(parent) + 0.5 if parent in order else float(len(order))
    return at, name


# --- settings --------------------------------------------------------------------------------------------------------


def _settings(result: RunResult) -> Settings:
    flat = result.settings("model", "head", "data", "recipe", "start")
    return {key: value for key, value in flat.items() if key not in COUNTS} | {key: getattr(result, key) for key in BESIDE}


def _of_model(settings: Iterable[Settings]) -> set[str]:
    return {key for one in settings for key in one if key.startswith("model.")}


def _training(settings: Settings) -> str:
    """Everything but the network."""
    return repr(sorted((key, str(value)) for key, value in settings.items() if not key.startswith("model.")))


def _varied(settings: Iterable[Settings]) -> set[str]:
    first, *others = settings
    return {key for other in others if other != first for key in _unequal(first, other)}


def _unequal(one: Settings, other: Settings) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers by size, before texts."""
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _runs(row: str, results: Sequence[RunResult], seeds: Sequence[int]) -> tuple[str, ...]:
    """The row's runs by seed, of one that is there twice the first; a seed that it has not gets a name that leads nowhere."""
    by_seed = {result.seed: result.run for result in reversed(results)}
    return tuple(by_seed.get(seed, f"{row}-s{seed}") for seed in seeds)


def _scale(name: str) -> ScaleConfig:
    """The scale of this name; of one that is not the project's own no more than the name is known."""
    known = conf_file("scale", name)
    ends = {"name": name, "start": f"ResNet-{name}", "end": f"ConvNeXt-{name}"}
    return ScaleConfig(**{**ends, **{entry.name: known[entry.name] for entry in fields(ScaleConfig) if entry.name in known}})
