"""The builder: exact at every step, equal to timm at both ends, and sound at every combination of toggles."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import roadmap
import roadmap.timm
from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.overrides import group_options
from roadmap.config.schema import Activation, BlockPart, Bottleneck, Downsampling, Keep, Norm, SpatialConv, Stem
from roadmap.config.steps import known_steps, networks
from roadmap.model.front import build_model
from roadmap.model.layers import Block, DropPath, LayerNorm2d, Pointwise
from roadmap.model.layout import layout
from roadmap.model.network import build_network
from roadmap.model.weights import TWINS, from_timm, timm_twin, to_timm
from roadmap.paper.rows import paper_rows

ROWS = [row for row in paper_rows().values() if row.step in known_steps()]
SPACE = {
    "stem": list(Stem),
    "depths": [[1, 1, 1, 1], [1, 2, 1, 1], [2, 1, 1, 2]],
    "width": [8, 12],
    "depthwise": [True, False],
    "bottleneck": list(Bottleneck),
    "spatial_conv": list(SpatialConv),
    "kernel_size": [1, 3, 5, 7, 11],
    "activation": list(Activation),
    "block_activations": list(Keep),
    "norm": list(Norm),
    "block_norms": list(Keep),
    "block_bias": [True, False],
    "downsampling": list(Downsampling),
    "layer_scale": [None, 1e-6, 0.1],
    "drop_path": [0.0, 0.3],
    "block_part": [None, *BlockPart],
}


def coordinates(step, scale="tiny"):
    return compose([f"scale={scale}", f"+step={step}"]).model


def test_there_are_sixteen_steps_at_two_scales():
    assert len(ROWS) == 32


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.scale}-{row.step}")
def test_parameters_equal_the_paper_to_the_unit(row):
    with torch.device("meta"):
        network = build_model(row.step, row.scale)
    assert sum(p.numel() for p in network.parameters()) == row.params


TWIN_PAIRS = [(step, scale, name) for step, scales in TWINS.items() for scale, name in scales.items()]
HEAVY = ("large", "xlarge", "huge")


@pytest.mark.parametrize(("step", "scale", "name"), TWIN_PAIRS, ids=lambda value: str(value))
def test_weights_travel_to_and_from_timm_and_outputs_agree(step, scale, name):
    if scale in HEAVY:  # the same code at more channels: names and sizes only, to spare a minute
        with torch.device("meta"):
            ours, theirs = build_model(step, scale), timm.create_model(name)
        from_timm(ours, theirs)
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
        return
    torch.manual_seed(0)
    theirs = scattered(timm.create_model(name, num_classes=10)).eval()
    ours = build_model(step, scale, num_classes=10).eval()
    from_timm(ours, theirs)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, got = theirs(images), ours(images)
    assert expected.std() > 1e-2
    assert (got - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())
    back = timm.create_model(name, num_classes=10).eval()
    to_timm(ours, back)
    with torch.no_grad():
        assert torch.equal(back(images), expected)


def scattered(model):
    """Norms, layer scale and buffers away from their first values, so that a forgotten one shows."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.ndim == 1:
            tensor.data = torch.rand_like(tensor) * 0.2 + (0.9 if not name.endswith("bias") and "mean" not in name else 0.0)
    return model


def test_every_scale_ends_in_a_timm_model():
    ends = {scale: timm_twin("separate_downsampling", scale) or timm_twin("grn", scale) for scale in group_options("scale")}
    assert all(ends.values())
    assert {scale for scale in ends if not timm_twin("separate_downsampling", scale)} == {"huge"}


def test_another_network_is_not_taken_for_a_twin():
    with pytest.raises(Refused, match="no counterpart"):
        from_timm(build_model("layer_norm", "atto"), timm.create_model("convnext_atto"))


# Toggles.


def random_coordinates(count, seed=0):
    chance = random.Random(seed)
    base = coordinates("resnet")
    return [replace(base, **{key: chance.choice(values) for key, values in SPACE.items()}) for _ in range(count)]


def exercise(model, size):
    """Forward and backward; no NaN, and every parameter gets a gradient."""
    network = build_network(replace(model, drop_path=min(model.drop_path, 0.1)), num_classes=3).train()
    torch.manual_seed(0)
    logits = network(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 3)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("part", range(8))
def test_random_combinations_train(part):
    for i, model in enumerate(random_coordinates(30, seed=part)):
        exercise(model, size=[32, 64, 128, 224][i % 4] if i % 10 < 8 else 33)


@pytest.mark.parametrize("step", known_steps())
def test_neighbours_of_every_step_train(step):
    centre = replace(coordinates(step, "atto"), depths=[1, 1, 1, 1], width=8)
    for key, values in SPACE.items():
        for value in values:
            if value != getattr(centre, key) and key not in ("depths", "width"):
                neighbour = replace(centre, **{key: value})
                assert layout(neighbour) != layout(centre), f"{key}={value} changed nothing"
                exercise(neighbour, size=32)


def kinds(model, *types):
    network = build_network(replace(model, depths=[1, 1, 1, 1], width=8), 3)
    return sum(isinstance(module, types) for module in network.modules())


@pytest.mark.parametrize("step", known_steps())
def test_norm_and_activation_reach_every_layer(step):
    model = coordinates(step)
    assert kinds(replace(model, norm=Norm.layer), nn.BatchNorm2d) == 0
    assert kinds(replace(model, norm=Norm.batch), LayerNorm2d) == 0
    assert kinds(replace(model, activation=Activation.gelu), nn.ReLU) == 0
    assert kinds(replace(model, activation=Activation.relu), nn.GELU) == 0


# Facts of the paper that parameter counts do not show.


