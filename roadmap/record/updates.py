"""Loss and gradient norm of every update of a run: `updates.csv`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from roadmap.base.errors import writing


@dataclass
class UpdateLog:
    """`updates.csv`: loss and norm of the gradient of every update, each once, however often the run was interrupted.

    Lines are appended when a checkpoint is written; what a killed attempt wrote beyond its last checkpoint is cut off.
    """

    path: Path
    size: int = 0  # bytes that the newest checkpoint knows of
    waiting: list[str] = field(default_factory=lambda: ["epoch,update,loss,gradient_norm\n"])

    def add(self, epoch: int, update: int, loss: float, norm: float) -> None:
        """Note one update, counted from 0 in its epoch; exact to the last bit."""
        self.waiting.append(f"{epoch},{update},{loss!r},{norm!r}\n")

    def flush(self) -> int:
        """Append what was noted; returns the file's size in bytes."""
        with writing(f"{self.path}:"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self.size)
                file.seek(self.size)
                file.write("".join(self.waiting).encode())
                file.flush()
                os.fsync(file.fileno())
                self.size = file.tell()
        self.waiting.clear()
        return self.size

    def take_up(self, size: int, faults: list[str]) -> None:
        """Go on after `size` bytes; a file that is shorter than that goes on from its end and is named."""
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            faults.append(f"{self.path}: lines of earlier updates are missing; the run itself is whole")
        self.size = min(there, size)
        if there:
            self.waiting.clear()
