"""Table 5 of the paper from timm's parts: optimizer, schedule, averaged weights, mixup, loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from roadmap.checks import peak_lr
from roadmap.schema import Experiment, RecipeConfig


def optimizer(experiment: Experiment, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW; no weight decay on biases and other 1-D parameters (norms, layer scale)."""
    recipe = experiment.recipe
    return create_optimizer_v2(
        network,
        opt="adamw",
        lr=peak_lr(experiment),
        weight_decay=recipe.weight_decay,
        betas=tuple(recipe.betas),
        eps=recipe.eps,
        fused=True,
    )


def schedule(experiment: Experiment, adamw: torch.optim.Optimizer, updates_per_epoch: int) -> CosineLRScheduler:
    """Linear from 0 over the warm-up, then a cosine that reaches `min_lr` as training ends; `step_update(n)` before update n."""
    recipe = experiment.recipe
    updates = recipe.epochs * updates_per_epoch
    warmup = min(round(recipe.warmup_epochs * updates_per_epoch), updates - 1)
    return CosineLRScheduler(
        adamw,
        t_initial=updates - warmup,
        lr_min=recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )


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


def average(recipe: RecipeConfig, network: nn.Module) -> ModelEmaV3 | None:
    """The exponential moving average of weights and buffers; None where it is off."""
    return None if recipe.ema is None else ModelEmaV3(network, decay=recipe.ema)


def criterion(recipe: RecipeConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy with label smoothing; mixed batches bring their smoothed targets along."""
    if recipe.mixup or recipe.cutmix:
        return SoftTargetCrossEntropy()
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
