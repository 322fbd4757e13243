"""How far runs are that are not done: who is at them, and what their history says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from roadmap.base.errors import Refused
from roadmap.record.folder import RunFolder

FIGURES = 6  # significant ones of a number that is only drawn

Epoch = list[float | None]  # training loss, validation loss, score


@dataclass(frozen=True)
class Progress:
    """A run that is not done and that a process is at, or that has been left in the middle."""

    holder: str | None
    history: tuple[Epoch, ...]

    def words(self, epochs: int) -> str:
        """Where it stands; `epochs` is 0 where the rows have several."""
        loss = next((epoch[0] for epoch in reversed(self.history) if epoch[0] is not None), None)
        parts = ["running" if self.holder else "stopped", f"{len(self.history)}{f' of {epochs}' * bool(epochs)} epochs done"]
        parts += [f"last training loss {loss:.4f}"] if loss is not None else []
        return ", ".join(parts + ([self.holder] if self.holder else []))


def progress_of(folder: Path, runs: Iterable[str], score: str) -> dict[str, Progress]:
    """Of the runs without a result that a process holds or that have finished an epoch."""
    return {run: progress for run in runs if is_single(run) and (progress := _of(RunFolder(folder / "runs" / run), score))}


def is_single(name: str) -> bool:
    """Whether it is the name of a run, which leads to a folder among the others and nowhere else."""
    return name not in ("", ".", "..") and not any(sign in name for sign in "/\\\0")


def _of(run: RunFolder, score: str) -> Progress | None:
    if not run.path.is_dir() or (run.path / "result.json").is_file():
        return None
    try:
        holder = run.holder()
    except OSError:  # a folder that may only be read
        holder = None
    history: tuple[Epoch, ...] = ()
    with suppress(OSError, Refused):  # a file that may not be read, or is not of ours
        history = tuple(list(map(rounded, epoch)) for epoch in run.curves(score))
    return Progress(holder, history) if holder or history else None


def rounded(value: object) -> float | None:
    """A number that is only drawn, in six significant figures; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.{FIGURES}g}")
