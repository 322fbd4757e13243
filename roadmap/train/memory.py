"""Memory of a CPU run: kept between updates, not given back and fetched again."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # mallopt's numbers, from glibc's malloc.h
MIB = 2**20
NO_ROOM = ("DefaultCPUAllocator: ", "could not create a primitive", "bad_alloc")


def keep_freed(device: torch.device) -> None:
    """On a CPU, let glibc keep what tensors free: the next update wants as much again.

    By default large blocks go back to the system and come again as pages to be zeroed: some 50,000 to 100,000 page
    faults an update (ResNet-50 and ConvNeXt-T, 8 images of 128 px), a tenth of its time. Elsewhere than on glibc nothing
    happens.
    """
    _mallopt(device, {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * MIB})


def as_by_default(device: torch.device) -> None:
    """On a CPU, let glibc do what it does by itself, at the largest thresholds that it comes to (32 and 64 MiB)."""
    _mallopt(device, {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 64 * MIB, M_TOP_PAD: 128 * 1024})


def _mallopt(device: torch.device, settings: dict[int, int]) -> None:
    if device.type == "cpu" and (glibc := _glibc()):
        for number, value in settings.items():
            glibc.mallopt(number, value)


@lru_cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def ran_out(error: RuntimeError) -> bool:
    """Whether the device had no room: a type of torch's on GPUs, sentences of its libraries on CPUs."""
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in NO_ROOM)


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def fits(
    loss: Callable[[Tensor, Tensor, nn.Module], Tensor], network: nn.Module, images: int, size: int, device: torch.device
) -> bool:
    """Whether a forward and backward pass over so many images of `size` pixels finds room, by trying it."""
    try:
        network.zero_grad(set_to_none=True)
        shown = torch.zeros(images, 3, size, size, device=device)
        loss(shown, torch.zeros(images, dtype=torch.long, device=device), network).backward()
        return True
    except (RuntimeError, MemoryError):  # whatever a library says when it finds no room
        return False
    finally:
        release(device)
