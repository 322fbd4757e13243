"""torch.compile where it earns back its time, in pieces that equal blocks, seeds and steps share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._dynamo
from torch import nn

from roadmap.config.schema import Compile, RecipeConfig
from roadmap.model.cost import Cost
from roadmap.model.layers import Block
from roadmap.model.network import Stage, Stem

EARNS_BACK = 1.3e16  # operations of a whole run: what compiling saves in 2,000 updates of 256 images of 224 px on an H100
VARIANTS = 64  # of one piece of code: four stages, their first blocks, with and without stochastic depth


def compile_network(network: nn.Module, kind: Compile) -> Compile:
    """Let torch.compile translate the network, or stem, downsampling and each block, when first used; returns which it is.

    Parameters keep their names, so a state is the same whether it was compiled or not.
    """
    if kind == Compile.none:
        return kind
    torch._dynamo.config.recompile_limit = VARIANTS
    options: dict[str, bool] = {"fallback_random": True}  # stochastic depth drops what it would drop uncompiled
    pieces = [module for module in network.modules() if isinstance(module, Stem | Block)]
    if kind == Compile.blocks and pieces:
        torch._dynamo.config.optimize_ddp = False  # it would cut every block in two; gradients travel between blocks as it is
        between = [stage.downsampling for stage in network.modules() if isinstance(stage, Stage) and len(stage.downsampling)]
        for piece in (*pieces, *between):
            piece.compile(dynamic=False, options=options)
        return kind
    network.compile(dynamic=False, options={**options, "triton.cudagraphs": kind == Compile.graphs})
    return kind if kind == Compile.graphs else Compile.network  # a reference's too: timm's blocks have no common type


def pick_compile(choice: Compile, recipe: RecipeConfig, images: int, cost: Callable[[], Cost], device: torch.device) -> Compile:
    """What `auto` means for a run over so many images an epoch: nothing on a CPU or where it is short, else the blocks."""
    if choice != Compile.auto:
        return choice
    if device.type == "cpu" or recipe.sync_batchnorm:
        return Compile.none
    operations = 3 * 2 * cost().conv_linear * recipe.images(images)
    return Compile.blocks if operations > EARNS_BACK else Compile.none
