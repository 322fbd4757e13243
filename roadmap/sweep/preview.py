"""What a study would do: its runs, their cost, what is done already and how long the rest may take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused
from roadmap.base.tables import Column, as_table
from roadmap.config.checks import study_folder
from roadmap.data.images import sources
from roadmap.record.folder import RunFolder
from roadmap.run.preflight import cost_of_run
from roadmap.sweep.plan import Point, SweepPlan

MOST_RESULTS = 200  # of other studies that are read
COLUMNS = (
    Column("row", "row"),
    Column("seeds", "seeds"),
    Column("start", "starts from"),
    Column("done", "done"),
    Column("gmacs", "multiply-adds of an image, G", "{:.4f}"),
    Column("tflop", "left to train, TFLOP", "{:.1f}"),
)


def preview(plan: SweepPlan, chosen: Sequence[Point]) -> str:
    """The plan as a table; a run that several rows share is counted in the first of them."""
    first = plan.first
    inventory = sources.checked_images(first.data, first.recipe.batch_size, first.task.name.target)
    uncounted = {point.folder.path for point in chosen}
    rows, speeds = [], []
    for name, points in plan.rows.items():
        own = [point for point in points if point.folder.path in uncounted]
        uncounted -= {point.folder.path for point in own}
        if own:
            gmacs = cost_of_run(own[0].experiment, inventory.classes).conv_linear / 1e9
            tflop = _tflop(gmacs, own[0].experiment.recipe.images(inventory.train.size))
            rows.append(_row(name, own, gmacs, tflop))
            speeds += [result.seconds / tflop for point in own if (result := point.folder.result()) and result.seconds]
    left = sum(row["tflop"] for row in rows)
    title = f"{plan.first.study.name} in {plan.folder}: {len(chosen)} runs, {left:.1f} TFLOP left to train"
    return as_table(rows, COLUMNS, title) + _time(left, speeds, plan)


def _row(name: str, points: Sequence[Point], gmacs: float, tflop: float) -> dict[str, Any]:
    waiting = [point for point in points if not point.done]
    reusable = sum(point.result_elsewhere() is not None for point in waiting)
    running = sum(point.folder.holder() is not None for point in waiting)
    counts = [f"{len(points) - len(waiting)} of {len(points)}"]
    counts += [f"{count} {where}" for count, where in ((running, "running"), (reusable, "in another study")) if count]
    return {
        "row": name,
        "seeds": ", ".join(str(point.experiment.seed) for point in points),
        "start": _start(points[0]),
        "done": ", ".join(counts),
        "gmacs": gmacs,
        "tflop": (len(waiting) - reusable) * tflop,
    }


def _start(point: Point) -> str:
    """What the row's runs start from: given weights, or runs of their own seeds; nothing where they start from scratch."""
    run = point.experiment
    if run.after is None:
        return run.init or ""
    row = Path(run.after).name.rsplit("-s", 1)[0]
    return row if run.study.start is None else f"{row} of {study_folder(run.study.start)}"


def _tflop(gmacs: float, images: int) -> float:
    """Operations of training on images: a multiply-add is two of them, and training costs three times the forward pass."""
    return gmacs * images * 3 * 2 / 1e3


def _speeds_beside(plan: SweepPlan) -> list[float]:
    """Seconds for a TFLOP of the runs of other studies under the same `output`."""
    speeds = []
    for path in list(plan.folder.parent.glob("*/runs/*/result.json"))[:MOST_RESULTS]:
        with suppress(Refused, KeyError):  # of another version
            result = RunFolder(path.parent).result()
            if result and result.done and result.seconds and result.gmacs:
                images = result.recipe["epochs"] * result.data["train"]
                speeds.append(result.seconds / _tflop(result.gmacs, images))
    return speeds


def _time(tflop: float, speeds: Sequence[float], plan: SweepPlan) -> str:
    """How long the rest would take one after the other, by the seconds of the runs that are done, else of other studies'."""
    if not tflop:
        return ""
    done = "runs that are done"
    if not speeds:
        done, speeds = "runs of other studies beside it, which may differ", _speeds_beside(plan)
    if not speeds:
        return "How long that takes is said once a run is done, of this study or of another one beside it.\n"
    minutes = tflop * statistics.median(speeds) / 60
    return f"About {minutes:.0f} minutes one run after the other, as fast as the {len(speeds)} {done}.\n"
