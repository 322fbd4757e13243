"""From the name of a task to the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from roadmap.config.schema import Experiment, Head, TaskName
from roadmap.tasks.classification import Classification
from roadmap.tasks.dense.backbone import Build
from roadmap.tasks.task import Task

if TYPE_CHECKING:
    from roadmap.tasks.detection.task import Detection
    from roadmap.tasks.segmentation.task import Segmentation


def choose_task(experiment: Experiment, classes: Sequence[str], memory_format: torch.memory_format = torch.channels_last) -> Task:
    """The task that the configuration names, for data of these classes."""
    given = experiment.recipe, experiment.data, classes, memory_format
    if experiment.task.name == TaskName.classification:
        return Classification(*given)
    return _dense(experiment.task.name)(*given, experiment.head)


def builder(head: Head) -> Build:
    """What builds the networks of a detector's or a segmenter's head."""
    return _dense(head.facts.task).heads[head]


def _dense(task: TaskName) -> type[Detection | Segmentation]:
    if task == TaskName.detection:
        from roadmap.tasks.detection.task import Detection  # and torchvision's detectors, whose import takes a second

        return Detection
    from roadmap.tasks.segmentation.task import Segmentation

    return Segmentation
