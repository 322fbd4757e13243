"""Networks that other tools take: torch.fx, TorchScript, torch.export, ONNX, torch.compile, torch.func, and libraries on top."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.export import Dim
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor

import roadmap.timm  # noqa: F401
from roadmap.config.steps import networks
from roadmap.model.front import build_model
from roadmap.model.layers import FEW_POSITIONS, Pointwise

KINDS = ["resnet", "gelu", "separate_downsampling", "grn"]  # strides in blocks and between, either norm, layer scale, GRN
SIZES = [(1, 3, 64, 64), (5, 3, 96, 64), (2, 3, 133, 70), (3, 3, 256, 256)]  # of a map of 2 x 2 positions and more
DYNAMIC = {"x": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}

every_kind = pytest.mark.parametrize("step", KINDS)


def small(step, **options):
    """A step's network whose layer scale and norms do something, as a trained one's."""
    network = build_model(step, "atto", num_classes=10, depths=[1, 1, 1, 1], width=8, **options).eval()
    for weight in network.parameters():
        if weight.ndim == 1:
            nn.init.uniform_(weight, 0.5, 1.0)
    return network


def test_there_is_something_to_choose_between():
    """The images below are on both sides of the number of positions that decides between product and convolution."""
    positions = {size[0] * (size[2] // stride) * (size[3] // stride) for size in SIZES for stride in (4, 8, 16, 32)}
    assert min(positions) < FEW_POSITIONS < max(positions)
    assert any(isinstance(module, Pointwise) for module in small("gelu").modules())


@pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning")  # of torch.fx's own GraphModule
@pytest.mark.parametrize("step", networks())
def test_fx_traces_a_network_and_torchscript_compiles_it(step):
    network = small(step, drop_path=0.5)
    traced = torch.fx.symbolic_trace(network)
    compiled = [torch.jit.script(program) for program in (network, traced)]
    for size in SIZES[:2]:
        images = torch.randn(size)
        expected = network(images)
        assert torch.equal(traced(images), expected)
        for program in compiled:  # which fuses
            torch.testing.assert_close(program(images), expected, atol=1e-5, rtol=1e-4)


@every_kind
def test_a_traced_network_trains(step):
    network = small(step, drop_path=0.5).train()
    traced = torch.fx.symbolic_trace(network)
    images, results = torch.randn(4, 3, 64, 64), []
    for program in (network, traced):
        torch.manual_seed(0)
        network.zero_grad()
        program(images).square().sum().backward()
        results.append([weight.grad.clone() for weight in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.fixture(scope="module", params=KINDS)
def exported(request):
    """A network, and its program for any number and size of images."""
    network = small(request.param)
    return network, torch.export.export(network, (torch.randn(2, 3, 128, 96),), dynamic_shapes=DYNAMIC)


def sizes_of_a_pool():
    """Those that torch's exporter lets a max-pool meet in one program: 2.11 binds it to the parity of the first."""
    pool = torch.export.export(nn.MaxPool2d(3, 2, 1), (torch.randn(2, 3, 64, 48),), dynamic_shapes={"input": DYNAMIC["x"]})
    try:
        pool.module()(torch.randn(2, 3, 63, 48))
    except AssertionError:
        return [size for size in SIZES if size[2] % 4 == size[3] % 4 == 0]
    return SIZES


def test_an_exported_network_takes_any_number_and_size_of_images(exported):
    network, program = exported
    for size in sizes_of_a_pool() if hasattr(network.stem, "pool") else SIZES:
        images = torch.randn(size)
        torch.testing.assert_close(program.module()(images), network(images), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about itself
def test_onnx_computes_the_same(exported):
    pytest.importorskip("onnxscript", reason="needs onnxscript, of the extra dev")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra dev")
    network, program = exported
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in SIZES:
        images = torch.randn(size)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(images), atol=1e-4, rtol=1e-3)
    assert "MatMul" not in {node.op_type for node in model.graph.node}  # a 1x1 convolution stays one, which runtimes know best


@pytest.mark.parametrize(("step", "dynamic"), [("resnet", False), ("gelu", False), ("separate_downsampling", True)])
def test_the_compiler_finds_one_graph(step, dynamic):
    network, graphs = small(step, drop_path=0.5).train(), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(network, fullgraph=True, dynamic=dynamic, backend=backend)
    images = torch.randn(2, 3, 64, 64)
    results = []
    for program in (network, compiled):
        torch.manual_seed(0)
        results.append(program(images))
    torch._dynamo.reset()
    assert torch.equal(*results)
    assert len(graphs) == 1


@every_kind
def test_functions_of_the_weights(step):
    """Gradients of each image by itself, by torch.func's vmap over grad, are those of images given one by one."""
    network, images = small(step), torch.randn(3, 3, 64, 64)
    weights, buffers = dict(network.named_parameters()), dict(network.named_buffers())

    def loss(weights, image):
        return torch.func.functional_call(network, (weights, buffers), image[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)
    for i in range(3):
        alone = torch.func.grad(loss)(weights, images[i])
        for name in weights:
            torch.testing.assert_close(each[name][i], alone[name], atol=1e-5, rtol=1e-3)


@every_kind
def test_an_ensemble_is_one_batch_of_weights(step):
    networks, images = [small(step) for _ in range(3)], torch.randn(2, 3, 64, 64)
    weights, buffers = torch.func.stack_module_state(networks)
    together = torch.func.vmap(lambda w, b: torch.func.functional_call(networks[0], (w, b), images))(weights, buffers)
    for network, outputs in zip(networks, together, strict=True):
        torch.testing.assert_close(outputs, network(images), atol=1e-5, rtol=1e-3)


@every_kind
@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
def test_a_feature_pyramid_of_torchvisions(step):
    network, images = small(step), torch.randn(1, 3, 64, 64)
    layers = {f"stages.{i}": str(i) for i in range(4)}
    found = create_feature_extractor(network, layers)(images)
    outputs = network.forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(found.values(), outputs, strict=True))
    backbone = timm.create_model(f"roadmap_{step}_atto", features_only=True)
    channels = backbone.feature_info.channels()
    pyramid = BackboneWithFPN(backbone, {name: name for name in backbone.return_layers}, channels, 16)
    assert [tuple(o.shape) for o in pyramid(images).values()] == [(1, 16, s, s) for s in (16, 8, 4, 2, 1)]


@pytest.mark.parametrize("kind", ["Unet", "FPN", "DeepLabV3Plus"])
def test_a_segmentation_model_of_another_library(kind):
    models = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation-models-pytorch, of the extra dev")
    network = getattr(models, kind)("tu-roadmap_gelu_atto", encoder_weights=None, classes=4).train()
    output = network(torch.randn(2, 3, 64, 64))
    assert output.shape == (2, 4, 64, 64)
    output.square().mean().backward()
    missing = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert all("encoder" not in name for name in missing)
