"""Recipes, data sets and steps as their files in `conf/` have them, to say how a run's settings differ."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any

from omegaconf import MISSING, OmegaConf

from roadmap.base.paths import CONF
from roadmap.config.identity import LATER_DATA, plain
from roadmap.config.schema import RecipeConfig, ScaleConfig, default_of

UNSAID_DATA = {key: off for key, off in LATER_DATA.items() if key != "classes"}  # records have the number of classes there
"""Settings of the data that neither a file nor a record says where they are off, with that value."""


@lru_cache
def recipe_file(name: str) -> dict[str, Any] | None:
    """Every setting of the recipe of this name, that of its parents included; None where the project has no such recipe."""
    content = conf_file("recipe", name)
    if not content:
        return None
    settings = unsaid_recipe()
    for parent in content.get("defaults", []):
        settings |= recipe_file(parent) or {} if parent != "_self_" else {}
    return {**settings, **{key: value for key, value in content.items() if key != "defaults"}}


def unsaid_recipe() -> dict[str, Any]:
    """The settings that a recipe need not say; a record lacks those that stand as here."""
    return {entry.name: plain(value) for entry in fields(RecipeConfig) if (value := default_of(entry)) != MISSING}


def data_file(source: str) -> dict[str, Any]:
    """The settings of the data set of this source; none where the project has no such file."""
    content = conf_file("data", source)
    return {**UNSAID_DATA, **content} if content else {}


def step_file(step: str, scale: ScaleConfig) -> dict[str, Any]:
    """Every toggle of a step at a scale, as its file and those before it set them; none where the project has no such step."""
    return {key: _at(scale, value) for key, value in _toggles(step).items()}


def _at(scale: ScaleConfig, value: Any) -> Any:
    """A value of a toggle, `${scale.resnet_width}` among them."""
    named = isinstance(value, str) and value.startswith("${scale.")
    return getattr(scale, value[len("${scale.") : -1]) if named else value


@lru_cache
def _toggles(step: str) -> dict[str, Any]:
    content, toggles = conf_file("step", step), dict[str, Any]()
    for parent in content.get("defaults", []):
        toggles |= _toggles(parent) if isinstance(parent, str) and parent != "_self_" else {}
    return toggles | content.get("model", {})


@lru_cache
def conf_file(group: str, name: str) -> dict[str, Any]:
    """What a file of ours says, as it stands there; empty where there is no such file."""
    file = CONF / group / f"{name}.yaml"
    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file.is_file() else {}
    return content if isinstance(content, dict) else {}
