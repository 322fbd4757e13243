"""Which layer was the first to put out numbers that are not finite: an update repeated, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.train.ranks import Ranks

Losses = Callable[[], Iterator[Callable[[], Tensor]]]


def layer_at_fault(network: nn.Module, losses: Losses, ranks: Ranks) -> str:
    """Where numbers cease to be finite, in a sentence, by repeating an update; all processes of a run call this together.

    `losses()` begins the update anew and yields the loss of each micro-batch, to be computed before the next.
    """
    network.train()
    for look in (forward_fault, backward_fault):
        faults = ranks.gather([look(network, loss) for loss in losses()])
        first = next((fault for of_process in faults for fault in of_process if fault is not None), None)
        if first is not None:
            return first
    return "the same update repeated layer by layer is finite"


def forward_fault(network: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """The layer where the forward pass leaves the finite numbers, if it does; `loss` runs the network and returns the loss."""
    with _watched(network) as faults, torch.no_grad():
        value = loss()
    if faults:
        return f"{faults[0]} is the first layer to put out numbers that are not finite"
    return None if value.isfinite() else "every layer puts out finite numbers and the loss is not finite"


def backward_fault(network: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """The layer where the backward pass leaves the finite numbers, if it does; the gradients of the network are lost."""
    network.zero_grad(set_to_none=True)
    with torch.compiler.set_stance("force_eager"):
        loss().backward()
    broken = [name for name, weight in network.named_parameters() if weight.grad is not None and not weight.grad.isfinite().all()]
    return f"{broken[-1]} is the first, from the loss back, whose gradient is not finite" if broken else None


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[str]]:
    """Inside, the names of layers that put out numbers that are not finite are collected, in the order of their work."""
    faults: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                faults.append(name)

        return hook

    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield faults
    finally:
        for hook in hooks:
            hook.remove()
