"""The roadmap's costs: parameters, multiply-adds by operator, activations. Nothing is trained.

`python -m roadmap.cost [--scale tiny] [--format table|csv|json|md|latex]`. The paper counts the multiply-adds of
convolutions and linear layers only; fvcore's total adds norms and pooling, so both stand in the table.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from roadmap.base.tables import Column
from roadmap.config.steps import Step, known_steps
from roadmap.model.check import compose_run
from roadmap.paper.rows import paper_row

COLUMNS = (
    Column("step", "step"),
    Column("params", "params", "{:,}"),
    Column("gmacs_conv_linear", "conv + linear, G", "{:.4f}"),
    Column("gmacs_total", "fvcore total, G", "{:.4f}"),
    Column("gmacs_conv", "conv, G", "{:.4f}"),
    Column("gmacs_linear", "linear, G", "{:.4f}"),
    Column("gmacs_norm", "norm, G", "{:.4f}"),
    Column("gmacs_pool", "pool, G", "{:.4f}"),
    Column("activations_m", "activations, M", "{:.2f}"),
    Column("paper_gflops", "paper prints, G", "{:.2f}"),
    Column("note", "note"),
)


def cost_rows(scale: str, image_size: int, config_dirs: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The rows of the cost table."""
    import roadmap.model.cost  # noqa: F401 (before the fork)

    return each(cost_row, [(step, scale, image_size, config_dirs) for step in known_steps(*config_dirs)])


def each(row: Callable[..., dict[str, Any]], tasks: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """A row for each of these arguments, counted by several processes forked once torch is imported."""
    import torch

    processes = min(os.cpu_count() or 1, 4)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), torch.set_num_threads, (1,)) as pool:
        # Neighbours in one process: a step shares most of its parts with the step before it, and counts them once.
        return list(pool.map(row, *zip(*tasks, strict=True), chunksize=-(-len(tasks) // processes)))


def cost_row(step: str, scale: str, image_size: int, config_dirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One row of the cost table, multiply-adds in G (1e9), activations in M (1e6)."""
    from roadmap.model.cost import cost

    experiment = compose_run([f"scale={scale}", f"+step={step}"], config_dirs)
    counted = cost(experiment.model, image_size=image_size)
    operators = {name: count / 1e9 for name, count in counted.by_operator.items()}
    paper = paper_row(scale, step)
    return {
        "step": step,
        "params": counted.params,
        "gmacs_conv_linear": counted.conv_linear / 1e9,
        "gmacs_total": counted.total / 1e9,
        "gmacs_conv": operators.get("conv", 0.0),
        "gmacs_linear": operators.get("linear", 0.0),
        "gmacs_norm": operators.get("batch_norm", 0.0) + operators.get("layer_norm", 0.0),
        "gmacs_pool": operators.get("adaptive_avg_pool2d", 0.0),
        "activations_m": counted.activations / 1e6,
        "paper_gflops": paper.gflops_printed if paper and image_size == 224 else None,
        "note": _note(scale, known_steps(*config_dirs)[step], image_size),
    }


def _note(scale: str, step: Step, image_size: int) -> str | None:
    paper = paper_row(scale, step.name)
    if paper and paper.misprint and image_size == 224:
        return "misprint in Table 10; Figure 2 agrees with the computed value"
    return None if step.adopted else "side branch, not adopted"
