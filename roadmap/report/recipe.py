"""What runs were made with, in words: the recipe with every setting in which it differs from its file, and the processor."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from roadmap.config.identity import plain
from roadmap.config.recipes import recipe_file
from roadmap.config.schema import ROOMS, RecipeConfig
from roadmap.record.result import RunResult
from roadmap.report.records import Study

SAID = ("name", "epochs")  # beside the recipe


def recipe_words(study: Study) -> str:
    """For captions: `short with lr=0.002, warmup_epochs=1`; a recipe of one's own is told by how it differs from the paper's."""
    name = study.plan.recipe
    recipes = [result.recipe for result in study.results.values()]
    settings: dict[str, Any] = recipes[0] if recipes else {}
    settings = {key: value for key, value in settings.items() if all(other.get(key) == value for other in recipes)}
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
    unsaid = entry.default if entry.default_factory is MISSING else entry.default_factory()
    return getattr(result, room).get(name, plain(unsaid))


def cpu_words(result: RunResult) -> str:
    """The processor and the instructions that torch used on it."""
    return ", ".join(filter(None, (result.cpu, result.instructions))) or "not known"


def as_typed(value: Any) -> str:
    """As one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
