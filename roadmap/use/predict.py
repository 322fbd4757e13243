"""What a trained network says of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from roadmap.base.errors import Refused
from roadmap.config.schema import RuntimeConfig
from roadmap.data.device.augment import normalise
from roadmap.data.images.inventory import Disk
from roadmap.data.images.readers import decode, read_bytes
from roadmap.tasks.choose import choose_task
from roadmap.train.precision import autocast, pick_precision
from roadmap.train.ranks import process_group
from roadmap.use.trained import Trained


class Answer(NamedTuple):
    """What the network says of one picture."""

    rows: list[dict[str, Any]]  # of a table, the surest first
    draw: Callable[[], Image.Image | None]  # the same on the picture, where the task draws


def read_pictures(files: Sequence[Path]) -> list[Image.Image]:
    """Every picture, decoded.

    Raises:
        Refused: for those that are not there or cannot be decoded, all of them by name.

    """
    pictures, faults = list[Image.Image](), list[str]()
    for file in files:
        try:
            pictures.append(_read(file))
        except Refused as fault:
            faults.append(str(fault))
    if faults:
        raise Refused("\n".join(faults))
    return pictures


def _read(file: Path) -> Image.Image:
    if file.is_dir():
        raise Refused(f"{file}: is a folder; name the pictures in it, {file}/*.jpg")
    return decode(file, read_bytes(Disk(), file))


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
