"""A step must change the network of its parent: composing a run proves that it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from roadmap.base.errors import Refused
from roadmap.config.compose import compose, compose_unchecked
from roadmap.config.schema import Experiment, StepConfig
from roadmap.model.layout import layout


def compose_run(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Compose an experiment that can be trained or costed; see `roadmap.config.compose`.

    Raises:
        Refused: as `compose`, and where the step leaves its parent's network as it was.

    """
    experiment = compose(overrides, config_dirs)
    if experiment.step.parent is not None:
        _check_step_acts(experiment.step, overrides, config_dirs)
    return experiment


def _check_step_acts(step: StepConfig, overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Refuse a step whose network is that of its parent at the same scale."""
    scale = tuple(o for o in overrides if re.match(r"\+*(scale[.=]|study=)", o))  # a study may choose the scale
    after, before = (compose_unchecked((*scale, f"+step={name}"), tuple(config_dirs)) for name in (step.name, step.parent))
    if layout(after.model) == layout(before.model):
        settings = f"at scale {after.scale.name}" + (f" with {', '.join(scale)}" if scale else "")
        raise Refused(
            f"step {step.name!r} leaves the network of its parent {step.parent!r} as it was {settings}: a step must change it"
        )
