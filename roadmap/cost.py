"""What a network costs: parameters, multiply-adds by operator, activations.

`python -m roadmap.cost` prints the roadmap's costs; nothing is trained. Multiply-adds are counted by fvcore on a
trace in eval mode, one image, multiply and add together one. The paper counts convolutions and linear layers only;
fvcore's total adds norms and pooling, so both stand in the table.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore calls torch.jit.script while it is imported
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_jit, get_shape, linear_flop_jit

from roadmap import config
from roadmap.errors import Refused, exits
from roadmap.model.build import build_network
from roadmap.model.network import Network
from roadmap.paper import paper_row
from roadmap.report.formats import FORMATS, Column, render
from roadmap.schema import ModelConfig
from roadmap.steps import known_steps

ACTIVATIONS = "activations"  # outputs of convolutions and linear layers, as fvcore's ActivationCountAnalysis counts
MULTIPLY_ADDS = ("conv", "linear")
# Operators that fvcore knows no count for and that have no multiply-adds of convolutions, linear layers or norms.
FREE_OPERATORS = {"aten::add", "aten::mul", "aten::gelu", "aten::max_pool2d"}


@dataclass(frozen=True)
class Cost:
    """The costs of a network for one image."""

    params: int
    by_operator: dict[str, int]  # multiply-adds
    activations: int  # elements

    @property
    def conv_linear(self) -> int:
        """Multiply-adds of convolutions and linear layers: the paper's count."""
        return sum(self.by_operator.get(name, 0) for name in MULTIPLY_ADDS)

    @property
    def total(self) -> int:
        """fvcore's total: norms and pooling too."""
        return sum(self.by_operator.values())


def cost(model: ModelConfig, num_classes: int = 1000, image_size: int = 224) -> Cost:
    """Count the network at these coordinates, for one image of `image_size` pixels.

    Raises:
        Refused: where the network runs an operator whose cost is not known.
    """
    with torch.device("meta"):
        network = build_network(dataclasses.replace(model, drop_path=0.0), num_classes).eval()
    counts: Counter[str] = Counter()
    shape = (1, 3, image_size, image_size)
    for part in _parts(network):
        counted, shape = _count(part, shape)
        counts.update(counted)
    activations = counts.pop(ACTIVATIONS)
    return Cost(sum(p.numel() for p in network.parameters()), dict(sorted(counts.items())), activations)


def _parts(network: Network) -> Iterator[nn.Module]:
    """The network as a chain of modules, in the order in which an image passes them."""
    yield network.stem
    for stage in network.stages:
        yield from (stage.downsampling, *stage.blocks)
    yield network.head


_counted: dict[tuple[str, tuple[int, ...]], tuple[Counter[str], tuple[int, ...]]] = {}


def _count(part: nn.Module, shape: tuple[int, ...]) -> tuple[Counter[str], tuple[int, ...]]:
    """Trace a module once for all its equals, which most blocks of a stage are; returns its output's shape too."""
    key = (repr(part), shape)
    if key not in _counted:
        real = copy.deepcopy(part).to_empty(device="cpu")
        for tensor in real.state_dict().values():
            tensor.zero_()  # uninitialised numbers may be denormal, and slow
        image = torch.zeros(shape)
        with torch.no_grad():
            _counted[key] = _trace(real, image), tuple(real(image).shape)
    return _counted[key]


def _trace(part: nn.Module, image: Tensor) -> Counter[str]:
    if not list(part.children()):
        return Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace, fvcore's means, is deprecated
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        analysis = FlopCountAnalysis(part, image).tracer_warnings("none").uncalled_modules_warnings(False)
        analysis.unsupported_ops_warnings(False)
        for names, handle in ((("aten::_convolution", "aten::convolution"), _conv), (("aten::linear",), _linear)):
            for name in names:
                analysis.set_op_handle(name, handle)
        counted, unknown = analysis.by_operator(), set(analysis.unsupported_ops()) - FREE_OPERATORS
    if unknown:
        raise Refused(f"the cost of {', '.join(sorted(unknown))} is not known; free are {', '.join(FREE_OPERATORS)}")
    return Counter({name: int(count) for name, count in counted.items()})


def _conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"conv": conv_flop_jit(inputs, outputs)["conv"], ACTIVATIONS: _elements(outputs[0])})


def _linear(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"linear": linear_flop_jit(inputs, outputs), ACTIVATIONS: _elements(outputs[0])})


def _elements(value: Any) -> int:
    shape: list[int] = get_shape(value)
    return int(torch.Size(shape).numel())


# --- the table -------------------------------------------------------------------------------------------------------

COLUMNS = (
    Column("step", "step"),
    Column("params", "params", "{:,}"),
    Column("gmacs_conv_linear", "conv + linear, G", "{:.4f}"),
    Column("gmacs_total", "fvcore total, G", "{:.4f}"),
    Column("gmacs_conv", "conv, G", "{:.4f}"),
    Column("gmacs_linear", "linear, G", "{:.4f}"),
    Column("gmacs_norm", "norm, G", "{:.4f}"),
    Column("gmacs_pool", "pool, G", "{:.4f}"),
    Column("activations_m", "activations, M", "{:.2f}"),
    Column("paper_gflops", "paper prints, G", "{:.2f}"),
    Column("note", "note"),
)


def cost_row(step: str, scale: str, image_size: int, config_dirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One row of the cost table, multiply-adds in G (1e9), activations in M (1e6)."""
    experiment = config.compose([f"scale={scale}", f"+step={step}"], config_dirs)
    found = cost(experiment.model, image_size=image_size)
    operators = {name: count / 1e9 for name, count in found.by_operator.items()}
    paper = paper_row(scale, step)
    return {
        "step": step,
        "params": found.params,
        "gmacs_conv_linear": found.conv_linear / 1e9,
        "gmacs_total": found.total / 1e9,
        "gmacs_conv": operators.get("conv", 0.0),
        "gmacs_linear": operators.get("linear", 0.0),
        "gmacs_norm": operators.get("batch_norm", 0.0) + operators.get("layer_norm", 0.0),
        "gmacs_pool": operators.get("adaptive_avg_pool2d", 0.0),
        "activations_m": found.activations / 1e6,
        "paper_gflops": paper.gflops_printed if paper and image_size == 224 else None,
        "note": _note(scale, step, image_size),
    }


def _note(scale: str, step: str, image_size: int) -> str | None:
    paper = paper_row(scale, step)
    if paper and paper.misprint and image_size == 224:
        return "misprint in Table 10; Figure 2 agrees with the computed value"
    return None if known_steps()[step].adopted else "side branch, not adopted"


def main() -> int:
    """Print the cost table that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m roadmap.cost", description="The roadmap's costs, nothing trained.")
    parser.add_argument("--scale", default="tiny", help="end points: tiny (default), base, small, ...")
    parser.add_argument("--format", default="table", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; the paper's costs are at 224")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help="a folder with steps of your own")
    arguments = parser.parse_args()
    if arguments.image_size < 32:
        raise Refused(f"--image-size {arguments.image_size}: must be at least 32")
    folders = tuple(folder.absolute() for folder in arguments.config_dir)
    rows = [cost_row(step, arguments.scale, arguments.image_size, folders) for step in known_steps(*folders)]
    title = f"scale {arguments.scale}, {arguments.image_size} px, 1000 classes; multiply-adds of one image"
    sys.stdout.write(render(arguments.format, rows, COLUMNS, title))
    return 0


if __name__ == "__main__":
    exits(main)()
