"""Networks beside the roadmap: any model of timm's, trained and costed like a step's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.base.errors import Refused, first_line, nearest
from roadmap.model.names import unknown_model

SECONDS = 10.0  # that the hub has to answer
KINDS = {"aten.convolution": "conv", "aten.addmm": "linear", "aten.mm": "linear"}
"""Of the operators that torch counts; what is left are products of activations with each other."""


def build_reference(name: str, num_classes: int, image_size: int, drop_path: float, dropout: float = 0.0) -> nn.Module:
    """Timm's model, freshly initialised, for images of `image_size` pixels, with stochastic depth `drop_path` and dropout.

    Refused where there is no such model, or timm cannot build it like this.
    """
    check_known(name, f"reference={name}")
    settings: dict[str, Any] = {"drop_path_rate": drop_path}  # also where it is 0: timm's own default may be another
    if dropout:
        settings["drop_rate"] = dropout
    settings |= sized(name, image_size)
    try:
        return timm.create_model(name, num_classes=num_classes, **settings)
    except Exception as error:
        if isinstance(error, TypeError) and not drop_path:  # it knows no stochastic depth, and is to have none
            del settings["drop_path_rate"]
            with suppress(Exception):
                return timm.create_model(name, num_classes=num_classes, **settings)
        listed = ", ".join(f"{key}={value}" for key, value in settings.items()) or "its own settings"
        raise Refused(f"reference={name}: timm does not build it with {listed}: {error}") from error


def build_pyramid(name: str, num_classes: int, drop_path: float) -> tuple[nn.Module, dict[str, Any]]:
    """Timm's model, freshly initialised, for images of any size, with stochastic depth `drop_path`; and what it takes for them.

    A Swin Transformer pads each map to whole windows and shifts them everywhere, as its detectors do. Refused as
    by `build_reference`.
    """
    check_known(name, f"reference={name}")
    for settings in ({"strict_img_size": False, "always_partition": True}, {"strict_img_size": False}):
        with suppress(TypeError):
            return timm.create_model(name, num_classes=num_classes, drop_path_rate=drop_path, **settings), settings
    return build_reference(name, num_classes, 224, drop_path), {}


def check_known(name: str, said: str) -> None:
    """Refuse what is no model of timm's; `said` is how it was named."""
    if not timm.is_model(name):
        raise unknown_model(name, timm.list_models(), said)


def pretrained(name: str, image_size: int | None, said: str) -> nn.Module:
    """Timm's model with its published weights, as timm fetches and keeps them, for images of this size in pixels or of its own.

    `said` is how it was named. Refused where timm has no such model or no such weights, or cannot fetch them.
    """
    size = _checked_size(name, image_size, said)
    _check_within_reach(name, said)
    try:
        return timm.create_model(name, pretrained=True, **size)
    except Exception as error:
        raise Refused(f"{said}: timm could not fetch its weights: {first_line(error)}") from error


def outline(name: str, image_size: int | None, said: str) -> nn.Module:
    """The same with the shapes of its weights and no numbers, on `meta`: nothing is fetched."""
    size = _checked_size(name, image_size, said)
    with torch.device("meta"):
        return timm.create_model(name, **size)


def _checked_size(name: str, image_size: int | None, said: str) -> dict[str, int]:
    """As `sized`, of a model whose weights timm has; those that it has not are refused."""
    architecture = name.split(".")[0]
    check_known(architecture, said)
    tagged = timm.list_models(f"{architecture}.*", pretrained=True) or [architecture] * timm.is_model_pretrained(architecture)
    if name != architecture and name not in tagged:
        raise Refused(f"{said}: timm {timm.__version__} has no weights of that name; {nearest(name, tagged)}")
    if not tagged:
        raise Refused(f"{said}: timm {timm.__version__} has no weights of it")
    return {} if image_size is None else sized(name, image_size)


def sized(name: str, image_size: int | None) -> dict[str, int]:
    """What timm is told of the size in pixels where a model is for one alone; None: its own."""
    known = timm.get_pretrained_cfg(name)
    return {"img_size": image_size or known.input_size[-1]} if known is not None and known.fixed_input_size else {}


def _check_within_reach(name: str, said: str) -> None:
    """Refuse by one request, where timm and the hub's client would try for a minute, weights that nobody gives out here."""
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return
    with suppress(LocalEntryNotFoundError):
        snapshot_download(known.hf_hub_id, local_files_only=True)  # kept on this machine
        return
    try:
        get_hf_file_metadata(hf_hub_url(known.hf_hub_id, "config.json"), timeout=SECONDS)
    except (HfHubHTTPError, OfflineModeIsEnabled):
        return  # timm says what is wrong
    except Exception as error:
        why = f"{huggingface_hub.constants.ENDPOINT} does not answer: {error or type(error).__name__}"
        raise Refused(f"{said}: its weights are not on this machine, and {why}") from error


def count_reference(name: str, num_classes: int, image_size: int, drop_path: float) -> tuple[int, dict[str, int], int]:
    """Parameters; multiply-adds for one image by kind; elements put out by convolutions and linear layers.

    Torch's own counter sees every product, attention's too, which the paper counts: 4.49 G for Swin-T at 224 px, 15.43 G
    for Swin-B (Table 10, Table 11). Checked: on networks without attention it agrees with fvcore. Refused where the model
    does not take such images, or puts out anything but a score for each class.
    """
    network = build_reference(name, num_classes, image_size, drop_path).eval().to("meta")
    sizes: list[int] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda _, inputs, output: sizes.append(output.numel()))
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            output = network(torch.zeros(1, 3, image_size, image_size, device="meta"))
    except Exception as error:
        raise Refused(f"reference={name}: it does not take images of {image_size} px: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape != (1, num_classes):
        raise Refused(f"reference={name}: it does not put out one score for each of {num_classes} classes")
    counts: dict[str, int] = {}
    for operator, operations in counter.get_flop_counts()["Global"].items():
        kind = KINDS.get(str(operator), "attention")
        counts[kind] = counts.get(kind, 0) + operations // 2
    return sum(weight.numel() for weight in network.parameters()), counts, sum(sizes)
