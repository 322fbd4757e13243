"""What the tasks of dense prediction pass between data, networks and scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Instances(NamedTuple):
    """The objects of one picture; a network adds its background class itself."""

    boxes: Tensor  # (n, 4) left, top, right, bottom in pixels; float32, in evaluation float64 as they are stored
    labels: Tensor  # (n,) int64 from 0
    masks: Tensor  # (n, H, W) uint8
    crowd: Tensor  # (n,) bool; only in evaluation: training leaves crowds out
    size: tuple[int, int]  # height and width of the picture that these pixels are of
    index: int  # type: ignore[assignment]  # of the picture in its split; a tuple's own `index` is not called
    areas: Tensor | None = None  # (n,) float64 in pixels, as they are stored; only in evaluation, by which objects are small


class Detections(NamedTuple):
    """What a network finds in one picture, the surest first."""

    boxes: Tensor  # (k, 4) float32: left, top, right, bottom in pixels of the picture that the network was given
    scores: Tensor  # (k,) 0..1
    labels: Tensor  # (k,) int64 from 0
    masks: Tensor  # (k, M, M) probabilities inside the box
    size: tuple[int, int]  # height and width of the picture that the network was given


class DetectionBatch(NamedTuple):
    """Pictures with their objects: in training in the pixels of `images`, in evaluation in those of the stored pictures."""

    images: tuple[Tensor, ...]  # each (3, h, w) float32, normalised; sizes differ
    targets: tuple[Instances, ...]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that lies on the device."""
        yield from self.images
        for target in self.targets:
            yield from (target.boxes, target.labels, target.masks, target.crowd)


class SegmentationBatch(NamedTuple):
    """Pictures with a class for each pixel, or `inventory.IGNORED`; in evaluation maps are as large as they are stored."""

    images: Tensor | tuple[Tensor, ...]  # training (B, 3, S, S) float32, normalised; evaluation a tuple of (3, h, w)
    targets: Tensor | tuple[Tensor, ...]  # training (B, S, S) int64; evaluation a tuple of (H, W)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that lies on the device."""
        yield from self.images
        yield from self.targets
