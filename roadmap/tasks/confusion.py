"""What lies behind an accuracy: the accuracy of each class, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roadmap.base.files import write_atomic
from roadmap.base.tables import Column, as_csv
from roadmap.tasks.task import Processes

COLUMNS = (
    Column("class", "class"),
    Column("images", "images"),
    Column("right", "right"),
    Column("accuracy", "top-1, %", "{:.2f}"),
    Column("mistaken_for", "most often taken for"),
    Column("mistaken", "how often"),
)
MOST_NAMED = 40  # classes whose names fit beside the picture


class Confusion:
    """How many images of each class were taken for which: (classes, classes), what they are by row, what was said by column."""

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = list(classes)
        self.counts = torch.zeros(len(classes) ** 2, dtype=torch.int64, device=device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in logits (B, classes) and classes (B,)."""
        said = outputs.float().topk(1).indices[:, 0]  # as the accuracy takes the first of equals
        self.counts += torch.bincount(targets * len(self.classes) + said, minlength=len(self.counts))

    def compute(self, processes: Processes) -> dict[str, float]:
        """Adds the processes up; no score of its own."""
        processes.total_(self.counts)
        return {}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each class."""
        rows = []
        for index, (name, counts) in enumerate(zip(self.classes, self.matrix, strict=True)):
            wrong = [0 if other == index else count for other, count in enumerate(counts)]
            most = max(wrong, default=0)
            row = {"class": name, "images": sum(counts), "right": counts[index]}
            row["accuracy"] = 100 * counts[index] / sum(counts) if sum(counts) else None
            rows.append(row | {"mistaken_for": self.classes[wrong.index(most)] if most else None, "mistaken": most or None})
        return rows

    @property
    def matrix(self) -> list[list[int]]:
        """The counts."""
        return self.counts.view(len(self.classes), -1).tolist()

    def write(self, folder: Path) -> list[Path]:
        """`classes.csv`, `confusion.csv` and `confusion.png`."""
        files = [folder / name for name in ("classes.csv", "confusion.csv", "confusion.png")]
        write_atomic(files[0], as_csv(self.rows(), COLUMNS))
        columns = [Column("class", "class"), *(Column(f"{i}", name) for i, name in enumerate(self.classes))]
        named = [Column(column.heading, column.heading, source=column.key) for column in columns]
        cells = [
            {"class": name, **{str(i): count for i, count in enumerate(counts)}}
            for name, counts in zip(self.classes, self.matrix, strict=True)
        ]
        write_atomic(files[1], as_csv(cells, named))
        self._draw(files[2])
        return files

    def _draw(self, file: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        counts = torch.tensor(self.matrix, dtype=torch.float64)
        shares = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        side = min(12.0, 4.0 + 0.25 * len(self.classes))
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.add_subplot()
        shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        figure.colorbar(shown, label="of a class's images, %")
        axes.set(xlabel="taken for", ylabel="class")
        if len(self.classes) <= MOST_NAMED:
            names = [name if len(name) <= 24 else f"{name[:23]}…" for name in self.classes]
            for ticks in (axes.set_xticks, axes.set_yticks):
                ticks(range(len(names)), [name.replace("$", r"\$") for name in names])
            axes.tick_params(axis="x", rotation=90)
        picture = BytesIO()
        FigureCanvasAgg(figure).print_png(picture)
        write_atomic(file, picture.getvalue())
