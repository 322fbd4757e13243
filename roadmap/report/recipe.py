"""What runs were made with, in words: the recipe, every setting in which the runs differ from its file, and the processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from roadmap.config.identity import plain
from roadmap.config.recipes import UNSAID_DATA, data_file, recipe_file, step_file
from roadmap.config.schema import ROOMS, RecipeConfig, default_of
from roadmap.record.result import RunResult
from roadmap.report.records import Study

SAID = ("name", "epochs")  # beside the recipe


def recipe_words(study: Study) -> str:
    """For captions: `short with lr=0.002, warmup_epochs=1`, then what of data and networks is not as their files have it.

    A recipe of one's own is told by how it differs from the paper's.
    """
    beside = {f"data.{key}": value for key, value in _of_data(study).items()}
    beside |= {f"model.{key}": value for key, value in _of_models(study).items()}
    listed = ", ".join(f"{key}={as_typed(value)}" for key, value in beside.items())
    return _recipe(study) + f"; not as in their files: {listed}" * bool(listed)


def _recipe(study: Study) -> str:
    name = study.plan.recipe
    settings = common([result.recipe for result in study.results.values()])
    file = recipe_file(name)
    base = recipe_file("paper") or {} if file is None else file
    unequal = {key: value for key, value in settings.items() if key in base and key not in SAID and value != base[key]}
    order = [entry.name for entry in fields(RecipeConfig)]
    listed = ", ".join(f"{key}={as_typed(unequal[key])}" for key in order if key in unequal)
    if not listed:
        return name
    return f"{name} with {listed}" if file is not None else f"{name} (the paper's with {listed})"


def setting_of(result: RunResult, key: str) -> Any:
    """A setting of recipe or data, `recipe.lr`, that a run was made with: a record lacks those that stand at their default.

    `start.weights` is what it started from; None: from scratch.
    """
    room, name = key.split(".")
    if room == "start":
        return result.start.get(name)
    entry = next(entry for entry in fields(ROOMS[room]) if entry.name == name)
    return getattr(result, room).get(name, plain(default_of(entry)))


def common(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What has one value in all runs."""
    first, missing = settings[0] if settings else {}, object()
    return {key: value for key, value in first.items() if all(other.get(key, missing) == value for other in settings)}


def _of_data(study: Study) -> dict[str, Any]:
    """The image size is said beside the data."""
    settings = common([result.data | UNSAID_DATA | result.data for result in study.results.values()])
    file = data_file(str(settings.get("source")))
    return {key: value for key, value in settings.items() if key in file and key != "image_size" and value != file[key]}


def _of_models(study: Study) -> dict[str, Any]:
    """Toggles that a row has otherwise than its step, and that are not what the row is there for."""
    found: dict[str, Any] = {}
    for row in study.plan.rows:
        declared = {override.split("=")[0].removeprefix("model.") for override in row.variant.overrides}
        for result in study.of(row.variant.name)[:1] if not row.variant.reference else []:
            file = step_file(row.variant.step, study.plan.scale)
            found |= {
                key: value for key, value in result.model.items() if key in file and key not in declared and value != file[key]
            }
    if study.planned:
        return found
    everywhere = common([result.model for result in study.results.values()])  # the rest tells the rows apart
    return {key: value for key, value in found.items() if key in everywhere}


def cpu_words(result: RunResult) -> str:
    """The processor and the instructions that torch used on it."""
    return ", ".join(filter(None, (result.cpu, result.instructions))) or "not known"


def as_typed(value: Any) -> str:
    """As one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
