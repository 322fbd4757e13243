"""Memory of a CPU run: kept between updates, not given back and fetched again."""

from __future__ import annotations

import ctypes
import platform
from functools import lru_cache

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # mallopt's numbers, from glibc's malloc.h
MIB = 2**20


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
