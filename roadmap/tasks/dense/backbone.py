"""Any step of the roadmap, or any pyramid of timm's, as the backbone of detection and segmentation: four maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from roadmap.base.errors import Refused
from roadmap.config.schema import BackboneNorm, HeadConfig, Initialisation, ModelConfig, OutputNorm
from roadmap.model.layers import LayerNorm2d
from roadmap.model.network import Network, build_network, layer_groups

STRIDES = (4, 8, 16, 32)
PREFIX = "backbone."
"""Of the weights of a backbone in the networks that stand on it; behind it are the names that they have in the classifier."""


class FrozenBatchNorm(nn.BatchNorm2d):
    """A BatchNorm whose statistics and weights stay as they are loaded, in training too."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        """Stay in eval mode."""
        return super().train(False)


def backbone_network(
    model: ModelConfig, reference: str | None, initialisation: Initialisation = Initialisation.paper, classes: int = 0
) -> nn.Module:
    """What a `DenseNetwork` is given: a step's network, or timm's `reference` for images of any size, freshly initialised.

    Refused where timm has no such reference, or cannot build it like this.
    """
    if reference is None:
        return build_network(model, classes, initialisation=initialisation)
    from roadmap.model.reference import build_pyramid  # timm, whose import takes seconds

    return build_pyramid(reference, classes, model.drop_path)[0]


def _outputs(network: nn.Module) -> tuple[list[int], list[int]]:
    """Which of the outputs have these strides, and their channels."""
    name, known = type(network).__name__, getattr(network, "feature_info", [])
    known = known if isinstance(known, list) else []
    found = {info["reduction"]: (i, info["num_chs"]) for i, info in enumerate(known)}
    if not hasattr(network, "forward_intermediates") or not set(STRIDES) <= found.keys():
        listed = ", ".join(str(info["reduction"]) for info in known) or "none"
        raise Refused(f"{name} cannot be a backbone: its maps have the strides {listed}; heads need 4, 8, 16 and 32")
    indices, channels = zip(*(found[stride] for stride in STRIDES), strict=True)
    return list(indices), list(channels)


def _frozen(module: nn.Module) -> nn.Module:
    """The same module with every BatchNorm frozen as it stands."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm(module.num_features, module.eps).to(module.weight.device, module.weight.dtype)
        frozen.load_state_dict(module.state_dict(), assign=module.weight.is_meta)
        return frozen.requires_grad_(False).eval()
    for name, child in module.named_children():
        setattr(module, name, _frozen(child))
    return module


class DenseNetwork(nn.Module):
    """A backbone for a head, whose weights are called `backbone.` and then as in the classifier.

    Args:
        network: a classifier with timm's `forward_intermediates`, which is changed: what stands behind its last stage is taken
            away, and its BatchNorms do what `head.backbone_norm` says. Refused without maps of the strides 4, 8, 16 and 32.
        head: with `output_norm=layer` each map gets a fresh LayerNorm, as in the paper's detectors (appendix A.3).

    """

    backbone: Any

    def __init__(self, network: Any, head: HeadConfig) -> None:
        super().__init__()
        self.indices, self.channels = _outputs(network)
        network.prune_intermediate_layers(self.indices, prune_norm=True)
        self.backbone_norm = head.backbone_norm
        self.backbone = _frozen(network) if head.backbone_norm == BackboneNorm.frozen else network
        has_norm = head.output_norm == OutputNorm.layer
        self.norms = nn.ModuleList(LayerNorm2d(n, eps=1e-6) if has_norm else nn.Identity() for n in self.channels)

    def maps(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to four maps (N, C, H / stride, W / stride), the finest first."""
        maps = self.backbone.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        return [norm(features) for norm, features in zip(self.norms, maps, strict=True)]

    def run_head(self, maps: list[Tensor]) -> None:
        """Everything with weights behind the maps, but for an auxiliary head, on as much as published FLOPs count it on."""
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int, ...]]:
        """Layers, for layer-wise learning rates: the backbone's own, then norms and head as the last."""
        if isinstance(self.backbone, Network):
            return layer_groups(coarse)
        from timm.models import group_parameters

        known = group_parameters(self.backbone, self.backbone.group_matcher(coarse=coarse), reverse=True)
        return lambda name: (known.get(name.removeprefix(PREFIX), max(known.values()) + 1),)

    def no_weight_decay(self) -> set[str]:
        """The weights of a reference that weight decay spares, by its own list."""
        return {PREFIX + name for name in getattr(self.backbone, "no_weight_decay", set)()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input of the backbone in memory, and compute the rest again in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)


Build = Callable[[nn.Module, HeadConfig, int], DenseNetwork]
"""From a backbone's network, the settings of a head and the number of classes to the network of both."""


def synchronise(network: DenseNetwork) -> DenseNetwork:
    """BatchNorm's statistics over all processes: in the head always, in the backbone where `backbone_norm` is sync.

    Several GPUs call it before training, as the paper's heads are synchronised; torch has none for CPUs.
    """
    for name, child in network.named_children():
        if name != "backbone" or network.backbone_norm == BackboneNorm.sync:
            setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    return network
