"""The network that a run trains: a step's, or a reference."""

from __future__ import annotations

from torch import nn

from roadmap.config.schema import Experiment
from roadmap.model.network import build_network


def network_of(experiment: Experiment, num_classes: int) -> nn.Module:
    """The network that a run trains: its step's, or its reference."""
    if experiment.reference is None:
        return build_network(experiment.model, num_classes)
    from roadmap.model.reference import build_reference  # timm, whose import takes seconds

    return build_reference(experiment, num_classes)
