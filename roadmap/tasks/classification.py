"""Image classification: loss, mixing, accuracy over a whole evaluation split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from roadmap.config.schema import Precision, RecipeConfig
from roadmap.data.batches import Batch
from roadmap.train.ranks import Ranks
from roadmap.train.update import autocast


@dataclass
class Scores:
    """Evaluation over every image of `val`: top-1 and top-5 in percent, mean cross-entropy in nats."""

    top1: float
    top5: float
    val_loss: float


@torch.inference_mode()
def score(
    network: nn.Module,
    batches: Iterable[Batch],
    precision: Precision,
    memory_format: torch.memory_format,
    ranks: Ranks,
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Score a network on the batches of all processes together, each on its device; `between` is called before each batch.

    Sums stay on the device until the end. Each process brings its own batches, not the same number of them. Nothing is
    compiled for it: a forward pass over a small split does not earn that back.
    """
    network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)  # top-1, top-5, cross-entropy, images
    for images, targets in batches:
        between()
        images = images.contiguous(memory_format=memory_format)
        with autocast(precision, ranks.device), torch.compiler.set_stance("force_eager"):
            logits = network(images)
        logits = logits.float()
        ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.full_like(loss, len(targets))]).double()
    first, five, loss, seen = ranks.total_(sums).tolist()
    return Scores(100 * first / seen, 100 * five / seen, loss / seen)


def mixing(recipe: RecipeConfig, num_classes: int) -> Mixup | None:
    """Mixup and cutmix, one of them for each whole batch; None where both are off."""
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        switch_prob=recipe.mixup_switch_prob,
        mode="batch",
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def criterion(recipe: RecipeConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy with label smoothing; mixed batches bring their smoothed targets along."""
    if recipe.mixup or recipe.cutmix:
        return SoftTargetCrossEntropy()
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
