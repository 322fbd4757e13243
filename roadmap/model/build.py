"""The network that a run trains: a step's, or a reference."""

from __future__ import annotations

from torch import nn

from roadmap.config.schema import Initialisation, ModelConfig
from roadmap.model.network import build_network


def network_of(
    model: ModelConfig,
    reference: str | None,
    num_classes: int,
    image_size: int,
    dropout: float = 0.0,
    initialisation: Initialisation = Initialisation.paper,
) -> nn.Module:
    """The network at these coordinates, or the timm model `reference` with their stochastic depth, initialised by timm.

    Raises:
        Refused: where timm has no such reference, or cannot build it like this.

    """
    if reference is None:
        return build_network(model, num_classes, dropout, initialisation)
    from roadmap.model.reference import build_reference  # timm, whose import takes seconds

    return build_reference(reference, num_classes, image_size, model.drop_path, dropout)
