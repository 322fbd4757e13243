"""The costs of a head on every step: parameters, multiply-adds, and FLOPs as they are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadmap.base.tables import Column, Table
from roadmap.config.schema import Head
from roadmap.model.check import compose_run
from roadmap.tasks.choose import builder
from roadmap.tasks.dense.cost import dense_cost

COLUMNS = (
    Column("step", "step"),
    Column("params", "params", "{:,}"),
    Column("gmacs", "multiply-adds, G", "{:.2f}"),
    Column("gflops_published", "FLOPs as published, G", "{:.2f}"),
    Column("gflops_backbone", "of them the backbone's", "{:.2f}"),
)
SIZES = {Head.mask_rcnn: (800, 1280), Head.cascade_mask_rcnn: (800, 1280), Head.upernet: (512, 2048)}
"""Height and width of the image at which FLOPs are published; UPerNet's with weights from ImageNet-22K at (640, 2560)."""
RECIPES = {Head.mask_rcnn: "coco_1x", Head.cascade_mask_rcnn: "coco_1x", Head.upernet: "ade20k_160k"}  # heads as published
CLASSES = {Head.mask_rcnn: 80, Head.cascade_mask_rcnn: 80, Head.upernet: 150}  # COCO's and ADE20K's
LAST = "separate_downsampling"  # whose settings a reference has beside its own network


def table(
    head: Head,
    scale: str,
    image_size: int | None,
    steps: Sequence[str],
    references: Sequence[str],
    config_dirs: tuple[Path, ...] = (),
    own: Sequence[str] = (),
) -> Table:
    """Rows, columns and title; `image_size` is the shorter side in pixels, None for the published one; `own` are toggles.

    Refused where a reference cannot be a backbone.
    """
    short, long = SIZES[head]
    size = (short, long) if image_size is None else (image_size, image_size * long // short)
    rows = [*((name, None) for name in steps), *((LAST, name) for name in references)]
    title = f"{head}, scale {scale}, {size[1]} x {size[0]} px, {CLASSES[head]} classes; one image"
    settings = [f"scale={scale}", f"task={head.facts.task}", f"head={head}", f"recipe={RECIPES[head]}", *own]

    def row(step: str, reference: str | None) -> dict[str, Any]:
        """Operations in G (1e9)."""
        chosen = compose_run([*settings, f"+step={step}"], config_dirs)
        counted = dense_cost(builder(head), chosen.model, reference, chosen.head, CLASSES[head], size)
        return {
            "step": reference or step,
            "params": counted.params,
            "gmacs": counted.macs / 1e9,
            "gflops_published": counted.published / 1e9,
            "gflops_backbone": counted.published_backbone / 1e9,
        }

    return [row(*names) for names in rows], COLUMNS, title
