"""What this machine has: cores, GPUs, and slots for runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache

from roadmap.base.errors import Refused
from roadmap.base.processes import cores
from roadmap.config.schema import Device, EngineConfig, RuntimeConfig


@dataclass(frozen=True)
class Slot:
    """Room for one run: a GPU, if there are any, and some of the cores."""

    gpu: str | None
    cores: tuple[int, ...]


def slots(config: EngineConfig, runtime: RuntimeConfig) -> list[Slot]:
    """Room for runs side by side: GPUs in turn, each for as many as `engine.gpus` lets share it, or shares of the cores."""
    if config.nodes > 1 or (config.processes or 1) > 1 or (config.gpus or 0) > 1:
        raise Refused(
            f"engine=local: a run is one process with one GPU here; engine.nodes={config.nodes}, engine.processes="
            f"{config.processes}, engine.gpus={config.gpus} need engine=slurm, or torchrun for a single run"
        )
    devices = gpus() if runtime.device != Device.cpu and config.gpus != 0 else ()
    if config.gpus and not devices:
        raise Refused(f"engine.gpus={config.gpus}: no GPU was found on this machine; allowed: null, 0")
    if runtime.device == Device.cuda and not devices and not _torch_finds_a_gpu():
        raise Refused("runtime.device=cuda: torch finds no GPU on this machine; allowed: auto, cpu")
    cpus = config.cpus or runtime.threads
    fit = len(devices) * int(1 / (config.gpus or 1)) if devices else max(1, len(cores()) // cpus) if cpus else 1
    count = config.jobs or fit
    return [Slot(devices[i % len(devices)] if devices else None, _share(i, count, config.cpus)) for i in range(count)]


def _share(slot: int, count: int, size: int | None) -> tuple[int, ...]:
    """Cores of one slot: its part of all, or `size` of them, taken in turn where there are too few."""
    every = cores()
    size = min(size or max(1, len(every) // count), len(every))
    return tuple(sorted({every[(slot * size + i) % len(every)] for i in range(size)}))


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


@lru_cache
def _torch_finds_a_gpu() -> bool:
    """Asked of a process of its own: some GPUs have no nvidia-smi, and this one is to fork without CUDA."""
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], capture_output=True, check=False).returncode == 0
