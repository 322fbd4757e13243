"""The processes of one run, each with a device of its own: what they must add up and agree on."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from roadmap.base import processes
from roadmap.base.console import say
from roadmap.base.errors import Refused, RoadmapError, Stopped
from roadmap.config.schema import Device
from roadmap.data.batches import seed_all

SLOWEST = timedelta(hours=1)  # that processes may be apart, when one reads a data set for the first time


@dataclass(frozen=True)
class Ranks:
    """One process among `world`; alone, every operation here is free."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def total_(self, values: Tensor) -> Tensor:
        """Replace values, on this run's device, by their sum over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in one message."""
        if self.world > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            parts = self.total_(flat).div_(self.world).split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in their order."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def seed(self, *key: int) -> None:
        """Set every generator that this process draws from, its GPU's among them, from `key`."""
        seed_all(*key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(torch.initial_seed())


@contextmanager
def process_group(choice: Device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did, and leave them at the end; Refused for a GPU that is not there."""
    device, world = pick_device(choice), processes.world_size()
    if world == 1:
        yield Ranks(device)
        return
    gpu = device.type == "cuda"
    dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None, timeout=SLOWEST)
    try:
        yield Ranks(device, processes.rank(), world)
    except Stopped:
        dist.destroy_process_group()
        raise
    except BaseException as error:
        _leave_alone(error)
    else:
        dist.destroy_process_group()


def _leave_alone(error: BaseException) -> NoReturn:
    """End this process at once: to take down what it shares with the others, all of them would have to take part."""
    code = say(error) if isinstance(error, RoadmapError) else 1
    if not isinstance(error, RoadmapError):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pick_device(choice: Device) -> torch.device:
    """The device that `auto` means here, for several processes on a node the one of this process's number."""
    gpus = torch.cuda.device_count()
    if choice == Device.cuda and not gpus:
        raise Refused("runtime.device=cuda: torch finds no GPU here; allowed: auto, cpu")
    if choice == Device.cpu or not gpus:
        return torch.device("cpu")
    number = processes.local_rank()
    if number >= gpus:
        raise Refused(f"process {number} of this node finds {gpus} GPUs: start as many processes as there are GPUs")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device
