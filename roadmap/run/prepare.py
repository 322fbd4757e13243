"""From an experiment to a run in memory: every part of training is made here, one after the other."""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import nn

from roadmap.base.errors import Refused
from roadmap.config.identity import plain
from roadmap.config.schema import Compile, Experiment, RecipeConfig, TaskName
from roadmap.data.images.inventory import Inventory
from roadmap.record.folder import RunFolder
from roadmap.run.given import load_given
from roadmap.tasks.choose import choose_task
from roadmap.tasks.dense.backbone import DenseNetwork, synchronise
from roadmap.train import memory
from roadmap.train import recipe as parts
from roadmap.train.compiling import compile_network, pick_compile
from roadmap.train.loop import Trainer
from roadmap.train.precision import as_asked, pick_precision
from roadmap.train.ranks import Ranks
from roadmap.train.state import State
from roadmap.train.update import Update

log = logging.getLogger("roadmap")
BUILDING = 2**31  # seeds the initial weights, where an epoch's number seeds its updates


def prepare(experiment: Experiment, inventory: Inventory, folder: RunFolder, ranks: Ranks) -> Trainer:
    """A run at its start; `trainer.state.resume()` takes it to where an earlier attempt stopped.

    Raises:
        Refused: for what this device or timm cannot do, and for images that cannot be read or do not fit on the device.

    """
    recipe, seed = experiment.recipe, experiment.seed
    memory_format = as_asked(experiment.runtime)
    memory.keep_freed(ranks.device)
    precision = pick_precision(recipe.precision, ranks.device)
    task = choose_task(experiment, inventory.classes, memory_format)
    kind = experiment.model, experiment.reference
    ranks.seed(seed, BUILDING)
    network = task.network(*kind)
    for anew in load_given(experiment, inventory.classes, task, network):
        log.info("%s", anew)
    network = _on_device(network, recipe, ranks, memory_format)
    average = parts.average(recipe, network)
    choice = Compile.none if experiment.task.name == TaskName.detection else experiment.runtime.compile  # images of many sizes
    compiled = pick_compile(choice, recipe, inventory.train.size, partial(task.cost, *kind), ranks.device)
    compiled = compile_network(network, compiled)
    batches = task.batches(seed, inventory, ranks.device, ranks.rank, ranks.world)
    optimizer = parts.optimizer(recipe, network)
    schedule = parts.schedule(recipe, optimizer, batches.updates)
    micro_batches = recipe.batch_size // recipe.images_at_once // ranks.world
    step = Update(network, optimizer, task, precision, ranks, micro_batches, parts.clipping(recipe))
    state = State(recipe, experiment.runtime, plain(experiment), folder, step, average, batches.name)
    return Trainer(state, batches, schedule, compiled, seed, experiment.step.name)


def _on_device(network: nn.Module, recipe: RecipeConfig, ranks: Ranks, memory_format: torch.memory_format) -> nn.Module:
    if recipe.sync_batchnorm and ranks.world > 1:
        if ranks.device.type == "cpu":
            raise Refused("recipe.sync_batchnorm=true: torch has it for GPUs only; on CPUs it must be false")
        network = synchronise(network) if isinstance(network, DenseNetwork) else nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network.to(ranks.device, memory_format=memory_format)  # type: ignore[call-overload]
