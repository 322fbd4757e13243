"""Costs of detectors and segmenters: the published integers, and every step by another counter."""

import csv
import io
import sys
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.base.errors import Refused
from roadmap.config.schema import Head
from roadmap.config.steps import known_steps
from roadmap.cost import main
from roadmap.model.check import compose_run
from roadmap.model.cost import cost
from roadmap.tasks.choose import builder
from roadmap.tasks.cost_table import RECIPES, SIZES
from roadmap.tasks.dense.cost import count, dense_cost

MASK, CASCADE, UPERNET = Head.mask_rcnn, Head.cascade_mask_rcnn, Head.upernet
LAST, SWIN = "separate_downsampling", "swin_tiny_patch4_window7_224"
LARGE = (640, 2560)  # UPerNet's images where weights come from ImageNet-22K


@cache
def settings(scale, step, head):
    groups = [f"task={head.facts.task}", f"head={head}", f"recipe={RECIPES[head]}"]
    return compose_run([f"scale={scale}", f"+step={step}", *groups])


def counted(scale, step, head, size=None, reference=None):
    chosen = settings(scale, step, head)
    return dense_cost(builder(head), chosen.model, reference, chosen.head, 150 if head == UPERNET else 80, size or SIZES[head])


PUBLISHED = [  # scale, step, head, image, millions of parameters, GFLOPs
    ("tiny", LAST, MASK, None, 48, 262),
    ("tiny", LAST, CASCADE, None, 86, 741),
    ("small", LAST, CASCADE, None, 108, 827),
    ("base", LAST, CASCADE, None, 146, 964),
    ("large", LAST, CASCADE, None, 255, 1354),
    ("xlarge", LAST, CASCADE, None, 407, 1898),
    ("tiny", LAST, UPERNET, None, 60, 939),
    ("small", LAST, UPERNET, None, 82, 1027),
    ("base", LAST, UPERNET, None, 122, 1170),
    ("base", LAST, UPERNET, LARGE, 122, 1828),
    ("large", LAST, UPERNET, LARGE, 235, 2458),
    ("xlarge", LAST, UPERNET, LARGE, 391, 3335),
    ("tiny", "resnet", CASCADE, None, 82, 739),
]


@pytest.mark.parametrize(("scale", "step", "head", "size", "params", "gflops"), PUBLISHED)
def test_published_costs_come_out(scale, step, head, size, params, gflops):
    found = counted(scale, step, head, size)
    assert round(found.published / 1e9) == gflops
    assert round(found.params / 1e6) == params


def test_the_published_count_is_no_plain_multiply_adds():
    found = counted("tiny", LAST, CASCADE)
    assert round(found.published / 1e9, 2) == 740.99 and round(found.macs / 1e9) == 740  # it is published as 741


@pytest.mark.parametrize(("head", "gflops"), [(MASK, 267), (UPERNET, 945)])
def test_a_swin_transformers_attention_counts_its_padded_windows(head, gflops):
    found = counted("tiny", LAST, head, reference=SWIN)
    assert round(found.published / 1e9) == gflops
    if head == MASK:  # windows of 7 x 7 over 200 x 320, 100 x 160, 50 x 80 and 25 x 40 positions, padded
        windows = (29 * 46, 15 * 23, 8 * 12, 4 * 6)
        products = (2 * n * 49 * 49 * 96 * 2**i for i, n in enumerate(windows))
        assert found.backbone["attention"] == sum(d * each for d, each in zip((2, 2, 6, 2), products, strict=True))


@pytest.mark.parametrize("step", list(known_steps()))
def test_every_steps_backbone_costs_what_its_classifier_costs_without_the_classifier(step):
    model = settings("atto", step, MASK).model
    found, classifier = counted("atto", step, MASK, (64, 64)), cost(model, num_classes=0, image_size=64)
    assert found.backbone["conv"] + found.backbone.get("linear", 0) == classifier.conv_linear


@pytest.mark.parametrize("head", [MASK, CASCADE, UPERNET])
def test_torchs_counter_sees_the_same_multiply_adds(head):
    """Of what runs, a detector's heads on as many regions as are published: torch counts them in another way."""
    from roadmap.tasks.detection.regions import BOXES

    found, operators = counted("atto", "gelu", head, (64, 64)), FlopCounterMode(display=False)
    with operators:
        counted("atto", "gelu", head, (64, 64))
    pools = sum(cells * 2 * (2 + cells) * 320 for cells in (1, 2, 3, 6)) if head == UPERNET else 0  # matrix products here
    assert operators.get_total_flops() // 2 - pools == found.macs and BOXES == 1000


def test_each_kind_of_layer_counts_by_its_rule():
    convolutions = nn.Conv2d(2, 4, 3, padding=1), nn.ConvTranspose2d(4, 3, 2, 2)
    layers = nn.Sequential(convolutions[0], nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), convolutions[1], nn.GELU()).eval()
    found = count(lambda: layers(torch.zeros(1, 2, 4, 6)))
    assert found["conv"] == 24 * 4 * 2 * 9 + 24 * 3 * 4 and found["bias"] == 24 * 4 + 24 * 3
    assert (found["batch_norm"], found["relu"], found["pool"]) == (2 * 96, 96, 96)


def test_the_command_writes_the_columns_for_all_steps(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cost", "--task", "upernet", "--scale", "atto", "--format", "csv"])
    assert main() == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["step", "params", "gmacs", "gflops_published", "gflops_backbone"]
    assert [row["step"] for row in rows] == list(known_steps())
    found = counted("atto", "resnet", UPERNET)
    assert int(rows[0]["params"]) == found.params and float(rows[0]["gmacs"]) == pytest.approx(found.macs / 1e9)
    assert float(rows[0]["gflops_published"]) == pytest.approx(found.published / 1e9)
    assert float(rows[0]["gflops_backbone"]) == pytest.approx(found.published_backbone / 1e9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "unet"], "there is no task 'unet'; allowed: mask_rcnn"),
        (["--reference", SWIN], "--reference: with --task alone"),
        (["--task", "upernet", "--image-size", "16"], "--image-size 16: must be at least 32"),
    ],
)
def test_wrong_commands_are_refused(monkeypatch, arguments, said):
    monkeypatch.setattr(sys, "argv", ["cost", *arguments])
    with pytest.raises(Refused, match=said):
        main()


def test_a_tasks_cost_is_that_of_backbone_and_head():
    chosen = settings("atto", "gelu", UPERNET)
    found = dense_cost(builder(UPERNET), chosen.model, None, chosen.head, 11, (128, 128))
    assert found.cost.conv_linear == found.cost.total == found.macs > cost(chosen.model, image_size=128).conv_linear
    assert found.cost.params == found.params and found.cost.activations > 0
