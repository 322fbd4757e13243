"""What a trained network says of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from roadmap.base.errors import Refused
from roadmap.config.schema import RuntimeConfig
from roadmap.data.device.augment import NormalizeAndErase
from roadmap.data.images.inventory import Disk
from roadmap.data.images.readers import decode, read_bytes
from roadmap.data.loader import val_transform
from roadmap.tasks.choose import choose_task
from roadmap.train.precision import autocast, pick_precision
from roadmap.train.ranks import process_group
from roadmap.use.trained import Trained

AT_ONCE = 32  # pictures in a forward pass


def read_pictures(trained: Trained, files: Sequence[Path]) -> Tensor:
    """Every picture as the network takes it, before its colours are normalised: (N, 3, S, S) uint8.

    Raises:
        Refused: for those that are not there or cannot be decoded, all of them by name.

    """
    transform = val_transform(trained.data, trained.recipe.interpolation)
    pictures, faults = list[Tensor](), list[str]()
    for file in files:
        try:
            pictures.append(torch.as_tensor(transform(_read(file))))
        except Refused as fault:
            faults.append(str(fault))
    if faults:
        raise Refused("\n".join(faults))
    return torch.stack(pictures)


def _read(file: Path) -> Image.Image:
    if file.is_dir():
        raise Refused(f"{file}: is a folder; name the pictures in it, {file}/*.jpg")
    return decode(file, read_bytes(Disk(), file))


@torch.inference_mode()
def predict(trained: Trained, pictures: Tensor, most: int, runtime: RuntimeConfig) -> Iterator[list[dict[str, Any]]]:
    """For each picture (N, 3, S, S) the task's answers, the surest first, `most` of them."""
    data, recipe = trained.data, trained.recipe
    task = choose_task(trained.task, recipe, trained.count)
    with process_group(runtime.device) as ranks:
        network = trained.network.to(ranks.device)
        normalise = NormalizeAndErase(data, recipe, 0, ranks.device)
        precision = pick_precision(recipe.precision, ranks.device)
        for some in pictures.split(AT_ONCE):
            images = normalise(some)
            with autocast(precision, ranks.device):
                outputs = network(images)
            yield from task.answers(outputs, trained.labels(), most)
