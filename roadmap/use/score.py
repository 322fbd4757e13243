"""A trained network's scores on a data set, as its task scores in training, and what lies behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from roadmap.base.files import write_atomic
from roadmap.config.schema import Experiment
from roadmap.data.images import sources
from roadmap.record.result import Metric
from roadmap.tasks.choose import choose_task
from roadmap.tasks.dense.gallery import Gallery
from roadmap.tasks.segmentation.inference import SCALES
from roadmap.tasks.segmentation.task import Segmentation
from roadmap.tasks.task import Breakdown
from roadmap.train.evaluate import evaluate
from roadmap.train.precision import as_asked, pick_precision
from roadmap.train.ranks import process_group
from roadmap.use.named import check_classes
from roadmap.use.trained import Trained


@dataclass(frozen=True)
class Scored:
    """What came out."""

    metric: Metric
    scores: dict[str, float]
    images: int
    breakdown: Breakdown
    gallery: Gallery | None

    def write(self, folder: Path) -> list[Path]:
        """Write what lies behind the scores into a folder that is there: tables and pictures; returns their files."""
        files = self.breakdown.write(folder)
        for kind, content in (self.gallery.sheets() if self.gallery else {}).items():
            write_atomic(folder / f"{kind}.jpg", content)
            files.append(folder / f"{kind}.jpg")
        return files


def score(trained: Trained, use: Experiment, multi_scale: bool = False) -> Scored:
    """Score a network on the evaluation split of `use.data`; a segmenter where asked at the paper's six scales, mirrored too.

    Refused for images that cannot be used, or of other classes.
    """
    inventory = sources.checked_images(use.data, 1, use.task.name.target)
    check_classes(trained, inventory.classes)
    memory_format = as_asked(use.runtime)
    task = choose_task(use, inventory.classes, memory_format)
    if multi_scale:
        task = replace(cast(Segmentation, task), scales=SCALES)
    with process_group(use.runtime.device) as ranks:
        network = trained.at(use.data.image_size).to(ranks.device, memory_format=memory_format)  # type: ignore[call-overload]
        # Training images are left out where they are files: a pipeline may hold them on the device.
        alone = replace(inventory, train=inventory.val) if inventory.val.files else inventory
        batches = task.batches(0, alone, ranks.device)
        breakdown, gallery = task.breakdown(ranks.device), task.gallery()
        precision = pick_precision(use.recipe.precision, ranks.device)
        scores = evaluate(network, task, batches.evaluation(), precision, ranks, scorer=breakdown, gallery=gallery)
    return Scored(task.metric, scores, inventory.val.size, breakdown, gallery)
