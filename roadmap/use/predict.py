"""What a trained network says of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image

from roadmap.config.schema import RuntimeConfig
from roadmap.data.device.augment import normalise
from roadmap.tasks.choose import choose_task
from roadmap.train.precision import autocast, pick_precision
from roadmap.train.ranks import process_group
from roadmap.use.trained import Trained


class Answer(NamedTuple):
    """What the network says of one picture."""

    rows: list[dict[str, Any]]  # of a table, the surest first
    draw: Callable[[], Image.Image | None]  # the same on the picture, where the task draws


@torch.inference_mode()
def predict(trained: Trained, pictures: Sequence[Image.Image], most: int, runtime: RuntimeConfig) -> Iterator[Answer]:
    """For each picture the task's answers, `most` of them; each is shown alone, so that no other changes what is said of it."""
    settings, data = trained.settings, trained.settings.data
    task = choose_task(settings, trained.labels())
    with process_group(runtime.device) as ranks:
        network = trained.network.to(ranks.device)
        mean, std = (torch.tensor(levels, device=ranks.device).view(3, 1, 1) for levels in (data.mean, data.std))
        precision = pick_precision(settings.recipe.precision, ranks.device)
        for picture in pictures:
            images = normalise(task.shown(picture).to(ranks.device)[None], mean, std)
            with autocast(precision, ranks.device):
                (output,) = task.outputs(network, images)
            said = picture, output, most
            yield Answer(task.answers(*said), partial(task.found, *said))
