"""Segmentation: a class for each pixel, by UPerNet, scored by mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from roadmap.config.schema import Head, TaskName
from roadmap.data.batches import Batch
from roadmap.data.dense.draw import draw_map, side_by_side
from roadmap.data.dense.pipeline import WITH_MAPS, Kind
from roadmap.data.dense.targets import SegmentationBatch
from roadmap.data.dense.transforms import crop_side
from roadmap.data.images.inventory import IGNORED
from roadmap.record.result import Metric
from roadmap.tasks.dense.backbone import Build
from roadmap.tasks.dense.gallery import Example, Gallery
from roadmap.tasks.dense.task import DenseTask
from roadmap.tasks.metrics import METRICS
from roadmap.tasks.segmentation.inference import at_scales, slide
from roadmap.tasks.segmentation.score import Confusion, classes_of
from roadmap.tasks.segmentation.upernet import UPerNet


@dataclass
class Segmentation(DenseTask):
    """Every pixel its class; batches are `SegmentationBatch`es."""

    scales: Sequence[float] = ()  # at which, and mirrored too, a picture is scored besides; none: as it is
    metric: ClassVar[Metric] = METRICS[TaskName.segmentation]
    heads: ClassVar[dict[Head, Build]] = {Head.upernet: UPerNet}
    kind: ClassVar[Kind] = WITH_MAPS

    @property
    def window(self) -> int:
        """Pixels a side of what is trained on, and so of the parts in which a picture is scored."""
        return crop_side(self.data, self.recipe)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the head, and of the auxiliary one by its weight."""
        logits, auxiliary = network(batch.images.contiguous(memory_format=self.memory_format))
        loss = cross_entropy(logits, batch.targets)
        return loss if auxiliary is None else loss + self.head.aux_weight * cross_entropy(auxiliary, batch.targets)

    def outputs(self, network: nn.Module, images: Iterable[Tensor]) -> list[Tensor]:
        """Scores (classes, h, w) of each picture, from overlapping windows two thirds of their side apart."""
        scores = partial(slide, partial(self._scores, network), window=self.window, stride=int(self.window * 2 / 3))
        return [at_scales(scores, image, self.scales) if self.scales else scores(image) for image in images]

    def _scores(self, network: nn.Module, windows: Tensor) -> Tensor:
        return network(windows.contiguous(memory_format=self.memory_format))

    def scorer(self, device: torch.device) -> Confusion:
        """See `Task.scorer`."""
        return Confusion(self.classes, device)

    breakdown = scorer  # it keeps what it was given

    def gallery(self) -> Gallery:
        """See `Task.gallery`."""
        return Gallery(accuracy, self.drawn)

    def drawn(self, example: Example) -> Image.Image:
        """What is labelled beside what was found."""
        target, found = example.target.cpu(), classes_of(example.output, example.target.shape).cpu()
        picture = self.picture(example.image, (target.shape[0], target.shape[1]))
        maps = {"labelled": target, "found": found}
        return side_by_side([(name, draw_map(picture, shown.byte().numpy(), self.classes)) for name, shown in maps.items()])

    def answers(self, picture: Image.Image, output: Tensor, most: int) -> list[dict[str, Any]]:
        """See `Task.answers`: classes with their shares of the picture, the largest first."""
        counts = torch.from_numpy(self._map(picture, output)).flatten().bincount(minlength=len(self.classes))
        largest, labels = counts.sort(descending=True, stable=True)
        pairs = zip((largest / counts.sum()).tolist(), labels.tolist(), strict=True)
        return [{"class": self.classes[label], "share": share} for share, label in pairs if share][:most]

    def found(self, picture: Image.Image, output: Tensor, most: int) -> Image.Image:
        """See `Task.found`: every pixel tinted by its class."""
        return draw_map(picture, self._map(picture, output), self.classes)

    def _map(self, picture: Image.Image, scores: Tensor) -> np.ndarray[Any, Any]:
        """The class of each pixel of the picture."""
        return classes_of(scores, (picture.height, picture.width)).byte().cpu().numpy()

    def dummy_batch(self, images: int, device: torch.device) -> SegmentationBatch:
        """See `Task.dummy_batch`: crops of what is trained on."""
        side = self.window
        blank = torch.zeros(images, 3, side, side, device=device)
        return SegmentationBatch(blank, torch.zeros(images, side, side, dtype=torch.long, device=device))


def accuracy(target: Tensor, scores: Tensor) -> float | None:
    """The share of a picture's pixels whose class was found; None where none has one."""
    counted = target != IGNORED
    return float((classes_of(scores, target.shape) == target)[counted].float().mean()) if counted.any() else None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all pixels of (B, classes, H, W), of which the ignored add nothing: finite where all are, alike for each crop.

    Pixels are laid out as rows: on a GPU torch's loss over maps has no fixed order of its sums.
    """
    rows = logits.float().movedim(1, -1).flatten(0, -2)
    return nn.functional.cross_entropy(rows, targets.flatten(), ignore_index=IGNORED, reduction="sum") / targets.numel()
