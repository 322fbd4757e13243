"""Detection: boxes, classes and masks of objects, by Mask R-CNN or Cascade Mask R-CNN, scored as COCO does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

from roadmap.config.schema import Head, TaskName
from roadmap.data.batches import Batch
from roadmap.data.dense.draw import draw_objects, side_by_side
from roadmap.data.dense.pipeline import WITH_OBJECTS, Kind
from roadmap.data.dense.targets import DetectionBatch, Detections, Instances
from roadmap.record.result import Metric
from roadmap.tasks.dense.backbone import Build
from roadmap.tasks.dense.gallery import Example, Gallery
from roadmap.tasks.dense.task import DenseTask
from roadmap.tasks.detection.regions import Detector
from roadmap.tasks.detection.score import AveragePrecision, Found, to_stored
from roadmap.tasks.metrics import METRICS

EDGES = ("left", "top", "right", "bottom")
OBJECTS = 16  # in a picture of a dummy batch, more than most pictures of COCO have


class Detection(DenseTask):
    """Every object its box, class and mask; batches are `DetectionBatch`es."""

    metric: ClassVar[Metric] = METRICS[TaskName.detection]
    heads: ClassVar[dict[Head, Build]] = {Head.mask_rcnn: Detector, Head.cascade_mask_rcnn: Detector}
    kind: ClassVar[Kind] = WITH_OBJECTS

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The sum of the head's losses, each a mean over the micro-batch."""
        losses: dict[str, Tensor] = network(batch.images, batch.targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def outputs(self, network: nn.Module, images: Iterable[Tensor]) -> list[Detections]:
        """What is found in each picture."""
        return network(tuple(images))

    def scorer(self, device: torch.device) -> AveragePrecision:
        """See `Task.scorer`."""
        return AveragePrecision(self.classes)

    breakdown = scorer  # it keeps what it was given

    def gallery(self) -> Gallery:
        """See `Task.gallery`."""
        return Gallery(overlap, self.drawn)

    def drawn(self, example: Example) -> Image.Image:
        """What is labelled beside what was found: of that the surest, as many as there are objects."""
        target, found = example.target, to_stored(surest(example.output, len(example.target.labels)), example.target.size)
        picture = self.picture(example.image, target.size)
        labelled = draw_objects(picture, target.boxes.numpy(), target.labels.tolist(), self.classes, target.masks.numpy())
        labels, scores = found.labels.tolist(), found.scores.tolist()
        guessed = draw_objects(picture, found.boxes.numpy(), labels, self.classes, found.masks, scores)
        return side_by_side([("labelled", labelled), ("found", guessed)])

    def answers(self, picture: Image.Image, output: Detections, most: int) -> list[dict[str, Any]]:
        """See `Task.answers`: classes with their scores and boxes, in pixels of the picture."""
        seen = _on_picture(picture, output, most)
        edges = [dict(zip(EDGES, box, strict=True)) for box in seen.boxes.tolist()]
        parts = zip(seen.labels.tolist(), seen.scores.tolist(), edges, strict=True)
        return [{"class": self.classes[label], "score": score, **box} for label, score, box in parts]

    def found(self, picture: Image.Image, output: Detections, most: int) -> Image.Image:
        """See `Task.found`: boxes, masks and scores."""
        seen = _on_picture(picture, output, most)
        return draw_objects(picture, seen.boxes.numpy(), seen.labels.tolist(), self.classes, seen.masks, seen.scores.tolist())

    def dummy_batch(self, images: int, device: torch.device) -> DetectionBatch:
        """See `Task.dummy_batch`: pictures as large as they get, with some objects in each."""
        size = self.data.image_size, self.data.longest_side or self.data.image_size
        blank = torch.zeros(3, *size, device=device)
        return DetectionBatch((blank,) * images, tuple(_blank_objects(size, index, device) for index in range(images)))


def _on_picture(picture: Image.Image, output: Detections, most: int) -> Found:
    return to_stored(surest(output, most), picture.size[::-1])


def surest(found: Detections, number: int) -> Detections:
    """The first so many, of which the first is the surest."""
    return found._replace(**{part: getattr(found, part)[:number] for part in ("boxes", "scores", "labels", "masks")})


def overlap(target: Instances, found: Detections) -> float | None:
    """How well a picture's objects are found, 0 to 1: mean overlap of each with the best box of its class among the surest."""
    truth = target.boxes[~target.crowd]
    if not len(truth):
        return None
    boxes = to_stored(surest(found, len(target.labels)), target.size)
    same = target.labels[~target.crowd][:, None] == boxes.labels[None]
    overlaps = torch.where(same, box_iou(truth.double(), boxes.boxes), 0.0)
    return float(overlaps.amax(1).mean()) if overlaps.shape[1] else 0.0


def _blank_objects(size: tuple[int, int], index: int, device: torch.device) -> Instances:
    side = min(size) / 4
    corners = torch.linspace(0, min(size) - side, OBJECTS, device=device)
    boxes = torch.stack([corners, corners, corners + side, corners + side], 1)
    masks = torch.ones(OBJECTS, *size, dtype=torch.uint8, device=device)
    none = torch.zeros(OBJECTS, dtype=torch.long, device=device)
    return Instances(boxes, none, masks, none.bool(), size, index)
