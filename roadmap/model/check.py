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
from roadmap.config.schema import Experiment, StepConfig
from roadmap.model.layout import layout


def compose_run(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Compose an experiment that can be trained or costed; see `roadmap.config.compose`.

    Raises:
        Refused: as `compose`, and where the step leaves its parent's network, recipe and data as they were.

    """
    experiment = compose(overrides, config_dirs)
    if experiment.step.parent is not None:
        _check_step_acts(experiment.step, overrides, config_dirs)
    return experiment


def _check_step_acts(step: StepConfig, overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Refuse a step that does nothing to its parent at the same scale, under the same recipe, on the same data."""
    chosen = tuple(o for o in overrides if re.match(r"\+*(scale[.=]|(recipe|data|study)=)", o))  # a study may choose all three
    after, before = (compose_unchecked((*chosen, f"+step={name}"), tuple(config_dirs)) for name in (step.name, step.parent))
    if not differs(after, before):
        settings = f"at scale {after.scale.name}" + (f" with {', '.join(chosen)}" if chosen else "")
        raise Refused(
            f"step {step.name!r} leaves the network of its parent {step.parent!r} as it was {settings}, its recipe and data too: "
            f"a step must change it, or one of them"
        )


def differs(one: Experiment, other: Experiment) -> bool:
    """Whether network, recipe, data or start weights differ; in a recipe what has no effect beside the rest does not count."""
    starts = start_of(one), start_of(other)
    return layout(one.model) != layout(other.model) or _taught(one) != _taught(other) or starts[0] != starts[1]


def _taught(experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data and what of the recipe acts."""
    settings, idle = decisive(experiment, ""), idle_in_recipe(experiment.recipe)
    return settings["data"], {key: value for key, value in settings["recipe"].items() if key not in idle}
