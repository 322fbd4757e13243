"""The score that runs of a task are compared by. No torch here: plans and reports ask for it too."""

from __future__ import annotations

import re

from roadmap.config.schema import TaskName
from roadmap.record.result import Metric

METRICS = {
    TaskName.classification: Metric("top1", "top-1", "%"),
    TaskName.detection: Metric("box_ap", "box AP", "%"),  # mean over overlaps of 0.50 to 0.95, as COCO counts it
    TaskName.segmentation: Metric("miou", "mIoU", "%"),  # intersection over union, mean over the classes
}


WORDS = {"top5": "top-5", "iou": "IoU of"}
PRECISION = re.compile(r"(ap|ar)\d*")


def score_named(key: str) -> Metric:
    """Any score of a result as people write it: `mask_ap_small` is mask AP small; a loss alone is better where it is less."""
    known = {metric.key: metric for metric in METRICS.values()}
    words = [WORDS.get(word, word.upper() if PRECISION.fullmatch(word) else word) for word in key.split("_")]
    loss = key.endswith("loss")
    return known.get(key) or Metric(key, " ".join(words), "" if loss else "%", not loss)
