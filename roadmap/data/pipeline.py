"""The pipeline that a run takes: loaders beside it, images kept on its device, or decoded beside it and augmented there."""

from __future__ import annotations

import os

import torch

from roadmap.base.errors import Refused
from roadmap.config.schema import DataConfig, Pipeline
from roadmap.data.batches import BatchPlan, InputPipeline
from roadmap.data.images.inventory import Inventory
from roadmap.data.loader import Loaders

AUTO_SHARE = 0.25  # of a GPU's memory, which decoded images may take unasked
MOST_SHARE = 0.75  # which they may take at all: the rest is the network's


def input_pipeline(plan: BatchPlan) -> InputPipeline:
    """The pipeline that `data.pipeline` asks for; `auto` keeps images on a GPU that has room for them, or sends them there.

    Refused where the decoded images do not fit on the device that should hold them.
    """
    # Where the recipe asks for timm's transforms the checks have refused every other pipeline.
    picked = Pipeline.loader if plan.recipe.loader_only else _pick(plan.data, plan.inventory, plan.device)
    if picked == Pipeline.loader:
        return Loaders(plan)
    if picked == Pipeline.stream:
        from roadmap.data.stream import Stream

        return Stream(plan)
    from roadmap.data.device.dataset import DeviceDataset

    return DeviceDataset(plan)


def _pick(data: DataConfig, inventory: Inventory, device: torch.device) -> Pipeline:
    if data.pipeline in (Pipeline.loader, Pipeline.stream):
        return data.pipeline
    if data.pipeline == Pipeline.auto and device.type == "cpu":
        return Pipeline.loader
    from roadmap.data.device.dataset import bytes_needed

    room = _memory(device)
    if data.pipeline == Pipeline.auto and _bytes_on_disk(inventory) > AUTO_SHARE * room:
        return Pipeline.stream  # decoded they are larger still, and ImageNet has too many headers to read for an answer
    needed = bytes_needed(data, inventory)
    if data.pipeline == Pipeline.auto:
        return Pipeline.device if needed < AUTO_SHARE * room else Pipeline.stream
    if needed > MOST_SHARE * room:
        raise Refused(
            f"data.pipeline=device: the decoded images need {needed / 2**30:.1f} GiB and this device has {room / 2**30:.1f} GiB "
            f"in all, of which they may take {MOST_SHARE:.0%}; data.pipeline=stream reads them from disk, to the same pictures"
        )
    return Pipeline.device


def _bytes_on_disk(inventory: Inventory) -> int:
    return sum(inventory.store.bytes_of(path) for path in inventory.train.paths)


def _memory(device: torch.device) -> int:
    """Bytes of memory in all, so that equal devices decide alike."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
