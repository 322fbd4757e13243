"""Which of a run's processes this is: alone, or one of those that torchrun started. No torch here."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process among all of the run, 0 for the one that writes."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes share the run, over all nodes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Number of this process on its node: the GPU that it uses."""
    return int(os.environ.get("LOCAL_RANK", 0))
