"""The engine of a name."""

from __future__ import annotations

from typing import Any

from roadmap.config.schema import EngineConfig, EngineName
from roadmap.sweep.engines.base import Engine


def engine(config: EngineConfig) -> Engine[Any]:
    """The engine of this name.

    Raises:
        Refused: where what it needs is not here.

    """
    if config.name == EngineName.slurm:
        from roadmap.sweep.engines.slurm import Slurm

        return Slurm(config)
    if config.name == EngineName.ray:
        from roadmap.sweep.engines.ray import Ray

        return Ray(config)
    from roadmap.sweep.engines.local import Local

    return Local(config)
