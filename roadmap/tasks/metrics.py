"""The score that runs of a task are compared by. No torch here: plans and reports ask for it too."""

from __future__ import annotations

from roadmap.record.result import Metric

METRICS = {"classification": Metric("top1", "top-1", "%")}
