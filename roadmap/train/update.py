"""One update of the weights from its micro-batches: the same arithmetic however many devices share them.

Nothing here waits for the device: what the loop wants to know comes back as a small tensor, and an update whose loss
or gradient is not finite is held back on the device itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roadmap.config.schema import Precision
from roadmap.data.batches import Batch
from roadmap.tasks.task import Task
from roadmap.train.precision import autocast
from roadmap.train.ranks import Ranks
from roadmap.train.recipe import Clipping


@dataclass
class Update:
    """`update(micro_batches, seed)`: forward and backward over this process's micro-batches, then one step of the optimizer.

    `micro_batches` counts this process's share. `seed(k)` sets the random generators before micro-batch k of the update,
    counted over all processes, so that mixup and stochastic depth do not depend on how the batch is shared out.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    precision: Precision
    ranks: Ranks
    micro_batches: int = 1
    clip: Clipping | None = None
    replica: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        device = self.ranks.device
        self.replica = replicated(self.network, self.ranks)
        self.statistics = RunningStatistics(self.network, self.ranks, self.micro_batches)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == Precision.float16)
        self.held_back = torch.zeros((), device=device)  # 1 from the first update that was not finite
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.skips = bool(self.optimizer.defaults.get("fused"))  # torch's fused optimizers skip a step on the device

    def __call__(self, batches: Iterable[Batch], seed: Callable[[int], None]) -> Tensor:
        """Returns (3,) on the device: mean loss over all micro-batches, norm of the gradient, norm of BatchNorm's statistics."""
        loss = torch.zeros((), device=self.ranks.device)
        self.optimizer.zero_grad(set_to_none=True)
        self.statistics.begin()
        for k, batch in enumerate(batches):
            seed(self.ranks.rank + k * self.ranks.world)
            with self._unshared(last=k == self.micro_batches - 1):
                part = self.loss(self.replica, batch) / self.micro_batches
                self.scaler.scale(part).backward()
            loss += part.detach()
            self.statistics.collect()
        self.statistics.settle()
        loss = self.ranks.total_(loss) / self.ranks.world
        statistics = self.statistics.norm()
        return torch.stack([loss, self._step(loss, statistics), statistics])

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The task's loss of one micro-batch, in the precision of the run."""
        with autocast(self.precision, self.ranks.device):
            return self.task.loss(network, batch)

    def _unshared(self, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes with the last micro-batch only."""
        shared = last or not isinstance(self.replica, DistributedDataParallel)
        return nullcontext() if shared else cast(DistributedDataParallel, self.replica).no_sync()

    def _step(self, loss: Tensor, statistics: Tensor) -> Tensor:
        """Step the optimizer, unless something is not finite; returns the norm of the gradient."""
        if self.scaler.is_enabled():
            return self._step_scaled(loss, statistics)
        norm = gradient_norm(self.weights)
        self._hold_back(loss, norm, statistics)
        self._clip(norm)
        if self.skips:
            self.optimizer.found_inf = self.held_back  # type: ignore[attr-defined]  # their own way to be told
            self.optimizer.step()
        else:
            self._step_and_take_back()
        return norm

    def _clip(self, norm: Tensor) -> None:
        if self.clip is not None:
            self.clip(self.weights, norm)

    def _step_and_take_back(self) -> None:
        """For an optimizer that cannot skip: held back, the weights are put back; its state does not count any more."""
        weights = [weight.detach() for weight in self.weights]
        before = torch._foreach_add(weights, 0.0)  # copies, in few kernels
        self.optimizer.step()
        held = self.held_back > 0
        torch._foreach_copy_(weights, [torch.where(held, old, new) for old, new in zip(before, weights, strict=True)])

    def _hold_back(self, *numbers: Tensor) -> None:
        """From the first update that is not finite on, no weight moves."""
        self.held_back = torch.maximum(self.held_back, 1 - torch.stack(numbers).isfinite().all().float())

    def _step_scaled(self, loss: Tensor, statistics: Tensor) -> Tensor:
        """float16: an overflow skips the step and halves the scale; at a scale of 1 it is a fault of the gradient itself."""
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.weights)
        scale = self.scaler._get_scale_async()  # get_scale() would wait for the device
        assert scale is not None
        overflow = norm.isfinite().logical_not() & (scale > 1)
        norm = torch.where(overflow, torch.zeros_like(norm), norm)
        self._hold_back(loss, norm, statistics)
        self._clip(norm)
        for overflowed in self.scaler._found_inf_per_device(self.optimizer).values():
            overflowed.copy_(torch.maximum(overflowed, self.held_back))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm


def gradient_norm(weights: Iterable[Tensor]) -> Tensor:
    """Euclidean norm over all gradients, on the device."""
    return nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def replicated(network: nn.Module, ranks: Ranks) -> nn.Module:
    """The network whose backward pass averages the gradients of all processes."""
    if ranks.world == 1:
        return network
    ids = None if ranks.device.type == "cpu" else [ranks.device.index]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`")  # its successor is not in torch 2.11
        return DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


@dataclass
class RunningStatistics:
    """BatchNorm's running statistics move once an update, by the mean over its micro-batches, wherever these were.

    Moved by each micro-batch in turn they would depend on how many devices there are. Free with one micro-batch.
    """

    network: nn.Module
    ranks: Ranks
    micro_batches: int

    def __post_init__(self) -> None:
        norms = [norm for norm in self.network.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
        self.running = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
        self.counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self.none = torch.zeros((), device=self.ranks.device)
        self.active = self.micro_batches * self.ranks.world > 1 and bool(norms)

    def begin(self) -> None:
        """Remember where they stand."""
        if self.active:
            self.before = [buffer.clone() for buffer in self.running]
            self.sums = [torch.zeros_like(buffer) for buffer in self.running]

    def collect(self) -> None:
        """Note where a micro-batch moved them, and put them back."""
        if self.active:
            torch._foreach_add_(self.sums, self.running)
            torch._foreach_copy_(self.running, self.before)

    def norm(self) -> Tensor:
        """Their Euclidean norm, on the device. What is not finite once stays so: LayerNorm recovers, BatchNorm does not."""
        return torch.cat(self.running).norm() if self.running else self.none

    def settle(self) -> None:
        """Move them to the mean."""
        if self.active:
            torch._foreach_div_(self.sums, self.micro_batches)
            self.ranks.mean_(self.sums)
            torch._foreach_copy_(self.running, self.sums)
            torch._foreach_sub_(self.counts, self.micro_batches - 1)
