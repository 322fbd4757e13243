"""What a step is compared with: timm's parts put together as timm's training script does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers import DropPath as TimmDropPath
from timm.layers import LayerNorm2d as TimmLayerNorm2d
from timm.layers import LayerScale2d
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.task import ClassificationTask
from timm.utils import AverageMeter
from torch import nn

from roadmap.config.schema import ModelConfig, Precision
from roadmap.data.batches import Batch
from roadmap.model.depthwise import Depthwise
from roadmap.model.layers import DropPath, LayerNorm2d, LayerScale, Pointwise
from roadmap.model.network import build_network
from roadmap.model.weights import timm_twin
from roadmap.tasks.classification import Classification
from roadmap.train import memory
from roadmap.train.precision import autocast, tf32


class TimmLoop:
    """An update of timm's `train.py`: task, autocast, AdamW, the loss read after every update.

    `best` is with the script's best flags (--channels-last --fast-norm --opt-kwargs fused=True, and --amp --amp-dtype bfloat16
    where the run is in bfloat16), or with none of them; `compiled` with --torchcompile, only with `best`. The precision is that
    of ours; timm's default is float32.
    """

    def __init__(
        self, network: nn.Module, task: Classification, device: torch.device, best: bool, compiled: bool, precision: Precision
    ) -> None:
        self.device, self.precision = device, precision if best else Precision.float32
        self.network = network.to(device)
        if best:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.memory_format = torch.channels_last if best else torch.contiguous_format
        self.task = ClassificationTask(self.network, criterion=task.criterion, device=device, verbose=False)
        self.optimizer = create_optimizer_v2(
            self.network,
            opt="adamw",
            lr=task.recipe.peak_lr,
            weight_decay=task.recipe.weight_decay,
            betas=tuple(task.recipe.betas),
            **({"fused": True} if best else {}),
        )
        if best and compiled:
            self.task.compile()
        self.schedule = CosineLRScheduler(self.optimizer, t_initial=1_000_000, t_in_epochs=False)
        self.losses, self.updates = AverageMeter(), 0
        self.optimizer.zero_grad()

    def __call__(self, batch: Batch) -> None:
        """One update."""
        tf32(True)  # as the script has it
        memory.as_by_default(self.device)
        self.task.get_trainable_module().train()
        images = batch.images.contiguous(memory_format=self.memory_format)
        with autocast(self.precision, self.device):
            loss = self.task(images, batch.targets)["loss"]
        loss.backward()
        self.optimizer.step()
        self.losses.update(loss.item(), images.size(0))
        self.updates += 1
        self.optimizer.zero_grad()
        self.schedule.step_update(num_updates=self.updates)


def timm_network(step: str, scale: str, model: ModelConfig, classes: int) -> nn.Module:
    """The step as a user of timm has it: timm's own model at both ends, between them the same layers from timm's parts."""
    if (name := timm_twin(step, scale)) is not None:
        return timm.create_model(name, num_classes=classes, drop_path_rate=model.drop_path)
    network = build_network(model, classes)
    for parent in list(network.modules()):
        for key, child in parent.named_children():
            if type(child) in REPLACED:
                setattr(parent, key, REPLACED[type(child)](child))
    return network


def _conv(layer: nn.Conv2d) -> nn.Conv2d:
    sizes: Any = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    return nn.Conv2d(layer.in_channels, layer.out_channels, groups=layer.groups, bias=layer.bias is not None, **sizes)


REPLACED: dict[type, Callable[[Any], nn.Module]] = {
    Pointwise: _conv,
    Depthwise: _conv,
    LayerNorm2d: lambda norm: TimmLayerNorm2d(norm.normalized_shape[0], eps=norm.eps),
    LayerScale: lambda scale: LayerScale2d(len(scale.gamma), init_values=1e-6),
    DropPath: lambda drop: TimmDropPath(drop.probability),
}
