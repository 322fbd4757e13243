"""The score of a network over a whole evaluation split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from roadmap.base.errors import Refused
from roadmap.config.schema import Precision
from roadmap.data.batches import Batch
from roadmap.tasks.dense.gallery import Gallery
from roadmap.tasks.task import Scorer, Task
from roadmap.train.precision import autocast
from roadmap.train.ranks import Ranks


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[bool]:
    """Inside, BatchNorms normalise by the batch before them in evaluation too, and note nothing; yields whether there are any."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield bool(norms)
    finally:
        for norm, (mean, variance) in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var = mean, variance


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    precision: Precision,
    ranks: Ranks,
    between: Callable[[], None] = lambda: None,
    scorer: Scorer | None = None,
    gallery: Gallery | None = None,
) -> dict[str, float]:
    """Score a network on the batches of all processes together, each on its device; `between` is called before each batch,
    `scorer` scores in place of the task's own, and `gallery` keeps examples of what this process saw.

    Each process brings its own batches, not the same number of them. Nothing is compiled for it: a forward pass over a
    small split does not earn that back. Refused where there is nothing to judge the task's metric by.
    """
    network.eval()
    scorer = scorer or task.scorer(ranks.device)
    for batch in batches:
        between()
        with autocast(precision, ranks.device), torch.compiler.set_stance("force_eager"):
            outputs = task.outputs(network, batch.images)
        scorer.update(outputs, batch.targets)
        if gallery is not None:
            gallery.update(batch.images, batch.targets, outputs)
    scores = scorer.compute(ranks)
    if task.metric.key not in scores:
        raise Refused(f"no {task.metric.label}: the pictures that are scored hold nothing to judge by, no object and no class")
    return scores
