"""One step against timm: a row of the bench."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import set_fast_norm
from torch import nn

from roadmap.base.files import write_atomic
from roadmap.bench.measure import Action, Peak, in_turn, peak_memory, profiled, settle, spread, timed
from roadmap.bench.timm_loop import TimmLoop, timm_network
from roadmap.config.schema import Compile, Head, HeadConfig, ModelConfig, Precision, RecipeConfig
from roadmap.data.batches import Batch, InputPipeline, LabelledImages, seed_all
from roadmap.model.cost import cost
from roadmap.tasks.choose import builder
from roadmap.tasks.classification import Classification
from roadmap.tasks.dense.cost import dense_cost
from roadmap.tasks.task import Task
from roadmap.train import memory, recipe
from roadmap.train.compiling import compile_network
from roadmap.train.precision import autocast, tf32
from roadmap.train.ranks import Ranks
from roadmap.train.readings import Readings
from roadmap.train.update import Update

OURS, BEST, PEAK = "ours", "timm_best", "peak"


@dataclass(frozen=True)
class Setting:
    """What is the same for all rows."""

    device: torch.device
    name: str  # of the device
    precision: Precision
    compiled: Compile
    scale: str
    task: Task
    head: HeadConfig
    recipe: RecipeConfig
    classes: int
    image_size: int  # pixels, of the shorter side
    longer: int  # of the longer one
    workers: int  # loader processes, where the images of a folder are read
    rounds: int
    seconds: float
    against: tuple[str, ...]
    peak: Peak
    profiles: Path | None = None  # where to write what the time of our updates goes into

    def multiply_adds(self, model: ModelConfig) -> int:
        """Of a forward pass over one image, of backbone and head."""
        if self.head.name == Head.none:
            return cost(model, self.classes, self.image_size).conv_linear
        size = self.image_size, self.longer
        return dense_cost(builder(self.head.name), model, None, self.head, self.classes, size).macs


@dataclass
class Contender:
    """A network with its loop, warm."""

    network: nn.Module
    step: Callable[[Batch], object]
    update: Action  # a step on a batch that lies on the device
    layout: torch.memory_format
    precision: Precision
    first_seconds: float  # the first two updates: compiling, choosing kernels
    memory: float | None  # GiB


def measure(step: str, model: ModelConfig, setting: Setting, pipeline: InputPipeline | None = None) -> dict[str, Any]:
    """Train and answer with one step's network, ours and timm's in turn; returns its row.

    Speeds are in images a second, median over the rounds with the least and the most; latency in milliseconds.
    """
    torch._dynamo.reset()
    contenders = {OURS: _warm(setting, partial(_ours, model, setting))}
    contenders |= {name: _warm(setting, partial(_timm, step, model, setting, name == BEST)) for name in setting.against}
    batch = setting.recipe.images_at_once
    actions = {name: each.update for name, each in contenders.items()}
    if setting.peak.by_maker is None:
        setting.peak.product()  # once before its time counts
        actions[PEAK] = setting.peak.product
    times = in_turn(actions, setting.device, setting.rounds, setting.seconds)
    peak = setting.peak.seen(times.pop(PEAK, []))
    forward = setting.multiply_adds(model)
    row: dict[str, Any] = {"gmacs": forward / 1e9}
    for name, seconds in times.items():
        row |= spread(f"{name}_train", [batch / value for value in seconds])
    for name in setting.against:
        row |= spread(f"ratio_{name}", [theirs / ours for theirs, ours in zip(times[name], times[OURS], strict=True)])
    of_peak = 3 * 2 * forward * row[f"{OURS}_train"] / peak
    row["peak_tflops"] = peak / 1e12
    row["share_of_peak"] = of_peak if setting.device.type == "cpu" or setting.precision == Precision.bfloat16 else None
    for name, each in contenders.items():
        compiling = max(0.0, each.first_seconds - 2 * statistics.median(times[name]))
        row |= {f"{name}_compile_seconds": compiling, f"{name}_memory_gib": each.memory}
    if setting.profiles is not None:
        write_atomic(setting.profiles / f"profile-{step}.txt", profiled(contenders[OURS].update, setting.device))
    if pipeline is not None:
        row[f"{OURS}_end_to_end"] = _end_to_end(contenders[OURS], pipeline, setting)
    return row | _inference(contenders, setting, batch)


Made = tuple[nn.Module, Callable[[Batch], object], torch.memory_format, Precision]


def _warm(setting: Setting, make: Callable[[], Made]) -> Contender:
    """Build a contender and run its first updates."""
    before = torch.cuda.memory_allocated(setting.device) / 2**30 if setting.device.type == "cuda" else 0.0
    network, step, layout, precision = make()
    batch = _synthetic(setting, setting.recipe.images_at_once, layout)

    def update() -> None:
        step(batch)

    started = time.perf_counter()
    timed(update, setting.device, 2)
    first = time.perf_counter() - started
    memory = peak_memory(update, setting.device)
    return Contender(network, step, update, layout, precision, first, None if memory is None else memory - before)


def _synthetic(setting: Setting, number: int, layout: torch.memory_format) -> Batch:
    """So many images of noise that already lie on the device, in the layout of their contender."""
    size, device = setting.image_size, setting.device
    if setting.head.name == Head.none:
        images = torch.randn(number, 3, size, size, device=device).contiguous(memory_format=layout)
        return LabelledImages(images, torch.randint(setting.classes, (number,), device=device))
    batch = setting.task.dummy_batch(number, device)
    for image in batch.images:
        image.normal_()
    return batch


def _ours(model: ModelConfig, setting: Setting) -> Made:
    """The update of a run, its reading late included."""
    seed_all(0)
    network = setting.task.network(model, None)
    network = network.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    compile_network(network, setting.compiled)
    adamw = recipe.optimizer(setting.recipe, network)
    schedule = recipe.schedule(setting.recipe, adamw, 1_000_000)
    update = Update(network, adamw, setting.task, setting.precision, Ranks(setting.device))
    readings, done = Readings(setting.device), [0]

    def step(batch: Batch) -> None:
        tf32(False)
        memory.keep_freed(setting.device)
        network.train()
        done[0] += 1
        schedule.step_update(done[0])
        readings.push(update([batch], lambda k: seed_all(0, 0, done[0])))

    return network, step, torch.channels_last, setting.precision


def _timm(step: str, model: ModelConfig, setting: Setting, best: bool) -> Made:
    set_fast_norm(best)
    network = timm_network(step, setting.scale, model, setting.classes)
    set_fast_norm(False)
    compiled = setting.compiled != Compile.none
    loop = TimmLoop(network, cast(Classification, setting.task), setting.device, best, compiled, setting.precision)
    return loop.network, loop, loop.memory_format, loop.precision


def _end_to_end(ours: Contender, pipeline: InputPipeline, setting: Setting) -> float:
    """Images a second with the batches of the pipeline, alone, from when its queue of batches made beforehand is used up."""
    batches = chain.from_iterable(map(pipeline.epoch, count()))
    queued = 3 * setting.workers + 3

    def update() -> None:
        ours.step(next(batches))

    timed(update, setting.device, queued)
    repetitions = max(queued, math.ceil(setting.rounds * setting.seconds / timed(update, setting.device, 1)))
    return setting.recipe.images_at_once * repetitions / timed(update, setting.device, repetitions)


def _inference(contenders: dict[str, Contender], setting: Setting, batch: int) -> dict[str, Any]:
    """Images a second at the batch size of training, and latency at batch 1; nothing is compiled for it."""
    row: dict[str, Any] = {}
    for images in (batch, 1):
        actions = {name: _answer(each, setting, images) for name, each in contenders.items()}
        for action in actions.values():
            timed(action, setting.device, 2)
        for name, seconds in in_turn(actions, setting.device, setting.rounds, setting.seconds / 4).items():
            once = statistics.median(seconds)
            row |= {f"{name}_latency_ms": 1000 * once} if images == 1 else {f"{name}_inference": images / once}
    return row


def _answer(contender: Contender, setting: Setting, images: int) -> Action:
    batch = _synthetic(setting, images, contender.layout).images

    def action() -> None:
        contender.network.eval()
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"), autocast(contender.precision, setting.device):
            contender.network(batch)
        if images == 1:
            settle(setting.device)  # latency is the time to an answer, not between answers

    return action
