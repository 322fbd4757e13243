"""The same bits every time on a GPU, where a run asks for them."""

from __future__ import annotations

import os

import torch


def repeat_bits(wanted: bool) -> None:
    """Choose algorithms by their speed, or only those whose sums have a fixed order; an operator without one is an error.

    Call it before the first product on a GPU: cuBLAS reads its variable then.
    """
    torch.backends.cudnn.benchmark = not wanted
    torch.backends.cudnn.deterministic = wanted
    torch.use_deterministic_algorithms(wanted)
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
