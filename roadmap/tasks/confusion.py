"""What lies behind an accuracy: the accuracy of each class, and which classes are taken for which. Of images, or of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from roadmap.base.files import write_atomic
from roadmap.base.tables import Column, as_csv

MOST_NAMED = 40  # classes whose names fit beside the picture


class Confusion:
    """How many of each class were taken for which: (classes, classes), what they are by row, what was said by column."""

    unit: ClassVar[str] = "images"

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = list(classes)
        self.counts = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=device)

    def add(self, said: Tensor, targets: Tensor, counted: Tensor | None = None) -> None:
        """Take in classes that were said and the classes that they are, (n,) both; where given, those that are `counted` (n,).

        A GPU is not waited for, as it would be for a histogram or a selection: their sizes come from values.
        """
        pairs = targets.long() * len(self.classes) + said
        once = torch.ones_like(pairs) if counted is None else counted.long()
        self.counts.view(-1).index_add_(0, pairs, once)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each class."""
        rows = []
        for index, (name, counts) in enumerate(zip(self.classes, self.matrix, strict=True)):
            wrong = [0 if other == index else count for other, count in enumerate(counts)]
            most = max(wrong, default=0)
            row = {"class": name, self.unit: sum(counts), "right": counts[index]}
            row["accuracy"] = 100 * counts[index] / sum(counts) if sum(counts) else None
            rows.append(row | {"mistaken_for": self.classes[wrong.index(most)] if most else None, "mistaken": most or None})
        return rows

    def columns(self) -> list[Column]:
        """Of the rows."""
        return [
            *(Column(key, key) for key in ("class", self.unit, "right")),
            Column("accuracy", f"of its {self.unit}, %", "{:.2f}"),
            Column("mistaken_for", "most often taken for"),
            Column("mistaken", "how often"),
        ]

    @property
    def matrix(self) -> list[list[int]]:
        """The counts."""
        return self.counts.tolist()

    def write(self, folder: Path) -> list[Path]:
        """`classes.csv`, `confusion.csv` and `confusion.png`."""
        files = [folder / name for name in ("classes.csv", "confusion.csv", "confusion.png")]
        write_atomic(files[0], as_csv(self.rows(), self.columns()))
        columns = [Column("class", "class"), *(Column(name, name, source=str(i)) for i, name in enumerate(self.classes))]
        rows = zip(self.classes, self.matrix, strict=True)
        cells = [{"class": name, **{str(i): count for i, count in enumerate(counts)}} for name, counts in rows]
        write_atomic(files[1], as_csv(cells, columns))
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
        figure.colorbar(shown, label=f"of a class's {self.unit}, %")
        axes.set(xlabel="taken for", ylabel="class")
        if len(self.classes) <= MOST_NAMED:
            names = [name if len(name) <= 24 else f"{name[:23]}…" for name in self.classes]
            for ticks in (axes.set_xticks, axes.set_yticks):
                ticks(range(len(names)), [name.replace("$", r"\$") for name in names])
            axes.tick_params(axis="x", rotation=90)
        picture = BytesIO()
        FigureCanvasAgg(figure).print_png(picture)
        write_atomic(file, picture.getvalue())
