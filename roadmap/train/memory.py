"""Memory: on a CPU kept between updates; where a device has too little, a search for what would fit."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from roadmap.base.errors import OutOfMemory
from roadmap.config.schema import RecipeConfig

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # mallopt's numbers, from glibc's malloc.h
MIB = 2**20
NO_ROOM = (  # in the words of torch's CPU allocator, oneDNN, C++, CUDA, cuBLAS and cuDNN
    "DefaultCPUAllocator: ",
    "could not create a primitive",
    "bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


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
    """Whether the device had no room: torch's own type on GPUs, or a sentence of one of its libraries."""
    return isinstance(error, torch.OutOfMemoryError) or any(sentence in str(error) for sentence in NO_ROOM)


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    recipe: RecipeConfig,
    batch_norm: bool,
    where: str,
    device: torch.device,
) -> OutOfMemory:
    """The error that says how many images at once were too many, and how many fit; `loss(n)` tries a forward pass over n."""
    release(device)
    sizes = smaller_micro_batches(recipe, least=2 if batch_norm else 1)
    most = next((size for size in sizes if fits(network, partial(loss, size), device)), None)
    tried = f"{recipe.at_once_key}={recipe.images_at_once}"
    return OutOfMemory(
        f"{tried}: {device.type} memory is not enough for this many images at once in {where}; "
        + (f"{most} fit: recipe.micro_batch={most} keeps the update of {recipe.batch_size}" if most else "not even one fits")
        + (", and changes what BatchNorm sees" if batch_norm else "")
        + ". Nothing was changed"
    )


def smaller_micro_batches(recipe: RecipeConfig, least: int) -> list[int]:
    """The sizes of at least `least` images that a smaller micro-batch could have, the largest first."""
    even = recipe.mixup > 0 or recipe.cutmix > 0
    sizes = range(recipe.images_at_once - 1, least - 1, -1)
    return [size for size in sizes if recipe.batch_size % size == 0 and not (even and size % 2)]


def fits(network: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> bool:
    """Whether a forward and a backward pass find room, by trying it."""
    try:
        network.zero_grad(set_to_none=True)
        with torch.compiler.set_stance("force_eager"):  # each size would be compiled anew
            loss().backward()
        return True
    except (RuntimeError, MemoryError):  # whatever a library says when it finds no room
        return False
    finally:
        release(device)
