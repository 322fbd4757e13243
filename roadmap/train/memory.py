"""Memory of a CPU run: kept between updates, not given back and fetched again."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # mallopt's numbers, from glibc's malloc.h
MIB = 2**20


def keep_freed() -> None:
    """Let glibc keep what tensors free: the next update wants as much again.

    By default large blocks go back to the system and come again as pages to be zeroed: some 50,000 to 100,000 page
    faults an update (ResNet-50 and ConvNeXt-T, 8 images of 128 px), a tenth of its time. Elsewhere than on glibc nothing
    happens.
    """
    _mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * MIB})


def as_by_default() -> None:
    """Let glibc do what it does by itself, at the largest thresholds that it comes to (32 and 64 MiB)."""
    _mallopt({M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 64 * MIB, M_TOP_PAD: 128 * 1024})


def _mallopt(settings: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        for number, value in settings.items():
            ctypes.CDLL(None).mallopt(number, value)
