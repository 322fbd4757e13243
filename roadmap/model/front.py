"""A step's network by name, from Python: `roadmap.build_model("gelu", kernel_size=9)`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.config.effects import ineffective_settings
from roadmap.config.overrides import config_folders, quoted
from roadmap.config.schema import ModelConfig
from roadmap.model.check import compose_run
from roadmap.model.layout import layout
from roadmap.model.network import Network

log = logging.getLogger("roadmap")
OUTPUT_STRIDES = (8, 16, 32)


def build_model(
    step: str,
    scale: str = "tiny",
    num_classes: int = 1000,
    *,
    config_dirs: Sequence[Path | str] = (),
    parts: Sequence[str] = (),
    in_chans: int = 3,
    drop_rate: float = 0.0,
    global_pool: str = "avg",
    output_stride: int = 32,
    **toggles: Any,
) -> Network:
    """Build the network of a step, with toggles of one's own; those that have no effect are named in the log of `roadmap`.

    Args:
        step: a name from `conf/step/`; everything up to and including it.
        scale: a name from `conf/scale/`.
        num_classes: outputs of the classifier; 0 leaves it out.
        config_dirs: folders with steps of your own, laid out like `conf/`.
        parts: the names of those whose `parts.py` is run, for activations, norms and block parts of your own.
        in_chans: colours of the images.
        drop_rate: dropout before the classifier (the paper has none).
        global_pool: "avg", or "" with 0 classes: features at each position.
        output_stride: pixels to one position of the features, each way; 16 and 8 replace the last strides by dilation.
        toggles: coordinates of the model, e.g. `kernel_size=9, norm="batch"`; `roadmap.config.schema.ModelConfig` lists them.

    Returns:
        A classifier from (N, in_chans, H, W) to (N, num_classes), freshly initialised; H and W at least 32.

    Raises:
        Refused: for an unknown step, scale or toggle, or a value out of range.

    """
    if output_stride not in OUTPUT_STRIDES:
        raise Refused(f"output_stride={output_stride}: it is one of {', '.join(map(str, OUTPUT_STRIDES))}")
    model = _composed([f"scale={scale}", f"+step={step}"], parts, toggles, config_folders(config_dirs))
    return Network(layout(model, in_chans, output_stride), num_classes, drop_rate, global_pool=global_pool)


def _composed(chosen: list[str], parts: Sequence[str], toggles: Mapping[str, Any], folders: Sequence[Path]) -> ModelConfig:
    """The coordinates of the model; what has no effect among the toggles is logged."""
    settings = [f"model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in toggles.items()]
    own = [f"parts=[{','.join(map(quoted, parts))}]"] if parts else []
    experiment = compose_run([*chosen, *own, *settings], folders)
    for warning in ineffective_settings(experiment, [*own, *settings], folders):
        log.warning("%s", warning)
    return experiment.model
