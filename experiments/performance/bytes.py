"""How many bytes an update and its augmentation move, without a GPU: python experiments/performance/bytes.py

Both run on tensors that have shapes and no values; every operator that is no view counts what it reads and what it writes
once, a gather what it picks, and every Triton kernel its tensors whole, which is more than it touches. That is what goes
through memory when every operator runs by itself; caches and compiled blocks save some of it. Prints a table: both ends of
the roadmap, ours and timm's with its best flags, in bfloat16 and channels_last. Half a minute, on any machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from timm.layers import set_fast_norm
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from roadmap.base.tables import Column, as_markdown
from roadmap.bench.timm_loop import timm_network
from roadmap.config.compose import compose
from roadmap.config.schema import DataConfig, ModelConfig, RecipeConfig
from roadmap.data.device import augment, fused, randaugment
from roadmap.data.device.augment import NormalizeAndErase
from roadmap.data.device.dataset import Augmentation, Pictures
from roadmap.model import layers
from roadmap.model.network import build_network

STEPS = {"resnet": "ResNet-50", "separate_downsampling": "ConvNeXt-T"}
PHOTOGRAPH = 375, 500  # ImageNet's most frequent height and width
CUDA = torch.device("cuda")
FREE = ("detach", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty")  # no view by their schema; no traffic
COLUMNS = Column("what", "what"), Column("operators", "operators or kernels"), Column("gigabytes", "GB", "{:.1f}")


class Traffic(TorchDispatchMode):
    """Counts operators and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not (function.is_view or function.namespace == "prim" or name in FREE):
            read, written = tensors((args, kwargs)), tensors(made)
            self.operators += 1
            self.bytes += self._moved(name, read, written)
        return made

    def _moved(self, name: str, read: list[Tensor], written: list[Tensor]) -> int:
        if name in ("index_select", "gather", "index"):
            return 2 * size_of(written) + size_of(read[1:])
        if name in ("index_copy_", "scatter_", "scatter_add_"):
            return 2 * size_of(read[-1:]) + size_of(read[1:2])
        if name == "convolution_backward" and written[0].shape == read[1].shape:
            return size_of([*read, read[0]]) + size_of(written)  # two products of the result's gradient, each reads it
        if name in ("copy_", "zero_", "fill_") or name.startswith(("new_", "zeros", "ones", "full")):
            return size_of(read[1:]) + size_of(written)
        return size_of(read) + size_of(written)

    def launch(self, name: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """In place of `fused.launch`; of all pictures only the boxes' pixels are read, which the caller adds."""
        self.operators += 1
        self.bytes += size_of(tensors(arguments[1:] if name == "narrow" else arguments))


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes in memory: what is expanded lies there once."""
    return sum(min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes()) for tensor in tensors)


# --- the augmentation ------------------------------------------------------------------------------------------------


def augmentation(data: DataConfig, recipe: RecipeConfig, images: int, with_kernels: bool) -> Traffic:
    """One batch of a recipe, out of photographs of one size."""
    traffic, (height, width) = Traffic(), PHOTOGRAPH
    with ExitStack() as stack:
        for module in (augment, randaugment):
            stack.enter_context(
                patch.object(module, "send", lambda values, device: torch.from_numpy(np.array(values)).to(device))
            )
        stack.enter_context(patch.object(fused, "usable", lambda tensor: with_kernels))
        stack.enter_context(patch.object(fused, "launch", traffic.launch))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        made = Augmentation(data, recipe, 0, NormalizeAndErase(data, recipe, 0, CUDA))
        pixels = torch.empty(images * height * width, 3, dtype=torch.uint8, device=CUDA)
        ones = np.ones(images, dtype=np.int64)
        pictures = Pictures(
            pixels, torch.empty(images, device=CUDA), np.arange(images) * height * width, height * ones, width * ones
        )
        draws = made.draw(0, images)
        with traffic:
            made(pictures, np.arange(images), draws)
    if with_kernels:
        boxes = augment.crop_boxes(draws.crop, pictures.heights, pictures.widths, recipe.crop_scale)
        traffic.bytes += 3 * int((boxes[:, 2] * boxes[:, 3]).sum())
    return traffic


# --- the update ------------------------------------------------------------------------------------------------------


def update(network: nn.Module, images: int, size: int) -> Traffic:
    """Forward, backward and AdamW, on a CPU's tensors without values, with the operators that a GPU would get."""
    mode = FakeTensorMode()
    without_values(network.to(memory_format=torch.channels_last), mode)  # type: ignore[call-overload]
    with patch.object(layers.Pointwise, "forward", pointwise), mode, Traffic() as traffic:
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        pixels = torch.empty(images, 3, size, size).to(memory_format=torch.channels_last)
        targets = torch.empty(images, dtype=torch.int64)
        optimizer.zero_grad()
        traffic.operators = traffic.bytes = 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(network(pixels), targets, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
    return traffic


def pointwise(layer: layers.Pointwise, x: Tensor) -> Tensor:
    """`Pointwise.forward` on a GPU."""
    if layer.stride != (1, 1):
        return nn.Conv2d.forward(layer, x)
    return nn.functional.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2)


def without_values(network: nn.Module, mode: FakeTensorMode) -> None:
    """Take a network's values, and leave shapes and strides."""
    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(mode.from_tensor(value.detach()))
        for name, value in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(value)


def timms(step: str, model: ModelConfig) -> nn.Module:
    """The network as a user of timm has it, with fast norms."""
    set_fast_norm(True)
    network = timm_network(step, "tiny", model, 1000)
    set_fast_norm(False)
    return network


def counted(images: int, size: int) -> Iterator[tuple[str, Traffic]]:
    """Everything in the table."""
    paper = compose(["+step=gelu", "recipe=paper", "data=imagenet", "data.path=nowhere", f"data.image_size={size}"])
    yield "augmentation, plain", augmentation(paper.data, paper.recipe, images, with_kernels=False)
    yield "augmentation, kernels", augmentation(paper.data, paper.recipe, images, with_kernels=True)
    for step, name in STEPS.items():
        model = compose([f"+step={step}"]).model
        yield f"update, {name}, ours", update(build_network(model, 1000), images, size)
        yield f"update, {name}, timm", update(timms(step, model), images, size)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    found = counted(arguments.batch_size, arguments.image_size)
    rows = [{"what": what, "operators": each.operators, "gigabytes": each.bytes / 1e9} for what, each in found]
    print(as_markdown(rows, COLUMNS))


if __name__ == "__main__":
    main()
