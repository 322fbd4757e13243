"""A run's network as timm keeps one: `model.safetensors` and `config.json`; and as an ONNX program.

timm has no detectors and no segmenters: of a run with a head the backbone is exported, for `features_only=True`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from roadmap.base.errors import Refused, writing
from roadmap.base.files import write_atomic
from roadmap.config.compose import compose
from roadmap.config.identity import plain
from roadmap.model.network import Network
from roadmap.model.reference import build_pyramid, sized
from roadmap.model.registry import register, timm_name
from roadmap.model.saved import as_safetensors
from roadmap.model.weights import timm_twin, to_timm
from roadmap.record.result import RunResult
from roadmap.tasks.dense.backbone import DenseNetwork, backbone_network
from roadmap.use.named import CONFIG, ONNX, WEIGHTS, coordinates
from roadmap.use.trained import Trained

AWAY = ("_name_or_path", "file", "url", "hf_hub_id", "hf_hub_filename", "source", "state_dict")  # where timm's own weights are
BATCHES = (1, 3)  # that an ONNX program is tried with
TOLERANCE = 1e-3  # of its outputs, relative to the largest


@dataclass(frozen=True)
class Exported:
    """A network by the name that timm builds it by."""

    architecture: str
    arguments: dict[str, Any]
    network: nn.Module
    classes: int  # 0: a backbone

    @property
    def of_timm_alone(self) -> bool:
        """Whether timm builds it without this package."""
        return not self.architecture.startswith("roadmap_")


def exported(trained: Trained) -> Exported:
    """The network of a run as timm's own where it is one, else as this package's; of one with a head the backbone."""
    result = trained.result
    assert result is not None
    network, count = trained.network, trained.count
    reference, arguments = result.model.get("reference"), dict[str, Any]()
    if isinstance(network, DenseNetwork):
        network, arguments, count = *_backbone(network, result), 0
    if reference is not None:
        return Exported(reference, sized(reference, result.data["image_size"]) | arguments, network, count)
    standard = _standard(result)
    twin = timm_twin(result.step.name, result.scale)
    own = plain(coordinates(result)[0])  # a record lacks what is off
    toggles = {key: value for key, value in own.items() if standard is None or standard[key] != value}
    toggles.pop("drop_path", None)  # no part of a trained network
    if twin is not None and not toggles:
        model = timm.create_model(twin, num_classes=count).eval()
        assert isinstance(network, Network)
        to_timm(network, model)
        return Exported(twin, {}, model, count)
    register()
    known = timm_name(result.step.name, result.scale)
    if standard is not None and timm.is_model(known):
        return Exported(known, toggles, network, count)
    raise Refused(f"{trained.name}: timm builds no {known}: the step {result.step.name} is of a folder of one's own")


def _backbone(network: DenseNetwork, result: RunResult) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier without classes that a backbone was made of, and what a reference takes for images of any size.

    A norm behind its last stage, which the backbone lost, is a fresh one.
    """
    model, reference = coordinates(result)
    if reference is None:
        whole, arguments = backbone_network(model, None), dict[str, Any]()
    else:
        whole, taken = build_pyramid(reference, 0, model.drop_path)
        arguments = sized(reference, None) | taken
    whole.load_state_dict(network.backbone.state_dict(), strict=False)
    return whole.eval(), arguments


def _standard(result: RunResult) -> dict[str, Any] | None:
    """The coordinates of the run's step as the project has it; None where it has none of this name."""
    try:
        return plain(compose([f"scale={result.scale}", f"+step={result.step.name}"]).model)
    except Refused:
        return None


def write(trained: Trained, export: Exported, folder: Path) -> list[Path]:
    """Write weights and configuration, the weights last; a StorageFault where the folder cannot be written."""
    files = [folder / CONFIG, folder / WEIGHTS]
    with writing(f"{folder}:"):
        write_atomic(files[0], json.dumps(config(trained, export), indent=2, ensure_ascii=False) + "\n")
        write_atomic(files[1], as_safetensors(export.network.state_dict()))
    return files


def config(trained: Trained, export: Exported) -> dict[str, Any]:
    """What timm reads of a folder: what to build, and which images it takes."""
    own: Mapping[str, Any] = trained.network.pretrained_cfg  # type: ignore[assignment]
    layers = timm.get_pretrained_cfg(export.architecture)
    theirs = {key: getattr(layers, key) for key in ("first_conv", "classifier")} if layers is not None else {}
    images = {key: value for key, value in {**own, **theirs}.items() if key not in (*AWAY, "architecture") and value is not None}
    about: dict[str, Any] = {
        "architecture": export.architecture,
        "num_classes": export.classes,
        "num_features": export.network.num_features,
    }
    if trained.classes is not None and export.classes:
        about["label_names"] = list(trained.classes)
    if trained.described and export.classes:
        about["label_descriptions"] = dict(trained.described)
    if export.arguments:
        about["model_args"] = export.arguments
    return {
        **about,
        "pretrained_cfg": {**images, "num_classes": export.classes, "interpolation": trained.settings.recipe.interpolation.value},
    }


def write_onnx(trained: Trained, export: Exported, folder: Path) -> tuple[Path, float]:
    """Write an ONNX program for any number of images; returns its file and how far its outputs are from the network's.

    Refused where it computes something else.
    """
    import onnxruntime

    size, network = trained.settings.data.image_size, export.network
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = {"images": {0: torch.export.Dim.DYNAMIC}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about itself
        program = torch.export.export(_Named(network), (images,), dynamic_shapes=batch)
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"])
    assert made is not None
    content = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    off = max(_difference(session, network, size, count) for count in BATCHES)
    if off > TOLERANCE:
        raise Refused(f"{trained.name}: its ONNX program puts out something else: {off:.1e} of its largest output away")
    with writing(f"{folder}:"):
        write_atomic(folder / ONNX, content)
    return folder / ONNX, off


class _Named(nn.Module):
    """A network whose input is called `images`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) to (N, classes)."""
        return self.network(images)


@torch.inference_mode()
def _difference(session: Any, network: nn.Module, size: int, count: int) -> float:
    """The largest, as a share of the largest output."""
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    expected = network(images)
    (found,) = session.run(None, {"images": images.numpy()})
    return float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
