"""Mean intersection over union, from a confusion matrix that is summed exactly over pictures and processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from roadmap.data.dense.targets import IGNORED
from roadmap.tasks.task import Processes


class Confusion:
    """Counts of pixels by their class and the class they were given; pixels that are `IGNORED` count nowhere."""

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = classes
        self.counts = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=device)  # by class, then by given class

    def update(self, outputs: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
        """Take in scores of each picture (classes, h, w) and its map (H, W), at whose size they are compared."""
        for scores, target in zip(outputs, targets, strict=True):
            given = resized(scores[None].float(), (target.shape[0], target.shape[1]))[0].argmax(0)
            self.add(given, target)

    def add(self, given: Tensor, target: Tensor) -> None:
        """Take in the classes that pixels were given, and the classes that they have."""
        seen = target != IGNORED
        pairs = target[seen].long() * len(self.classes) + given[seen]
        self.counts += torch.bincount(pairs, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self, processes: Processes) -> dict[str, float]:
        """`miou`, `pixel_accuracy`, and `iou_<class>` of each class that a pixel has or was given, in percent.

        The mean is over these classes: one that is neither there nor given to a pixel has no intersection over union.
        """
        counts = processes.total_(self.counts.clone()).double().cpu()
        right, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        there = (union > 0).tolist()
        ious = (100 * right / union).tolist()
        by_class = {f"iou_{name}": iou for name, iou, counted in zip(self.classes, ious, there, strict=True) if counted}
        if not by_class:  # no map has a pixel with a class
            return {}
        accuracy = 100 * float(right.sum() / counts.sum())
        return {"miou": sum(by_class.values()) / len(by_class), "pixel_accuracy": accuracy, **by_class}


def resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (N, classes, h, w) at another size, bilinear."""
    if scores.shape[2:] == size:
        return scores
    return functional.interpolate(scores, size, mode="bilinear", align_corners=False)
