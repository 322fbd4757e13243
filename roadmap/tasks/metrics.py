"""The score that runs of a task are compared by. No torch here: plans and reports ask for it too."""

from __future__ import annotations

from roadmap.config.schema import TaskName
from roadmap.record.result import Metric

METRICS = {
    TaskName.classification: Metric("top1", "top-1", "%"),
    TaskName.detection: Metric("box_ap", "box AP", "%"),  # mean over overlaps of 0.50 to 0.95, as COCO counts it
    TaskName.segmentation: Metric("miou", "mIoU", "%"),  # intersection over union, mean over the classes
}
