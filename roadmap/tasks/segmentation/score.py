"""Mean intersection over union, from a confusion matrix that is summed exactly over pictures and processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from roadmap.base.tables import Column
from roadmap.data.images.inventory import IGNORED
from roadmap.tasks import confusion
from roadmap.tasks.dense.layers import resized
from roadmap.tasks.task import Processes


class Confusion(confusion.Confusion):
    """Of pixels; those that are `IGNORED` count nowhere."""

    unit: ClassVar[str] = "pixels"

    def update(self, outputs: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
        """Take in scores of each picture (classes, h, w) and its map (H, W), at whose size they are compared."""
        for scores, target in zip(outputs, targets, strict=True):
            self.add(classes_of(scores, target.shape), target)

    def add(self, said: Tensor, targets: Tensor, counted: Tensor | None = None) -> None:
        """Take in the classes that pixels were given, and the classes that they have, of any shape."""
        said, targets = said.flatten(), targets.flatten()
        seen = targets != IGNORED
        super().add(said, targets.where(seen, 0), seen)

    def compute(self, processes: Processes) -> dict[str, float]:
        """`miou`, `pixel_accuracy`, and `iou_<class>` of each class that a pixel has or was given, in percent.

        The mean is over these classes: one that is neither there nor given to a pixel has no intersection over union.
        """
        processes.total_(self.counts)
        by_class = {f"iou_{name}": iou for name, iou in zip(self.classes, self._ious(), strict=True) if iou is not None}
        if not by_class:  # no map has a pixel with a class
            return {}
        accuracy = 100 * float(self.counts.diagonal().sum().double() / self.counts.sum())
        return {"miou": sum(by_class.values()) / len(by_class), "pixel_accuracy": accuracy, **by_class}

    def _ious(self) -> list[float | None]:
        """In percent; None of a class that is neither there nor given to a pixel."""
        counts = self.counts.double().cpu()
        right, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        return [iou if there else None for iou, there in zip((100 * right / union).tolist(), (union > 0).tolist(), strict=True)]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each class."""
        return [row | {"iou": iou} for row, iou in zip(super().rows(), self._ious(), strict=True)]

    def columns(self) -> list[Column]:
        """Of the rows."""
        return [*super().columns(), Column("iou", "IoU, %", "{:.2f}")]


def classes_of(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    """The likeliest class of each pixel of a map of this size (H, W), from scores (classes, h, w)."""
    return resized(scores[None].float(), size)[0].argmax(0)
