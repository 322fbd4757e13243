"""Every step at every scale as a timm model; `import roadmap.timm` registers them.

`timm.create_model("roadmap_inverted_bottleneck", features_only=True)`; other scales than `tiny` add their name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from roadmap.config.overrides import config_folders, group_options
from roadmap.config.parts import resolve
from roadmap.config.steps import networks
from roadmap.model.front import build_model
from roadmap.model.network import Network, layer_groups

PRETRAINED_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "min_input_size": (3, 32, 32),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stem.layer.conv",
    "classifier": "head.fc",
}


default_cfgs: dict[str, Any] = {}  # where timm's registry looks for them
_own: dict[str, Any] = {}  # folders and parts of one's own, as they were registered last


def register(config_dirs: Sequence[Path | str] = (), parts: Sequence[str] = ()) -> None:
    """Enter the models in timm's registry; the scale `tiny` goes without its name.

    With folders of your own their steps and scales are models too, and all models take the parts that are named:
    `register(["my"], parts=["my"])`, then `timm.create_model("roadmap_gelu", activation="silu")`.

    Raises:
        Refused: for folders and parts that a command would refuse.

    """
    module, folders = sys.modules[__name__], config_folders(config_dirs)
    resolve(parts, folders)
    models = {timm_name(step, scale): (step, scale) for step in networks(*folders) for scale in group_options("scale", folders)}
    default_cfgs.update(generate_default_cfgs(dict.fromkeys(models, PRETRAINED_CFG)))
    _own.update(config_dirs=folders, parts=tuple(parts))
    for name, (step, scale) in models.items():
        if not hasattr(module, name):
            setattr(module, name, register_model(_entry(name, step, scale)))


def timm_name(step: str, scale: str) -> str:
    """What timm knows this step at this scale by."""
    return f"roadmap_{step}" if scale == "tiny" else f"roadmap_{step}_{scale}"


def _entry(name: str, step: str, scale: str) -> Callable[..., Any]:
    def network(drop_path_rate: float | None = None, **given: Any) -> Network:
        if drop_path_rate is not None:
            given["drop_path"] = drop_path_rate
        return build_model(step, scale, **_own, **given)

    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        feature_cfg = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
        model = build_model_with_cfg(network, name, pretrained, feature_cfg=feature_cfg, **kwargs)
        if kwargs.get("features_only"):
            model.group_matcher = layer_groups
        return model

    entry.__name__, entry.__module__ = name, __name__
    entry.__doc__ = f"Step {step} of the roadmap at scale {scale}, not pretrained."
    return entry
