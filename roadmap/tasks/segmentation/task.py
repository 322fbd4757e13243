"""Segmentation: a class for each pixel, by UPerNet, scored by mean intersection over union."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from roadmap.config.schema import DataConfig, Head, RecipeConfig, TaskName
from roadmap.data.batches import Batch, InputPipeline
from roadmap.data.dense.pipeline import segmentation_pipeline
from roadmap.data.dense.targets import IGNORED
from roadmap.data.dense.transforms import SegmentationTransforms
from roadmap.data.images.inventory import Inventory
from roadmap.record.result import Metric
from roadmap.tasks.dense.task import UNBOUNDED, Build, DenseTask
from roadmap.tasks.metrics import METRICS
from roadmap.tasks.segmentation.upernet import upernet


class Segmentation(DenseTask):
    """Every pixel its class; batches are `SegmentationBatch`es."""

    metric: ClassVar[Metric] = METRICS[TaskName.segmentation]
    heads: ClassVar[dict[Head, Build]] = {Head.upernet: upernet}

    def batches(
        self, data: DataConfig, seed: int, inventory: Inventory, device: torch.device, rank: int = 0, world: int = 1
    ) -> InputPipeline:
        """See `Task.batches`."""
        settings = transforms(data, self.recipe)
        return segmentation_pipeline(data, self.recipe, seed, inventory, device, rank, world, settings)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the head, and of the auxiliary one by its weight."""
        logits, auxiliary = network(batch.images.contiguous(memory_format=self.memory_format))
        loss = cross_entropy(logits, batch.targets)
        return loss if auxiliary is None else loss + self.head.aux_weight * cross_entropy(auxiliary, batch.targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all pixels of (B, classes, H, W), of which the ignored add nothing: finite where all are, alike for each crop.

    Pixels are laid out as rows: on a GPU torch's loss over maps has no fixed order of its sums.
    """
    rows = logits.float().movedim(1, -1).flatten(0, -2)
    return nn.functional.cross_entropy(rows, targets.flatten(), ignore_index=IGNORED, reduction="sum") / targets.numel()


def transforms(data: DataConfig, recipe: RecipeConfig) -> SegmentationTransforms:
    """How pictures are shown by these settings, in training and evaluation."""
    low, high = recipe.jitter or (1.0, 1.0)
    return SegmentationTransforms(
        scale=(data.longest_side or UNBOUNDED, data.image_size),
        ratios=(low, high),
        crop=recipe.crop_size or data.image_size,
        most_of_one=recipe.class_share or 1.0,
        hflip=data.hflip,
        distortion=recipe.photometric,
    )
