"""A recipe, Table 5 of the paper or another, from timm's parts: optimizer, schedule, clipping, averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from roadmap.config.schema import Clip, Layering, Optimizer, RecipeConfig, Schedule, Spared
from roadmap.model.decay import OnBackbone, decay_layers
from roadmap.model.layers import ResponseNorm2d

Clipping = Callable[[Sequence[Tensor], Tensor], None]  # bounds the gradients of these weights in place, given their norm
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, ResponseNorm2d)


def optimizer(recipe: RecipeConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over the weights of `network`, in groups by weight decay and by layer."""
    facts = recipe.optimizer.facts
    given = {"betas": tuple(recipe.betas), "eps": recipe.eps, "momentum": recipe.momentum, "nesterov": recipe.nesterov}
    settings: dict[str, Any] = {key: value for key, value in given.items() if key in facts.reads}
    if facts.fused:
        settings["fused"] = True
    if recipe.optimizer == Optimizer.lamb:
        settings["max_grad_norm"] = None
    by_group = partial(_groups, recipe)
    made = create_optimizer_v2(network, opt=recipe.optimizer.value, lr=recipe.peak_lr, param_group_fn=by_group, **settings)
    if recipe.optimizer == Optimizer.sgd and recipe.momentum:
        _begin_momentum(made)
    return made


def _begin_momentum(sgd: torch.optim.Optimizer) -> None:
    """From zero, which makes the first update the same: where float16's scaler skips it, torch would leave memory as it was."""
    for group in sgd.param_groups:
        for weight in group["params"]:
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.preserve_format)


def _groups(recipe: RecipeConfig, network: nn.Module) -> list[dict[str, Any]]:
    """The weights by their weight decay, and where the rate decays from layer to layer by layer too."""
    settings: dict[str, Any] = {
        "weight_decay": recipe.weight_decay,
        "weight_decay_exclude_1d": recipe.decay_spares == Spared.vectors,
        "no_weight_decay_list": spared_by_name(recipe.decay_spares, network),
    }
    if recipe.layer_decay is None:
        return param_groups_weight_decay(network, **settings)
    if recipe.layering == Layering.triples:
        return param_groups_layer_decay(network, layer_decay=recipe.layer_decay, **settings)
    return _groups_by_layer(recipe, recipe.layer_decay, network, settings["no_weight_decay_list"])


def _groups_by_layer(recipe: RecipeConfig, rate: float, network: nn.Module, spared: set[str]) -> list[dict[str, Any]]:
    """By the layers of the paper's detectors; the schedule multiplies by `lr_scale`."""
    layers = decay_layers(cast(OnBackbone, network), recipe.decay_layers, recipe.layering == Layering.stages)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            free = name in spared or (weight.ndim <= 1 and recipe.decay_spares == Spared.vectors)
            groups.setdefault((layers[name], free), []).append(weight)
    return [
        {
            "params": weights,
            "weight_decay": 0.0 if free else recipe.weight_decay,
            "lr_scale": rate ** (recipe.decay_layers + 1 - layer),
        }
        for (layer, free), weights in sorted(groups.items())
    ]


def spared_by_name(spared: Spared, network: nn.Module) -> set[str]:
    """The weights that weight decay spares for another reason than being vectors; a reference names some itself."""
    if spared == Spared.none:
        return set()
    own = set(getattr(network, "no_weight_decay", set)()) | _within(network, lambda layer: getattr(layer, "is_own_norm", False))
    if spared == Spared.vectors:
        return own
    return (
        own
        | _within(network, lambda layer: isinstance(layer, NORMS))
        | {name for name, _ in network.named_parameters() if name.endswith("bias")}
    )


def _within(network: nn.Module, asked: Callable[[nn.Module], bool]) -> set[str]:
    """The weights of the layers of a kind, by name."""
    layers = ((name, layer) for name, layer in network.named_modules() if asked(layer))
    return {f"{name}.{weight}".lstrip(".") for name, layer in layers for weight, _ in layer.named_parameters()}


def schedule(recipe: RecipeConfig, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Scheduler:
    """Linear over the warm-up, then the recipe's way, which ends with the training; `step_update(n)` before update n."""
    updates, warmup = recipe.length(updates_per_epoch), recipe.warmup(updates_per_epoch)
    start = recipe.warmup_start * recipe.peak_lr
    warming: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": start, "t_in_epochs": False}
    ending = {**warming, "t_initial": updates - warmup, "lr_min": recipe.min_lr, "warmup_prefix": True}
    if recipe.schedule == Schedule.cosine:
        return CosineLRScheduler(optimizer, **ending)
    if recipe.schedule == Schedule.polynomial:
        return PolyLRScheduler(optimizer, power=recipe.lr_power, **ending)
    shares = recipe.milestones if recipe.schedule == Schedule.step else []
    at = [round(share * updates) + 1 for share in shares]  # timm's decay an update before the one that they name
    return MultiStepLRScheduler(optimizer, at, recipe.lr_factor, warmup_prefix=False, **warming)


def clipping(recipe: RecipeConfig) -> Clipping | None:
    """What bounds the gradients, without waiting for their norm; None where nothing does."""
    bound = recipe.clip_grad
    if bound is None:
        return None
    if recipe.clip_mode == Clip.value:
        return lambda weights, _: nn.utils.clip_grad_value_(weights, bound)
    return lambda weights, norm: nn.utils.clip_grads_with_norm_(weights, bound, norm)


def average(recipe: RecipeConfig, network: nn.Module) -> ModelEmaV3 | None:
    """The exponential moving average of weights and buffers; None where it is off."""
    return None if recipe.ema is None else ModelEmaV3(network, decay=recipe.ema)
