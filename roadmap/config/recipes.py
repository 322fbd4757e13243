"""Recipes as their files in `conf/recipe/` have them, to say how a run's differs."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from roadmap.base.paths import CONF
from roadmap.config.identity import plain
from roadmap.config.schema import RecipeConfig


@lru_cache
def recipe_file(name: str) -> dict[str, Any] | None:
    """Every setting of the recipe of this name, that of its parents included; None where the project has no such recipe."""
    file = CONF / "recipe" / f"{name}.yaml"
    if not file.is_file():
        return None
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(content, dict)
    settings = {f.name: plain(f.default) for f in fields(RecipeConfig) if f.default not in (MISSING, "???")}
    for parent in content.pop("defaults", []):
        settings |= recipe_file(parent) or {} if parent != "_self_" else {}
    return {**settings, **content}
