"""Table 5 of the paper from timm's parts: optimizer, schedule, averaged weights."""

from __future__ import annotations

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from roadmap.config.schema import RecipeConfig


def optimizer(recipe: RecipeConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW; no weight decay on biases and other 1-D parameters (norms, layer scale)."""
    return create_optimizer_v2(
        network,
        opt="adamw",
        lr=recipe.peak_lr,
        weight_decay=recipe.weight_decay,
        betas=tuple(recipe.betas),
        eps=recipe.eps,
        fused=True,
    )


def schedule(recipe: RecipeConfig, adamw: torch.optim.Optimizer, updates_per_epoch: int) -> CosineLRScheduler:
    """Linear from 0 over the warm-up, then a cosine that reaches `min_lr` as training ends; `step_update(n)` before update n."""
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


def average(recipe: RecipeConfig, network: nn.Module) -> ModelEmaV3 | None:
    """The exponential moving average of weights and buffers; None where it is off."""
    return None if recipe.ema is None else ModelEmaV3(network, decay=recipe.ema)