@pytest.mark.parametrize("step", known_steps())
def test_every_step_changes_the_network_of_its_parent(step):
    parent = known_steps()[step].parent
    if parent:
        assert layout(coordinates(step)) != layout(coordinates(parent))


def test_norm_epsilons():
    first, last = build_model("resnet", "atto"), build_model("separate_downsampling", "atto")
    assert {m.eps for m in first.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert {m.eps for m in last.modules() if isinstance(m, LayerNorm2d)} == {1e-6}


def test_activations_and_norms_of_a_block():
    def order(step):
        block = build_model(step, "atto").stages[1].blocks[1]
        return [type(module).__name__ for module in [*block.branch.modules(), block.act] if not list(module.children())]

    full = ["Depthwise", "BatchNorm2d", "ReLU", "Pointwise", "BatchNorm2d", "ReLU", "Pointwise", "BatchNorm2d", "ReLU"]
    assert order("kernel_7") == full
    assert order("fewer_activations") == [
        "Depthwise",
        "BatchNorm2d",
        "Pointwise",
        "BatchNorm2d",
        "GELU",
        "Pointwise",
        "BatchNorm2d",
        "Identity",
    ]
    assert order("fewer_norms") == ["Depthwise", "BatchNorm2d", "Pointwise", "GELU", "Pointwise", "Identity"]
    assert order("layer_norm") == ["Depthwise", "LayerNorm2d", "Pointwise", "GELU", "Pointwise", "Identity"]


def test_where_the_stride_is():
    def strides(step):
        block = build_model(step, "atto").stages[1].blocks[0]
        return [layer.conv.stride[0] for layer in block.branch]

    assert strides("resnet") == [1, 2, 1]  # in the 3x3 convolution
    assert strides("inverted_bottleneck") == [1, 2, 1]
    assert strides("move_up_depthwise") == [2, 1, 1]
    assert strides("separate_downsampling") == [1, 1, 1]


def test_fewer_norms_leaves_twenty_one():
    network = build_model("fewer_norms")
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 21


def test_layer_scale_is_off_until_the_last_step():
    for step in known_steps():
        model = coordinates(step)
        assert model.layer_scale == (1e-6 if step == "separate_downsampling" else None)
    gammas = [p for n, p in build_model("separate_downsampling", "atto").named_parameters() if n.endswith("gamma")]
    assert len(gammas) == 12
    assert all(torch.equal(g, torch.full_like(g, 1e-6)) for g in gammas)


def test_stochastic_depth_grows_linearly_and_drops_whole_images():
    network = build_model("separate_downsampling", "atto", drop_path=0.5)
    rates = [module.probability for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.5 * i / 11 for i in range(12)])
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 2, 3, 3))
    per_image = dropped.flatten(1)
    assert ((per_image == 0).all(1) | (per_image == 1 / 0.75).all(1)).all()
    assert (per_image[:, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(DropPath(0.25).eval()(dropped), dropped)


def test_a_dropped_branch_leaves_the_shortcut():
    block = build_model("separate_downsampling", "atto", layer_scale=1.0).stages[0].blocks[1].train()
    block.drop_path.keep.fill_(1e-9)
    image = torch.randn(2, 40, 8, 8)
    assert torch.equal(block(image), image)


def test_initial_weights():
    network = build_model("resnet", "nano")
    weights = torch.cat([m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert weights.abs().max() < 2.0
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    biases = [m.bias for m in build_model("layer_norm", "atto").modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert biases
    assert all((bias == 0).all() for bias in biases)


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_is_a_convolution(stride):
    torch.manual_seed(0)
    fast = Pointwise(6, 10, 1, stride, bias=True)
    plain = nn.Conv2d(6, 10, 1, stride, bias=True)
    plain.load_state_dict(fast.state_dict())
    for size in (1, 7, 8):
        image = torch.randn(2, 6, size, size)
        torch.testing.assert_close(fast(image), plain(image), atol=1e-6, rtol=1e-5)


def test_one_block_serves_every_step():
    for step in networks():
        network = build_model(step, "atto")
        assert all(type(block) is Block for stage in network.stages for block in stage.blocks)


# What timm's users expect.


def test_timm_builds_every_step_and_features():
    assert len(timm.list_models("roadmap_*")) == len(networks()) * len(group_options("scale"))
    network = timm.create_model("roadmap_inverted_bottleneck_atto", num_classes=7, drop_path_rate=0.2, in_chans=1)
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    features = timm.create_model("roadmap_resnet_atto", features_only=True, out_indices=(1, 3))
    shapes = [tuple(f.shape) for f in features(torch.randn(2, 3, 64, 64))]
    assert shapes == [(2, 192, 8, 8), (2, 768, 2, 2)]
    assert features.feature_info.reduction() == [8, 32]


def test_a_model_can_change_its_classifier():
    network = roadmap.build_model("gelu", "atto", num_classes=0).eval()
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 320)
    network.reset_classifier(4)
    assert network.get_classifier().out_features == 4
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 4)


def test_gradient_checkpointing_changes_no_gradient():
    def gradients(checkpointing):
        torch.manual_seed(0)
        network = build_model("gelu", "atto", num_classes=3, depths=[1, 1, 2, 1], drop_path=0.0)
        network.set_grad_checkpointing(checkpointing)
        network(torch.ones(2, 3, 32, 32) * torch.arange(2)[:, None, None, None]).sum().backward()
        return [p.grad for p in network.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_toggle_without_effect_is_named(caplog):
    build_model("kernel_7", "atto", block_bias=True)
    assert "model.block_bias has no effect here" in caplog.text
    caplog.clear()
    build_model("layer_norm", "atto", block_bias=True)
    assert caplog.text == ""


def test_an_unknown_toggle_is_refused():
    with pytest.raises(Refused, match=r"model\.kernel_size"):
        build_model("gelu", kernel_sise=5)
