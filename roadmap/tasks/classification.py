"""Image classification: cross-entropy, mixup and cutmix, accuracy over a whole evaluation split.

timm is imported when something is trained: its import takes seconds, and a study's costs need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from roadmap.config.schema import DataConfig, ModelConfig, RecipeConfig, TaskName
from roadmap.data.batches import Batch, BatchPlan, InputPipeline, LabelledImages
from roadmap.data.images.inventory import Inventory
from roadmap.model.cost import Cost, cost_of
from roadmap.model.network import network_of
from roadmap.model.start import Fill, classifier_of
from roadmap.record.result import Metric
from roadmap.tasks.confusion import Confusion
from roadmap.tasks.metrics import METRICS
from roadmap.tasks.task import Processes

if TYPE_CHECKING:
    from timm.data import Mixup


@dataclass
class Classification:
    """One class for each image, by the recipe of the paper's Table 5; batches are `LabelledImages`."""

    recipe: RecipeConfig
    data: DataConfig
    classes: Sequence[str]
    memory_format: torch.memory_format
    metric: ClassVar[Metric] = METRICS[TaskName.classification]

    def batches(self, seed: int, inventory: Inventory, device: torch.device, rank: int = 0, world: int = 1) -> InputPipeline:
        """See `Task.batches`."""
        from roadmap.data.pipeline import input_pipeline

        return input_pipeline(BatchPlan(self.data, self.recipe, seed, inventory, device, rank, world, self.memory_format))

    def network(self, model: ModelConfig, reference: str | None) -> nn.Module:
        """See `Task.network`: (N, 3, H, W) to (N, classes)."""
        recipe, classes = self.recipe, len(self.classes)
        network = network_of(model, reference, classes, self.data.image_size, recipe.dropout, recipe.initialisation)
        if recipe.head_scale != 1:
            with torch.no_grad():
                for name in classifier_of(network):
                    for weight in network.get_submodule(name).parameters():
                        weight.mul_(recipe.head_scale)
        return network

    def fill(self, network: nn.Module) -> Fill:
        """See `Task.fill`: all of it, and its classifier."""
        return Fill(network, classifier_of(network))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of a micro-batch, mixed where the recipe mixes."""
        images, targets = batch.images, batch.targets
        if self.mixing is not None:
            images, targets = self.mixing(images, targets)
        return self.criterion(network(images), targets)

    def outputs(self, network: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return network(images)

    def scorer(self, device: torch.device) -> Accuracy:
        """See `Task.scorer`."""
        return Accuracy(device)

    def gallery(self) -> None:
        """An image and its class need no picture."""

    def breakdown(self, device: torch.device) -> AccuracyByClass:
        """See `Task.breakdown`."""
        return AccuracyByClass(self.classes, device)

    def shown(self, picture: Image) -> Tensor:
        """See `Task.shown`."""
        from roadmap.data.transforms import val_transform

        return torch.as_tensor(val_transform(self.data, self.recipe.interpolation)(picture))

    def answers(self, picture: Image, output: Tensor, most: int) -> list[dict[str, Any]]:
        """See `Task.answers`: classes with their probabilities, of logits (classes,)."""
        ranked = output.float().softmax(-1).topk(min(most, len(output)))
        pairs = zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
        return [{"class": self.classes[index], "probability": value} for value, index in pairs]

    def found(self, picture: Image, output: Tensor, most: int) -> None:
        """A class needs no picture."""

    def cost(self, model: ModelConfig, reference: str | None) -> Cost:
        """See `Task.cost`."""
        return cost_of(model, reference, len(self.classes), self.data.image_size)

    def dummy_batch(self, images: int, device: torch.device) -> LabelledImages:
        """See `Task.dummy_batch`."""
        side = self.data.image_size
        blank = torch.zeros(images, 3, side, side, device=device).contiguous(memory_format=self.memory_format)
        return LabelledImages(blank, torch.zeros(images, dtype=torch.long, device=device))

    @cached_property
    def mixing(self) -> Mixup | None:
        """Mixup and cutmix, one of them for each whole batch; None where both are off."""
        recipe = self.recipe
        if recipe.mixup == 0 and recipe.cutmix == 0:
            return None
        from timm.data import Mixup

        return Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            switch_prob=recipe.mixup_switch_prob,
            mode="batch",
            label_smoothing=recipe.label_smoothing,
            num_classes=len(self.classes),
        )

    @cached_property
    def criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy with label smoothing; mixed batches bring their smoothed targets along."""
        if self.mixing is None:
            return nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)
        from timm.loss import SoftTargetCrossEntropy

        return SoftTargetCrossEntropy()


class Accuracy:
    """Top-1 and top-5 in percent and mean cross-entropy in nats, every image counted once; its sums stay on the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)  # top-1, top-5, cross-entropy, images

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in logits (B, classes) and classes (B,)."""
        logits = outputs.float()
        ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
        self.sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.full_like(loss, len(targets))]).double()

    def compute(self, processes: Processes) -> dict[str, float]:
        """`top1`, `top5` and `val_loss`."""
        first, five, loss, seen = processes.total_(self.sums).tolist()
        return {"top1": 100 * first / seen, "top5": 100 * five / seen, "val_loss": loss / seen}


class AccuracyByClass(Accuracy):
    """The same, and which classes are taken for which."""

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        super().__init__(device)
        self.confusion = Confusion(classes, device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """See `Accuracy.update`."""
        super().update(outputs, targets)
        self.confusion.add(outputs.float().topk(1).indices[:, 0], targets)  # the first of equals, as the accuracy takes it

    def compute(self, processes: Processes) -> dict[str, float]:
        """See `Accuracy.compute`."""
        processes.total_(self.confusion.counts)
        return super().compute(processes)

    def write(self, folder: Path) -> list[Path]:
        """See `Confusion.write`."""
        return self.confusion.write(folder)
