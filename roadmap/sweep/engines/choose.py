"""The engine of a name."""

from __future__ import annotations

from roadmap.config.schema import EngineConfig, EngineName
from roadmap.sweep.engines.base import Engine


def engine(wanted: EngineConfig, max_failures: int | None = None) -> Engine:
    """The engine of this name; after `max_failures` failed runs it starts no other.

    Raises:
        Refused: where what it needs is not here.

    """
    if wanted.name == EngineName.slurm:
        from roadmap.sweep.engines.slurm import Slurm

        return Slurm(wanted, max_failures)
    if wanted.name == EngineName.ray:
        from roadmap.sweep.engines.ray import Ray

        return Ray(wanted, max_failures)
    from roadmap.sweep.engines.local import Local

    return Local(wanted, max_failures)
