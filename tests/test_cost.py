"""Costs: the paper's numbers, two counters that agree, and a table in every format."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.base.errors import Refused
from roadmap.base.paths import CONF
from roadmap.config.compose import compose
from roadmap.config.steps import known_steps
from roadmap.model import cost as counting
from roadmap.model.network import build_network
from roadmap.paper.rows import paper_rows

REFERENCE = {}
with (CONF.parent / "roadmap" / "paper" / "convnext_roadmap.csv").open() as file:
    for line in csv.DictReader(file):
        REFERENCE[line["scale"], line["step"]] = line
ROWS = [key for key in REFERENCE if key[1] in known_steps()]


def model_of(scale, step):
    return compose([f"scale={scale}", f"+step={step}"]).model


@pytest.mark.parametrize(("scale", "step"), ROWS)
def test_multiply_adds_equal_the_paper(scale, step):
    counted = counting.cost(model_of(scale, step))
    expected = REFERENCE[scale, step]
    assert counted.params == int(expected["params"])
    assert round(counted.conv_linear / 1e9, 4) == round(float(expected["gmacs_conv_linear"]), 4)


@pytest.mark.parametrize("step", ["resnet", "inverted_bottleneck", "separate_downsampling", "grn"])
def test_parts_add_up_to_the_whole_and_torch_agrees(step):
    model = model_of("atto", step)
    counted = counting.cost(model, num_classes=10, image_size=96)
    network, image = build_network(model, 10).eval(), torch.zeros(1, 3, 96, 96)
    whole = FlopCountAnalysis(network, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    found, ours = Counter(whole.by_operator()), Counter(counted.by_operator)
    assert ours["linear"] == 10 * network.num_features  # the classifier; a 1x1 convolution is one, whatever computes it
    found["conv"] += found.pop("linear") - ours.pop("linear")
    assert bool(ours.pop("response_norm", 0)) == (step == "grn")  # fvcore knows none
    assert found == ours
    activations = ActivationCountAnalysis(network, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert activations.total() == counted.activations
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.to("meta")(image.to("meta"))  # a CPU leaves out what meets padding alone
    assert counter.get_total_flops() == 2 * counted.conv_linear


def test_an_operator_without_a_known_cost_is_an_error():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1)

    with pytest.raises(Refused, match="aten::cumsum"):
        counting._trace(nn.Sequential(nn.Conv2d(3, 3, 1), Odd()), torch.zeros(1, 3, 8, 8))


def test_counting_takes_one_thread_and_gives_the_others_back():
    """Two threads that wait for each other take two to four times the CPU time."""
    threads, seen = torch.get_num_threads(), []

    class Part(nn.Conv2d):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    torch.set_num_threads(3)
    try:
        counting._count(Part, (3, 4, 1), (1, 3, 8, 8))
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(threads)


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "roadmap.cost", *arguments], capture_output=True, text=True, timeout=60)


def test_csv_is_complete_and_quick():
    before = os.times().children_user
    done = command("--format", "csv")
    seconds = os.times().children_user - before
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["step"] for row in rows] == list(known_steps())
    for row in rows:
        paper = REFERENCE["tiny", row["step"]]
        assert int(row["params"]) == int(paper["params"])
        assert float(row["gmacs_conv_linear"]) == pytest.approx(float(paper["gmacs_conv_linear"]), abs=5e-5)
        assert float(row["gmacs_total"]) > float(row["gmacs_conv_linear"])
        assert ("misprint" in row["note"]) == (row["step"] in ("layer_norm", "separate_downsampling"))
    assert seconds < 30  # of CPU time: ten on two cores


def test_a_network_of_gigabytes_is_counted_on_little(monkeypatch):
    """Orders of steps hold dense kernels of 7 in wide bottlenecks, 462 million weights in one layer."""
    model = compose(["+step=kernel_7", "scale=tiny", "model.depthwise=false", "model.spatial_conv=middle"]).model
    sizes, zeros = [], counting._zeros
    monkeypatch.setattr(counting, "_zeros", lambda tensor: sizes.append(tensor.numel()) or zeros(tensor))
    counting._count.cache_clear()
    assert counting.cost(model, image_size=32).params > 2**29
    assert max(sizes) < 2**22


def test_fvcore_totals_of_known_networks():
    assert counting.cost(model_of("tiny", "resnet")).total / 1e9 == pytest.approx(4.1115, abs=1e-4)
    assert counting.cost(model_of("tiny", "separate_downsampling")).total / 1e9 == pytest.approx(4.4704, abs=1e-4)


@pytest.fixture(scope="module")
def small_rows():
    from roadmap.model import cost_table

    return cost_table.cost_rows("atto", 64)


@pytest.mark.parametrize("form", ["table", "json", "md", "latex"])
def test_formats(form, small_rows, monkeypatch, capsys):
    from roadmap import cost
    from roadmap.model import cost_table

    monkeypatch.setattr(cost_table, "cost_rows", lambda *settings: small_rows)  # counted once for all forms
    monkeypatch.setattr(sys, "argv", ["cost", "--scale", "atto", "--format", form, "--image-size", "64"])
    assert cost.main() == 0
    said = capsys.readouterr().out
    step = r"inverted\_bottleneck" if form in ("md", "latex") else "inverted_bottleneck"
    assert step in said
    if form == "json":
        assert len(json.loads(said)) == 16
    if form == "latex":
        assert said.count(r"\\") == 17
        assert r"\toprule" in said


def test_a_step_of_ones_own_is_costed(tmp_path, monkeypatch, capsys):
    from roadmap import cost

    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "kernel_13.yaml").write_text(
        "# @package _global_\ndefaults: [separate_downsampling, _self_]\nmodel: {kernel_size: 13}\n"
    )
    monkeypatch.setattr(sys, "argv", ["cost", "--scale", "atto", "--format", "csv", "--config-dir", str(tmp_path)])
    assert cost.main() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("kernel_13,")


@pytest.mark.parametrize("arguments", [["--scale", "tini"], ["--format", "cvs"], ["--image-size", "16"]])
def test_bad_arguments(arguments, monkeypatch):
    from roadmap import cost

    monkeypatch.setattr(sys, "argv", ["cost", *arguments])
    with pytest.raises(Refused):
        cost.main()


def test_every_row_of_the_paper_is_there():
    assert len(paper_rows()) == 38
