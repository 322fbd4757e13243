"""How numbers are computed: in which precision, and whether a GPU gives the same bits every time."""

from __future__ import annotations

import os

import torch

from roadmap.config.schema import Precision, RuntimeConfig

REDUCED = {Precision.bfloat16: torch.bfloat16, Precision.float16: torch.float16}


def as_asked(runtime: RuntimeConfig) -> torch.memory_format:
    """Compute in this process with the threads and the repeatability that are asked for; returns how images lie in memory."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    repeat_bits(runtime.deterministic)
    tf32(False)
    return torch.channels_last if runtime.channels_last else torch.contiguous_format


def pick_precision(choice: Precision, device: torch.device) -> Precision:
    """What `auto` means: bfloat16 on a GPU and float32 on a CPU."""
    if choice != Precision.auto:
        return choice
    return Precision.bfloat16 if device.type == "cuda" else Precision.float32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Matrix products and convolutions in the precision of the recipe, sums and norms as torch has them."""
    return torch.autocast(device.type, dtype=REDUCED.get(precision, torch.bfloat16), enabled=precision in REDUCED)


def tf32(allowed: bool) -> None:
    """Let a GPU round the factors of float32 products and convolutions to 10 bits, or not: torch's own default is a mixture."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def repeat_bits(deterministic: bool) -> None:
    """Choose algorithms by their speed, or only those whose sums have a fixed order; an operator without one is an error.

    Call it before the first product on a GPU: cuBLAS reads its variable then.
    """
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
