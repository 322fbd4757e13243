"""From the name of a task to the task."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from roadmap.config.schema import Experiment, Head, TaskName
from roadmap.tasks.classification import Classification
from roadmap.tasks.dense.backbone import Build
from roadmap.tasks.task import Task


def choose_task(experiment: Experiment, classes: Sequence[str], memory_format: torch.memory_format = torch.channels_last) -> Task:
    """The task that the configuration names, for data of these classes."""
    task, head, recipe, data = experiment.task.name, experiment.head, experiment.recipe, experiment.data
    if task == TaskName.classification:
        return Classification(recipe, len(classes), memory_format)
    if task == TaskName.detection:
        from roadmap.tasks.detection.task import Detection  # and torchvision's detectors, whose import takes a second

        return Detection(head, recipe, classes, memory_format, data.mean, data.std, data.longest_side)
    from roadmap.tasks.segmentation.task import Segmentation

    return Segmentation(
        head, recipe, classes, memory_format, data.mean, data.std, data.longest_side, recipe.crop_size or data.image_size
    )


def builder(head: Head) -> Build:
    """What builds the networks of a detector's or a segmenter's head."""
    if head.facts.task == TaskName.detection:
        from roadmap.tasks.detection.task import Detection  # as above

        return Detection.heads[head]
    from roadmap.tasks.segmentation.task import Segmentation

    return Segmentation.heads[head]
