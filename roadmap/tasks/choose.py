"""From the name of a task to the task."""

from __future__ import annotations

from collections.abc import Callable

import torch

from roadmap.config.schema import RecipeConfig, TaskConfig, TaskName
from roadmap.tasks.classification import Classification
from roadmap.tasks.task import Task

TASKS: dict[TaskName, Callable[[RecipeConfig, int, torch.memory_format], Task]] = {TaskName.classification: Classification}


def choose_task(
    config: TaskConfig, recipe: RecipeConfig, classes: int, memory_format: torch.memory_format = torch.channels_last
) -> Task:
    """The task that the configuration names, for data of so many classes."""
    return TASKS[config.name](recipe, classes, memory_format)
