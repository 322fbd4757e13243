"""Networks beside the roadmap: any model of timm's, trained and costed like a step's."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.base.errors import Refused
from roadmap.config.schema import Experiment

KINDS = {"aten.convolution": "conv", "aten.addmm": "linear", "aten.mm": "linear"}
"""Of the operators that torch counts; what is left are products of activations with each other."""


def build_reference(experiment: Experiment, num_classes: int) -> nn.Module:
    """Timm's model, freshly initialised, for images of the experiment's size, with its stochastic depth.

    Raises:
        Refused: where there is no such model, or timm cannot build it like this.

    """
    name, size = experiment.reference or "", experiment.data.image_size
    if not timm.is_model(name):
        models = timm.list_models()
        close = get_close_matches(name, models, n=5, cutoff=0.4) or models[:5]
        raise Refused(
            f"reference={name}: timm {timm.__version__} has no such model; it has {', '.join(close)} and "
            f"{len(models) - len(close)} others, timm.list_models()"
        )
    settings: dict[str, Any] = {"drop_path_rate": experiment.model.drop_path}  # said at 0 too: timm's own rate may be another
    described = timm.get_pretrained_cfg(name)
    if described is not None and described.fixed_input_size:
        settings["img_size"] = size
    try:
        return timm.create_model(name, num_classes=num_classes, **settings)
    except Exception as error:
        if isinstance(error, TypeError) and not experiment.model.drop_path:  # it knows no stochastic depth, and is to have none
            del settings["drop_path_rate"]
            with suppress(Exception):
                return timm.create_model(name, num_classes=num_classes, **settings)
        said = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise Refused(f"reference={name}: timm does not build it with {said or 'its own settings'}: {error}") from error


def count_reference(experiment: Experiment, num_classes: int) -> tuple[int, dict[str, int], int]:
    """Parameters; multiply-adds for one image by kind; elements put out by convolutions and linear layers.

    Torch's own counter sees every product, attention's too, which the paper counts: 4.49 G for Swin-T at 224 px, 15.43 G
    for Swin-B (Table 10, Table 11). Checked: on networks without attention it agrees with fvcore.

    Raises:
        Refused: where the model does not take such images, or puts out anything but a score for each class.

    """
    network = build_reference(experiment, num_classes).eval().to("meta")
    sizes: list[int] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda _, inputs, output: sizes.append(output.numel()))
    size, counter = experiment.data.image_size, FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            output = network(torch.zeros(1, 3, size, size, device="meta"))
    except Exception as error:
        raise Refused(f"reference={experiment.reference}: it does not take images of {size} px: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape != (1, num_classes):
        raise Refused(f"reference={experiment.reference}: it does not put out one score for each of {num_classes} classes")
    counts: dict[str, int] = {}
    for operator, operations in counter.get_flop_counts()["Global"].items():
        kind = KINDS.get(str(operator), "attention")
        counts[kind] = counts.get(kind, 0) + operations // 2
    return sum(weight.numel() for weight in network.parameters()), counts, sum(sizes)
