"""A step must change its parent's network, recipe or data: composing a run proves that it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.config.compose import compose, compose_unchecked
from roadmap.config.effects import idle_in_recipe
from roadmap.config.identity import decisive, start_of
from roadmap.config.overrides import config_folders
from roadmap.config.schema import Experiment
from roadmap.model.layout import layout

STEP = re.compile(r"\+*step=")
HIDING = re.compile(r"\+*(model|recipe|data)\.")
CHOSEN = re.compile(r"\+*(scale[.=]|(recipe|data|study)=)")  # what may be the reason; a study may choose all three


def compose_run(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Compose an experiment that can be trained or costed; see `roadmap.config.compose`.

    Refused as by `compose`, and where the step leaves its parent's network, recipe and data as they were.
    """
    experiment = compose(overrides, config_dirs)
    if experiment.step.parent is not None:
        _check_step_acts(experiment, overrides, config_dirs)
    return experiment


def _check_step_acts(experiment: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Refuse a step that does nothing to its parent at the same scale, under the same recipe, on the same data.

    It is compared as it is first, with its parent as a sweep composes it anyway; and where they are equal, without the single
    settings of the three, which may hide what the step changes.
    """
    words = [word for word in overrides if not STEP.match(word)]
    bare = [word for word in words if not HIDING.match(word)]
    if differs(experiment, _at(experiment.step.parent, words, config_dirs)):
        return
    if bare != words and differs(*(_at(name, bare, config_dirs) for name in (experiment.step.name, experiment.step.parent))):
        return
    chosen = [word for word in bare if CHOSEN.match(word)]
    settings = f"at scale {experiment.scale.name}" + (f" with {', '.join(chosen)}" if chosen else "")
    raise Refused(
        f"step {experiment.step.name!r} leaves the network of its parent {experiment.step.parent!r} as it was {settings}, its "
        f"recipe and data too: a step must change it, or one of them"
    )


def _at(step: str | None, words: Sequence[str], config_dirs: Sequence[Path]) -> Experiment:
    return compose_unchecked((*words, f"+step={step}"), config_folders(config_dirs))


def differs(one: Experiment, other: Experiment) -> bool:
    """Whether network, recipe, data or start weights differ; in a recipe what has no effect beside the rest does not count."""
    starts = start_of(one), start_of(other)
    return layout(one.model) != layout(other.model) or _taught(one) != _taught(other) or starts[0] != starts[1]


def _taught(experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data and what of the recipe acts."""
    settings, idle = decisive(experiment, ""), idle_in_recipe(experiment.recipe)
    return settings["data"], {key: value for key, value in settings["recipe"].items() if key not in idle}
