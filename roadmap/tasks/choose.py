"""From the name of a task to the task."""

from __future__ import annotations

from collections.abc import Callable

import torch

from roadmap.config.schema import Experiment, TaskName
from roadmap.tasks.classification import Classification
from roadmap.tasks.task import Task


def choose_task(experiment: Experiment, classes: int, memory_format: torch.memory_format = torch.channels_last) -> Task:
    """The task that the configuration names, for data of so many classes."""
    return TASKS[experiment.task.name](experiment, classes, memory_format)


def _classification(experiment: Experiment, classes: int, memory_format: torch.memory_format) -> Task:
    return Classification(experiment.recipe, classes, memory_format)


def _detection(experiment: Experiment, classes: int, memory_format: torch.memory_format) -> Task:
    from roadmap.tasks.detection.task import Detection  # torchvision's detectors, whose import takes a second

    return Detection(experiment.head, experiment.recipe, classes, memory_format)


def _segmentation(experiment: Experiment, classes: int, memory_format: torch.memory_format) -> Task:
    from roadmap.tasks.segmentation.task import Segmentation

    return Segmentation(experiment.head, experiment.recipe, classes, memory_format)


TASKS: dict[TaskName, Callable[[Experiment, int, torch.memory_format], Task]] = {
    TaskName.classification: _classification,
    TaskName.detection: _detection,
    TaskName.segmentation: _segmentation,
}
