"""torch.compile where it earns back its time, in pieces that equal blocks, seeds and steps share."""

from __future__ import annotations

import torch
import torch._dynamo
from torch import nn

from roadmap.config.schema import Compile, Experiment
from roadmap.data.images.inventory import Inventory
from roadmap.model.cost import cost_of
from roadmap.model.layers import Block

EARNS_BACK = 1e15  # operations of a whole run, some ten seconds of a fast GPU: compiling takes as long
VARIANTS = 64  # of one piece of code: four stages, their first blocks, with and without stochastic depth


def compile_network(experiment: Experiment, network: nn.Module, found: Inventory, device: torch.device) -> Compile:
    """Let torch.compile translate the network, or its blocks, when first used; returns what was chosen.

    Parameters keep their names, so a state is the same whether it was compiled or not.
    """
    kind = pick_compile(experiment, found, device)
    if kind == Compile.blocks and experiment.reference is not None:
        kind = Compile.network  # timm's blocks have no common type
    compile_blocks_or_network(network, kind)
    return kind


def compile_blocks_or_network(network: nn.Module, kind: Compile) -> None:
    """Prepare a network for torch.compile, in place."""
    if kind == Compile.none:
        return
    torch._dynamo.config.recompile_limit = VARIANTS
    options: dict[str, bool] = {"fallback_random": True}  # stochastic depth drops what it would drop uncompiled
    if kind == Compile.blocks:
        torch._dynamo.config.optimize_ddp = False  # it would cut every block in two; gradients travel between blocks as it is
        for module in network.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False, options=options)
    else:
        network.compile(dynamic=False, options={**options, "triton.cudagraphs": kind == Compile.graphs})


def pick_compile(experiment: Experiment, found: Inventory, device: torch.device) -> Compile:
    """What `auto` means: nothing on a CPU or for a short run, else the blocks."""
    wanted = experiment.runtime.compile
    if wanted != Compile.auto:
        return wanted
    if device.type == "cpu" or experiment.recipe.sync_batchnorm:
        return Compile.none
    forward = cost_of(experiment, len(found.classes)).conv_linear
    operations = 3 * 2 * forward * found.train.size * experiment.recipe.epochs
    return Compile.blocks if operations > EARNS_BACK else Compile.none
