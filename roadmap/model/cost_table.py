"""The costs of classifiers at every step: parameters, multiply-adds by operator, activations.

The paper counts the multiply-adds of convolutions and linear layers only; fvcore's total adds norms and pooling, so both stand
in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadmap.base.tables import Column
from roadmap.config.steps import BEYOND, Step, known_steps, networks
from roadmap.model.check import compose_run
from roadmap.model.cost import cost
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
NORMS = ("batch_norm", "layer_norm", "response_norm")


def cost_rows(
    scale: str, image_size: int, config_dirs: tuple[Path, ...] = (), names: Sequence[str] = (), own: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The rows of the cost table, of these steps or of all: multiply-adds in G (1e9), activations in M (1e6)."""
    rows, known = [], networks(*config_dirs)
    for step in names or known_steps(*config_dirs):
        experiment = compose_run([f"scale={scale}", f"+step={step}", *own], config_dirs)
        counted = cost(experiment.model, image_size=image_size)
        operators = {name: count / 1e9 for name, count in counted.by_operator.items()}
        paper = paper_row(scale, step) if image_size == 224 else None
        rows.append(
            {
                "step": step,
                "params": counted.params,
                "gmacs_conv_linear": counted.conv_linear / 1e9,
                "gmacs_total": counted.total / 1e9,
                "gmacs_conv": operators.get("conv", 0.0),
                "gmacs_linear": operators.get("linear", 0.0),
                "gmacs_norm": sum(operators.get(name, 0.0) for name in NORMS),
                "gmacs_pool": operators.get("adaptive_avg_pool2d", 0.0),
                "activations_m": counted.activations / 1e6,
                "paper_gflops": paper.gflops_printed if paper else None,
                "note": _note(known[step], misprint=bool(paper and paper.misprint)),
            }
        )
    return rows


def _note(step: Step, misprint: bool) -> str | None:
    if misprint:
        return "misprint in Table 10; Figure 2 agrees with the computed value"
    if step.roadmap == BEYOND:
        return "beyond the paper"
    return None if step.adopted else "side branch, not adopted"
