"""What an engine is: it carries out the runs of a sweep and says what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from roadmap.engines.outcome import Outcome
from roadmap.plan import Point
from roadmap.schema import EngineConfig, EngineName, RuntimeConfig

Tell = Callable[[list[Outcome], list[Point]], None]  # hears of what is over, and of what is under way


class Engine(Protocol):
    """Carries out runs, each apart from the others: what ends one of them ends no other."""

    def places(self, runtime: RuntimeConfig) -> int | None:
        """How many runs there is room for at a time; None where somebody else decides."""

    def run(self, points: Sequence[Point], tell: Tell) -> list[Outcome]:
        """Run every point; returns what became of each, those not started included.

        A run is done when its folder holds a result. SIGINT and SIGTERM end the call: what is under way is asked to save,
        and what was not started comes back with `EXIT_STOPPED`. A run that another process holds is waited for.
        """


def engine(wanted: EngineConfig, max_failures: int | None = None) -> Engine:
    """The engine of this name; after `max_failures` failed runs it starts no other.

    Raises:
        Refused: where what it needs is not here.

    """
    if wanted.name == EngineName.slurm:
        from roadmap.engines.slurm import Slurm

        return Slurm(wanted, max_failures)
    if wanted.name == EngineName.ray:
        from roadmap.engines.ray import Ray

        return Ray(wanted, max_failures)
    from roadmap.engines.local import Local

    return Local(wanted, max_failures)
