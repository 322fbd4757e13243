"""What this machine has: cores, GPUs, and room for runs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache

from roadmap.base.errors import Refused
from roadmap.config.schema import Device, EngineConfig, RuntimeConfig


@dataclass(frozen=True)
class Place:
    """Room for one run: a GPU, if there are any, and some of the cores."""

    gpu: str | None
    cores: tuple[int, ...]


def room(wanted: EngineConfig, runtime: RuntimeConfig) -> list[Place]:
    """Where runs can be at a time: GPUs in turn, each for as many as `engine.gpus` lets share it, or shares of the cores."""
    if wanted.nodes > 1 or (wanted.processes or 1) > 1 or (wanted.gpus or 0) > 1:
        raise Refused(
            f"engine=local: a run is one process with one GPU here; engine.nodes={wanted.nodes}, engine.processes="
            f"{wanted.processes}, engine.gpus={wanted.gpus} need engine=slurm, or torchrun for a single run"
        )
    found = gpus() if runtime.device != Device.cpu and wanted.gpus != 0 else ()
    if wanted.gpus and not found:
        raise Refused(f"engine.gpus={wanted.gpus}: no GPU was found on this machine; allowed: null, 0")
    own = wanted.cpus or runtime.threads
    fit = len(found) * int(1 / (wanted.gpus or 1)) if found else max(1, len(cores()) // own) if own else 1
    count = wanted.jobs or fit
    return [Place(found[i % len(found)] if found else None, _share(i, count, wanted.cpus)) for i in range(count)]


def _share(place: int, count: int, size: int | None) -> tuple[int, ...]:
    """Cores of one place: its part of all, or `size` of them, taken in turn where there are too few."""
    every = cores()
    size = min(size or max(1, len(every) // count), len(every))
    return tuple(sorted({every[(place * size + i) % len(every)] for i in range(size)}))


def cores() -> tuple[int, ...]:
    """CPU cores that this process may use, by their numbers."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(os.cpu_count() or 1))


@lru_cache
def gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU ")))
