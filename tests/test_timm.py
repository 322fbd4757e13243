"""Our networks are timm's citizens: what its tests, its tools and its users ask of a model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import QUICK
from PIL import Image
from runs import executed
from safetensors.torch import load_file
from timm.optim import param_groups_layer_decay

import roadmap.timm
from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.steps import networks
from roadmap.data.transforms import val_transform
from roadmap.model.front import build_model
from roadmap.model.weights import from_timm
from roadmap.record.folder import RunFolder

SOURCES = Path(os.environ.get("TIMM_SOURCES") or Path(timm.__file__).parents[1])
TESTS = SOURCES / "tests" / "test_models.py"
SMALL = {"depths": [1, 1, 1, 1], "width": 8}
ENDS = ["resnet", "separate_downsampling"]

every_step = pytest.mark.parametrize("step", networks())


def small(step, **options):
    """A step's registered model with a handful of channels, through timm's door."""
    return timm.create_model(f"roadmap_{step}_atto", **SMALL, **options).eval()


@pytest.mark.skipif(not TESTS.is_file(), reason="needs timm's sources: TIMM_SOURCES=a clone of pytorch-image-models")
def test_timms_own_tests_pass():
    """Of all of timm's tests of a model, ten examine a ConvNeXt; the smallest scale, or what TIMM_MODELS says."""
    environment = {"TIMM_MODELS": "roadmap_*_atto", **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = [
        "-p",
        "timm_models",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "-W",
        "ignore",
        "--tb=short",
        "-q",
        "-k",
        "roadmap",
    ]
    command = [sys.executable, "-m", "pytest", *options, str(TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    passed = re.search(r"^(\d+) passed", done.stdout, re.M)
    assert passed, done.stdout
    if "TIMM_MODELS" not in os.environ:
        assert int(passed[1]) >= 10 * len(networks())


# The same, of our own, where timm's sources are not at hand.


@every_step
def test_the_configuration_describes_the_model(step):
    network = small(step)
    cfg, state, images = network.default_cfg, network.state_dict(), torch.randn(1, 3, 224, 224)
    assert timm.list_models(f"roadmap_{step}_atto", name_matches_cfg=True) == [f"roadmap_{step}_atto"]
    assert f"{cfg['first_conv']}.weight" in state
    assert f"{cfg['classifier']}.weight" in state
    features = network.forward_features(images)
    assert features.shape == (1, network.num_features, *cfg["pool_size"])
    before_logits = network.forward_head(features, pre_logits=True)
    network.reset_classifier(0)
    assert torch.equal(network(images), before_logits)
    network.reset_classifier(0, "")
    assert network(images).shape == features.shape
    assert small(step, num_classes=0, global_pool="")(images).shape == features.shape
    network.reset_classifier(3, "avg")
    assert network(images).shape == (1, 3)


def test_a_new_classifier_is_where_the_old_one_was():
    network = small("gelu").to(torch.bfloat16)
    network.reset_classifier(2)
    assert network.get_classifier().weight.dtype == torch.bfloat16
    with pytest.raises(Refused, match="global_pool='max'"):
        network.reset_classifier(2, "max")
    with pytest.raises(Refused, match="global_pool='' with num_classes=2"):
        network.reset_classifier(2, "")
    assert network(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).shape == (1, 2)  # what is refused changes nothing


@every_step
def test_intermediate_features_are_those_of_the_stages(step):
    network, images = small(step), torch.randn(2, 3, 64, 64)
    final, outputs = network.forward_intermediates(images)
    assert torch.equal(final, network.forward_features(images))
    assert torch.equal(final, outputs[-1])
    info = network.feature_info
    assert [tuple(o.shape) for o in outputs] == [(2, i["num_chs"], 64 // i["reduction"], 64 // i["reduction"]) for i in info]
    for classes in ({}, {"feature_cls": "getter"}):
        features = small(step, features_only=True, **classes)
        assert features.feature_info.channels() == [i["num_chs"] for i in info]
        assert [o.shape for o in features(images)] == [o.shape for o in outputs]
    network.set_grad_checkpointing()
    torch.testing.assert_close(network.train().forward_intermediates(images)[0].shape, final.shape)


def test_some_of_the_stages_can_be_asked_for():
    network, images = small("gelu"), torch.randn(1, 3, 32, 32)
    outputs = network.forward_intermediates(images, intermediates_only=True)
    for indices, wanted in (([2, 0], [0, 2]), (2, [2, 3]), ([-1], [3]), ((1,), [1])):
        final, some = network.forward_intermediates(images, indices, stop_early=True)
        assert all(torch.equal(one, outputs[i]) for one, i in zip(some, wanted, strict=True))
        assert torch.equal(final, outputs[wanted[-1]])
    for indices in ([4], 5, 0, [], [-5]):
        with pytest.raises(Refused, match="stages 0 to 3"):
            network.forward_intermediates(images, indices)
    with pytest.raises(Refused, match="NHWC"):
        network.forward_intermediates(images, output_fmt="NHWC")


@pytest.mark.parametrize("step", ENDS)
def test_what_stands_behind_the_wanted_stages_can_be_removed(step):
    images = torch.randn(1, 3, 32, 32)
    network = small(step)
    outputs = network.forward_intermediates(images, intermediates_only=True)
    assert network.prune_intermediate_layers([1]) == [1]
    assert torch.equal(network(images), outputs[1])
    assert network.num_features == network.head_hidden_size == outputs[1].shape[1]
    assert not any(name.startswith(("stages.2", "head")) for name in network.state_dict())
    network.reset_classifier(3, "avg")
    assert network(images).shape == (1, 3)
    whole = small(step)
    assert whole.prune_intermediate_layers(1, prune_head=False) == [3]
    assert whole(images).shape == (1, 1000)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's word on the cost of an uneven border
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(("step", "scale", "twin"), [("resnet", "tiny", "resnet50"), (ENDS[1], "atto", "convnext_atto")])
def test_dilation_in_place_of_strides_is_timms(step, scale, twin, output_stride):
    ours = timm.create_model(f"roadmap_{step}_{scale}".removesuffix("_tiny"), output_stride=output_stride).eval()
    theirs = timm.create_model(twin, output_stride=output_stride).eval()
    from_timm(ours, theirs)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(images), theirs.forward_features(images), atol=1e-5, rtol=1e-4)
    assert [i["reduction"] for i in ours.feature_info] == [i["reduction"] for i in theirs.feature_info][-4:]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@every_step
def test_every_step_keeps_its_resolution_where_it_is_told_to(step):
    shapes = [tuple(o.shape[2:]) for o in small(step, output_stride=8, features_only=True)(torch.randn(1, 3, 64, 64))]
    assert shapes == [(16, 16), (8, 8), (8, 8), (8, 8)]
    assert small(step, output_stride=8).state_dict().keys() == small(step).state_dict().keys()


def test_another_output_stride_is_refused():
    with pytest.raises(Refused, match="output_stride=4: it is one of 8, 16, 32"):
        build_model("gelu", "atto", output_stride=4)


@pytest.mark.parametrize("kind", [None, "getter", "hook", "dict", "fx"])
@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
def test_rates_decay_by_layer_for_features_too(kind):
    features = timm.create_model(
        "roadmap_separate_downsampling_atto", features_only=True, **({"feature_cls": kind} if kind else {})
    )
    groups = param_groups_layer_decay(features, layer_decay=0.5)
    scales = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    by_name = {name.replace("stages_", "stages."): scales[id(weight)] for name, weight in features.named_parameters()}
    in_order = [
        next(scale for name, scale in by_name.items() if f"stages.{stage}.blocks.{block}." in name)
        for stage, depth in enumerate((2, 2, 6, 2))
        for block in range(depth)
    ]
    assert in_order == [0.0625] * 2 + [0.125] * 2 + [0.25] * 3 + [0.5] * 3 + [1.0] * 2  # three blocks are one layer
    assert min(scale for name, scale in by_name.items() if "stem" in name) < in_order[0]


def test_weights_that_nobody_has_are_not_made_up():
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        small("gelu", pretrained=True)


# A trained network.


@pytest.fixture(scope="module", params=["+step=gelu", "reference=resnet10t"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    own = [
        "data.image_size=32",
        "data.crop_pct=0.9",
        "recipe.epochs=1",
        "recipe.warmup_epochs=0",
        "recipe.interpolation=bilinear",
        f"output={folder}",
    ]
    quick = QUICK if request.param == "+step=gelu" else [o for o in QUICK if not o.startswith("model.")]
    experiment = compose([request.param, *quick, *own])
    executed(experiment)
    return experiment, RunFolder.of(experiment, "0" * 16).path


def test_a_trained_network_says_what_images_it_takes(run):
    experiment, folder = run
    network = roadmap.timm.load_trained(folder)
    config = timm.data.resolve_data_config(model=network)
    data = experiment.data
    assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 0.9)
    assert (config["mean"], config["std"]) == (tuple(data.mean), tuple(data.std))
    assert (network.default_cfg["num_classes"], network.default_cfg["interpolation"]) == (10, "bilinear")
    picture = Image.fromarray(torch.randint(256, (50, 40, 3), dtype=torch.uint8).numpy())
    scored = val_transform(data, experiment.recipe.interpolation)(picture) / 255  # bytes, which the device normalises
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    torch.testing.assert_close(timm.data.create_transform(**config)(picture), (scored - mean) / std)
    kept = load_file(folder / "weights.safetensors")
    assert all(torch.equal(weight, kept[name]) for name, weight in network.state_dict().items())
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert not network.training


def test_what_is_no_trained_network_is_refused(run, tmp_path):
    _, folder = run
    with pytest.raises(Refused, match="no finished run"):
        roadmap.timm.load_trained(tmp_path)
    for name in ("result.json", "config.yaml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(Refused, match=r"keep_weights=true"):
        roadmap.timm.load_trained(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"torn")
    with pytest.raises(Refused, match=r"weights\.pt: its weights cannot be read"):
        roadmap.timm.load_trained(tmp_path)
    torch.save(build_model("gelu", "atto").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(Refused, match=r"weights\.pt: not the weights of this run"):
        roadmap.timm.load_trained(tmp_path)
