"""Clocks: several contenders in turn, so that a machine that slows down slows all of them down."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Action = Callable[[], object]

# Dense bfloat16 multiply-adds a second, counted as two operations, as their makers give them.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


def spread(key: str, values: list[float]) -> dict[str, float]:
    """A figure over the rounds: median and range, as columns of a row."""
    return {key: statistics.median(values), f"{key}_least": min(values), f"{key}_most": max(values)}


def in_turn(actions: Mapping[str, Action], device: torch.device, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one action for each contender and round: A, B, C, A, B, C, each for at least `seconds`.

    Every action has run before; the first round decides how many repetitions fill the time.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    repetitions = {name: max(1, math.ceil(seconds / timed(action, device, 1))) for name, action in actions.items()}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(timed(action, device, repetitions[name]) / repetitions[name])
    return times


def timed(action: Action, device: torch.device, repetitions: int) -> float:
    """Seconds that so many repetitions take, to the end of the last on the device."""
    settle(device)
    started = time.perf_counter()
    for _ in range(repetitions):
        action()
    settle(device)
    return time.perf_counter() - started


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(action: Action, device: torch.device) -> float | None:
    """GiB that an action needs at most on a GPU, beyond what lies there without its contender; None on a CPU."""
    if device.type != "cuda":
        return None
    settle(device)
    torch.cuda.reset_peak_memory_stats(device)
    action()
    settle(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def profiled(action: Action, device: torch.device, repetitions: int = 3) -> str:
    """What the time of an action goes into: a table of kernels and operators, by their own time on the device."""
    gpu = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if gpu else [])]
    with torch.profiler.profile(activities=kinds) as profile:
        timed(action, device, repetitions)
    averages = profile.key_averages()
    return str(averages.table(sort_by=f"self_{'cuda' if gpu else 'cpu'}_time_total", row_limit=40, max_name_column_width=80))


@dataclass(frozen=True)
class Peak:
    """Operations a second that a device could do: its maker's figure, or else what a large product comes to beside the work."""

    by_maker: float | None
    about: str
    product: Action
    operations: int  # of the product

    @classmethod
    def of(cls, device: torch.device) -> Peak:
        """What is known of this device."""
        gpu = device.type == "cuda"
        size = 8192 if gpu else 2048
        left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
        name = torch.cuda.get_device_name(device) if gpu else "CPU"
        by_maker = next((peak for part, peak in PEAKS.items() if part in name), None)
        about = f"{name}: the best of a product of two {size} x {size} matrices, in turn with each row's work"
        if by_maker is not None:
            about = f"{name}: {by_maker / 1e12:.0f} TFLOP/s, dense bfloat16, its maker's figure"
        return cls(by_maker, about, lambda: torch.mm(left, right), 2 * size**3)

    def seen(self, seconds: list[float]) -> float:
        """Operations a second, by the seconds that products took where the maker says nothing."""
        return self.by_maker or self.operations / min(seconds)
