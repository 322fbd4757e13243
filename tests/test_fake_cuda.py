"""What can be known of a GPU without one: nothing mixes devices, nothing waits for the device, everything has its dtype."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from conftest import QUICK
from fake_cuda import CUDA, Mixed, Waited, aten, backward, devices, pretended_gpu
from runs import prepared, train
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import _pop_mode_temporarily
from torch.utils._pytree import tree_leaves

from roadmap.config.compose import compose
from roadmap.config.schema import Optimizer, Pipeline, Precision
from roadmap.config.steps import known_steps
from roadmap.data import loader, stream
from roadmap.data.dense import pipeline as dense
from roadmap.data.dense.targets import Instances
from roadmap.data.device.augment import NormalizeAndErase
from roadmap.data.device.dataset import Augmentation, Pictures
from roadmap.data.images import sources
from roadmap.data.stream import Crops
from roadmap.model.layers import Pointwise
from roadmap.tasks.choose import choose_task
from roadmap.tasks.classification import Accuracy
from roadmap.train import recipe as parts
from roadmap.train.evaluate import evaluate
from roadmap.train.precision import autocast
from roadmap.train.ranks import Ranks
from roadmap.train.readings import Readings
from roadmap.train.update import Update

GPU = Ranks(CUDA)
PAPER = [
    "recipe.mixup=0.8", "recipe.cutmix=1.0", "recipe.randaugment=rand-m9-mstd0.5-inc1", "recipe.random_erasing=0.9",
    "model.drop_path=0.3",
]  # fmt: skip
PRODUCTS = {aten.convolution, aten.convolution_backward, aten.mm, aten.addmm, torch.ops.roadmap.depthwise}
REDUCED = {aten.gelu, aten.gelu_backward, aten.relu_, aten.threshold_backward, aten.native_layer_norm}
NORMALISED = {aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit_no_training}
WHOLE = {aten._log_softmax, aten._log_softmax_backward_data, aten._fused_adamw_, aten.linalg_vector_norm}
# Of torch.use_deterministic_algorithms' documentation, those that raise on a GPU (torch 2.11 and 2.15 list the same).
UNORDERED = {
    aten._adaptive_avg_pool2d_backward, aten._adaptive_avg_pool3d_backward, aten.avg_pool3d_backward,
    aten.adaptive_max_pool2d_backward, aten.fractional_max_pool2d_backward, aten.fractional_max_pool3d_backward,
    aten.max_pool3d_with_indices_backward, aten.max_unpool2d, aten.max_unpool3d, aten.reflection_pad1d_backward,
    aten.reflection_pad2d_backward, aten.reflection_pad3d_backward, aten.upsample_linear1d_backward,
    aten.upsample_bilinear2d_backward, aten.upsample_bicubic2d_backward, aten.upsample_trilinear3d_backward,
    aten._upsample_bilinear2d_aa_backward, aten._upsample_bicubic2d_aa_backward, aten.nll_loss2d_forward,
    aten.nll_loss2d_backward, aten._ctc_loss_backward, aten._embedding_bag_backward, aten.put_, aten.histc, aten.bincount,
    aten.median, aten.nanmedian, aten.grid_sampler_2d_backward, aten.grid_sampler_3d_backward, aten.scatter_reduce_,
}  # fmt: skip


def dtypes(arguments):
    return [value.dtype for value in tree_leaves(arguments) if isinstance(value, Tensor) and value.is_floating_point()]


def check_dtypes(calls):
    """Products and activations read bfloat16, whatever is summed or kept is float32."""
    for func, arguments, _ in calls:
        operator, given = func.overloadpacket, dtypes(arguments)
        if operator in PRODUCTS | REDUCED:
            assert set(given) == {torch.bfloat16}, operator
        elif operator in NORMALISED:
            assert given[0] == torch.bfloat16, operator
            assert set(given[1:]) == {torch.float32}, operator
        elif operator in WHOLE:
            assert set(given) == {torch.float32}, operator


def check_repeatable(calls):
    """Nothing that `runtime.deterministic=true` would be refused for on a GPU."""
    for func, arguments, _ in calls:
        assert func.overloadpacket not in UNORDERED, func
        assert func.overloadpacket is not aten.cumsum or not dtypes(arguments), "a cumulative sum of floats"


def on_the_device(*settings, classes="0123456789", micro_batches=2):
    """The update of a network, in bfloat16."""
    experiment = compose([*QUICK, *settings])
    task = choose_task(experiment, classes)
    network = task.network(experiment.model, experiment.reference).to(CUDA, memory_format=torch.channels_last)
    optimizer = parts.optimizer(experiment.recipe, network)
    clip = parts.clipping(experiment.recipe)
    return Update(network, optimizer, task, Precision.bfloat16, GPU, micro_batches, clip)


@pytest.mark.parametrize("step", known_steps())
def test_every_step_trains_and_is_scored_without_waiting(step, monkeypatch):
    monkeypatch.setattr(Accuracy, "compute", lambda self, _: {"top1": 0.0, "sums": self.sums})
    with pretended_gpu() as watch:
        update = on_the_device(f"+step={step}", *PAPER, micro_batches=1)
        batch = update.task.dummy_batch(8, CUDA)
        with watch.closely():
            numbers = update([batch], lambda k: None)
            sums = evaluate(update.network, update.task, [batch], Precision.bfloat16, GPU)["sums"]
        check_dtypes(watch.calls)
        check_repeatable(watch.calls)
        for values, dtype, size in ((numbers, torch.float32, 3), (sums, torch.float64, 4)):
            assert (values.device, values.dtype, values.shape) == (CUDA, dtype, (size,))
        for name, weight in update.network.named_parameters():
            assert (weight.grad.device, weight.grad.dtype) == (CUDA, torch.float32), name
        for product in (module for module in update.network.modules() if isinstance(module, Pointwise)):
            assert product.weight.grad.stride() == product.weight.stride()  # or each update copies it
        assert all(buffer.device == CUDA for buffer in update.network.buffers())


DENSE = ["scale=atto", "data=scenes", "recipe=dense_short", "recipe.batch_size=4", "data.image_size=64", "head.channels=8"]
CLASSES = ("a", "b", "c")


@pytest.fixture
def fixed_order():
    """As `runtime.deterministic=true` sets torch."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("step", ["resnet", "inverted_bottleneck", "separate_downsampling"])
def test_a_segmenter_trains_and_is_scored_without_waiting_and_in_a_fixed_order(step, fixed_order):
    with pretended_gpu() as watch:
        update = on_the_device(f"+step={step}", *DENSE, "task=segmentation", classes=CLASSES, micro_batches=1)
        batch, scorer = update.task.dummy_batch(4, CUDA), update.task.scorer(CUDA)
        with watch.closely():
            numbers = update([batch], lambda k: None)
            update.network.eval()
            with torch.inference_mode(), autocast(Precision.bfloat16, CUDA):
                (scores, *_) = update.task.outputs(update.network, batch.images)
                scorer.update([scores], batch.targets[:1])
        check_dtypes(watch.calls)
        check_repeatable(watch.calls)
        assert (numbers.device, scores.device, scores.shape) == (CUDA, CUDA, (3, 64, 64))
        assert (scorer.counts.device, scorer.counts.shape) == (CUDA, (3, 3))
        assert all(weight.grad is not None and weight.grad.device == CUDA for weight in update.network.parameters())


TORCHVISION = {  # what of its detectors waits for a GPU, and where it is ours to ask: how many regions there are
    "AnchorGenerator.set_cell_anchors", "BoxCoder.decode_single", "BoxCoder.encode_single", "RoIHeads.subsample",
    "BalancedPositiveNegativeSampler.__call__", "Matcher.set_low_quality_matches_", "RegionProposalNetwork.filter_proposals",
    "remove_small_boxes", "_batched_nms_coordinate_trick", "nms", "_autocast_nms", "RoIHeads.postprocess_detections",
    "_loss_inter_union", "Update.__call__",  # a mask as an index of its own, forth and back
}  # fmt: skip
OURS = {"RegionPool.forward": 8, "Proposals.compute_loss": 2, "Stage.sample": 1, "Stage._box_loss": 1, "Stage.losses": 1}


@pytest.mark.parametrize(("head", "stages"), [("mask_rcnn", 1), ("cascade_mask_rcnn", 3)])
def test_a_detector_waits_where_regions_are_counted_and_nowhere_else(head, stages):
    with pretended_gpu() as watch:
        watch.answers = 5
        update = on_the_device("+step=gelu", *DENSE, "task=detection", f"head={head}", classes=CLASSES, micro_batches=1)
        batch = update.task.dummy_batch(1, CUDA)  # of one picture, so that all questions about it agree
        with watch.closely():
            numbers = update([batch], lambda k: None)
            asked = dict(watch.reads)
            update.network.eval()
            with torch.no_grad(), autocast(Precision.bfloat16, CUDA):  # fake tensors take no number to a device in inference mode
                (found,) = update.task.outputs(update.network, batch.images)
        assert {name: count for name, count in asked.items() if name not in TORCHVISION} == {
            name: count * (1 if name.startswith("Proposals") else stages) for name, count in OURS.items()
        }
        assert watch.reads.keys() - TORCHVISION == OURS.keys()  # in evaluation
        assert watch.reads["RegionPool.forward"] == 2 * asked["RegionPool.forward"]
        check_dtypes(watch.calls)
        assert (numbers.device, numbers.dtype, numbers.shape) == (CUDA, torch.float32, (3,))
        assert {(part.device, part.dtype) for part in (found.boxes, found.scores, found.masks)} == {(CUDA, torch.float32)}
        assert all(weight.grad is not None and weight.grad.device == CUDA for weight in update.network.parameters())


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_dense_batches_go_to_the_device_without_waiting(task, monkeypatch):
    experiment = compose([*QUICK, "+step=gelu", *DENSE, f"task={task}"])
    found = sources.checked_images(experiment.data, 4, experiment.task.name.target)
    with pretended_gpu() as watch:
        data = choose_task(experiment, found.classes).batches(0, found, CUDA)
        masks = pinned(3, 60, 64) if task == "detection" else pinned(60, 64)
        known = Instances(
            pinned(3, 4, dtype=torch.float32), pinned(3, dtype=torch.int64), masks, pinned(3, dtype=torch.bool), (64, 64), 0
        )
        items = [(pinned(3, 60, 64), known if task == "detection" else masks)] * 4
        monkeypatch.setattr(dense, "read", lambda _: [items])
        with watch.closely():
            for batches in (data.epoch(0), data.evaluation()):
                (batch,) = batches
                assert all(tensor.device == CUDA for tensor in batch.images)
                assert [(image.dtype, image.shape[0]) for image in batch.images] == [(torch.float32, 3)] * 4
        host = {tensor.device.type for tensor in batch.targets[0] if isinstance(tensor, Tensor)}
        assert host == ({"cpu"} if task == "detection" else {"cuda"})  # objects are scored on the host


def test_fused_adamw_is_told_on_the_device_what_to_hold_back():
    with pretended_gpu() as watch:
        update = on_the_device("+step=gelu")
        with watch.closely():
            update([update.task.dummy_batch(8, CUDA)] * 2, lambda k: None)
        steps = [arguments for func, arguments, _ in watch.calls if func.overloadpacket is aten._fused_adamw_]
        check_repeatable(watch.calls)  # with another loss, nothing being mixed
        assert len(steps) == 2  # with weight decay, and without
        assert all(value.device == CUDA for value in tree_leaves(steps) if isinstance(value, Tensor))
        assert (update.held_back.shape, update.held_back.dtype) == ((), torch.float32)


@pytest.mark.parametrize("clip", ["norm", "value"])
@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_no_optimizer_waits_and_each_holds_back_on_the_device(monkeypatch, optimizer, clip):
    told = []
    for module in ("lamb", "muon", "adamw"):  # counts of updates, which are on the host in any case
        monkeypatch.setattr(sys.modules[f"timm.optim.{module}"], "_get_value", lambda count: 1.0)
    for name in ("_fused_sgd_", "_fused_adamw_"):  # torch knows no shapes of the first
        monkeypatch.setattr(torch, name, lambda *tensors, found_inf, **_: told.append(devices(tensors, found_inf)))
    with pretended_gpu() as watch:
        update = on_the_device("+step=gelu", f"recipe.optimizer={optimizer}", "recipe.clip_grad=1", f"recipe.clip_mode={clip}")
        with watch.closely():
            update([update.task.dummy_batch(8, CUDA)] * 2, lambda k: None)
        check_repeatable(watch.calls)
        put_back = [result for func, _, result in watch.calls if func.overloadpacket is aten.where]
        assert all(found == {CUDA} for found in told)
        assert bool(told) == optimizer.facts.fused == (len(put_back) < len(update.weights))


def read_nothing(self):
    """The numbers of an update, had they arrived: they may be waited for, being some updates late."""
    values, _, known = self.waiting.popleft()
    assert values.pinned
    return [0.0] * len(values) + known


def pinned(*shape, dtype=torch.uint8):
    return torch.empty(*shape, dtype=dtype, pin_memory=True)


def images_read(data_loader):
    """What a loader's processes send."""
    for keys in data_loader.batch_sampler:
        yield pinned(len(keys), 3, 32, 32), pinned(len(keys), dtype=torch.int64)


def crops_read(data_loader):
    """Likewise, where augmentation is left to the device."""
    for request in data_loader.sampler:
        count = len(request.indices)
        yield Crops(pinned(count * 20 * 30, 3), np.full((count, 2), (20, 30)), pinned(count, dtype=torch.int64))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("pipeline", [Pipeline.loader, Pipeline.stream, Pipeline.device])
def test_an_epoch_never_waits(tmp_path, tiny_images, monkeypatch, pipeline, precision):
    """From the first batch to the score of the averaged weights; what is prepared once may wait."""
    settings = [f"recipe.precision={precision}", f"data.pipeline={pipeline}", "recipe.ema=0.9", "runtime.compile=none"]
    images = ["data=folder", f"data.path={tiny_images}", "data.image_size=32", "recipe.batch_size=4", "recipe.micro_batch=2"]
    experiment = compose(["+step=resnet", *QUICK, *PAPER, *images, *settings, "recipe.epochs=1", f"output={tmp_path}"])
    monkeypatch.setattr(Readings, "_read", read_nothing)
    monkeypatch.setattr(loader, "read", images_read)
    monkeypatch.setattr(stream, "read", crops_read)
    monkeypatch.setattr(Accuracy, "compute", lambda self, _: {"top1": 0.0})
    with pretended_gpu() as watch:
        run = prepared(experiment, GPU)
        assert run.data.name == pipeline
        with watch.closely():
            assert len(train(run)) == 1
        averaged = run.state.average.module.state_dict().values()
        assert all(value.device == CUDA and value.dtype in (torch.float32, torch.int64) for value in averaged)
    assert run.state.totals.images == 0
    assert run.state.epoch == 1


@pytest.mark.parametrize("kernels", [False, True])
def test_all_of_the_papers_augmentation_stays_on_the_device(kernels):
    experiment = compose(["+step=gelu", *PAPER, "data.image_size=40"])
    data, recipe, sizes = experiment.data, experiment.recipe, np.full(200, 50)
    with pretended_gpu(kernels) as watch:
        augmentation = Augmentation(data, recipe, 0, NormalizeAndErase(data, recipe, 0, CUDA))
        pixels, targets = torch.empty(200 * 50 * 50, 3, dtype=torch.uint8, device=CUDA), torch.empty(200, device=CUDA)
        pictures = Pictures(pixels, targets, np.arange(200) * 50 * 50, sizes, sizes)
        with watch.closely():
            images = augmentation(pictures, np.arange(200), augmentation.draw(0, 200))
        assert (images.device, images.dtype, images.shape) == (CUDA, torch.float32, (200, 3, 40, 40))
        assert images.is_contiguous(memory_format=torch.channels_last)
    wide = [
        func for func, arguments, _ in watch.calls if func.overloadpacket is aten.bmm and dtypes(arguments)[0] != torch.float64
    ]
    assert not wide  # its sums are exact in float64 alone


@pytest.mark.parametrize("step", ["resnet", "separate_downsampling"])
def test_the_compiler_takes_a_network_whole(step):
    """With autocast and our own operator: what breaks the graph raises, and a number of the host would keep out CUDA graphs."""
    graphs, operators = [], []

    def backend(graph, inputs):
        graphs.append(devices(inputs))
        operators.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    with pretended_gpu(), _pop_mode_temporarily(), torch.autocast("cuda", dtype=torch.bfloat16):  # it knows no watching mode
        update = on_the_device(f"+step={step}", *PAPER)
        update.network.compile(dynamic=False, fullgraph=True, backend=backend)
        outputs = update.network(update.task.dummy_batch(8, CUDA).images)
        assert (outputs.device, outputs.dtype) == (CUDA, torch.bfloat16)
    torch._dynamo.reset()
    assert graphs == [{CUDA}]
    assert (torch.ops.roadmap.depthwise.default in operators) == (step == "separate_downsampling")


WAITING = {
    "a value is read": lambda tensor: tensor.sum().item(),
    "a value is asked": lambda tensor: bool(tensor.isfinite().all()),
    "a list is read": lambda tensor: tensor.tolist(),
    "places are counted": lambda tensor: tensor.nonzero(),
    "a mask selects": lambda tensor: tensor[tensor > 0],
    "values go to the host": lambda tensor: tensor.cpu(),
    "values go to the host later": lambda tensor: torch.empty(4).copy_(tensor, non_blocking=True),
    "numbers come from the host": lambda tensor: torch.tensor([1.0, 2.0], device=tensor.device),
    "devices are mixed": lambda tensor: tensor + torch.ones(4),
    "a number on the host is among those of the device": lambda tensor: torch.stack([tensor[0], torch.zeros(())]),
    "indices are on the host": lambda tensor: tensor.index_select(0, torch.tensor([0])),
}


@pytest.mark.parametrize("fault", WAITING)
def test_these_tests_see_it_when(fault):
    seen = (DataDependentOutputException, DynamicOutputShapeException, Mixed, Waited, RuntimeError)
    with pretended_gpu() as watch, watch.closely(), pytest.raises(seen):
        WAITING[fault](torch.ones(4, device=CUDA))


def test_these_tests_see_it_when_a_gradient_has_no_fixed_order():
    with pretended_gpu() as watch:
        images = torch.ones(1, 3, 8, 8, device=CUDA, requires_grad=True)
        with watch.closely():
            torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear").sum().backward()
    with pytest.raises(AssertionError, match="upsample_bilinear2d_backward"):
        check_repeatable(watch.calls)


def test_gradients_walked_in_python_are_those_of_torch():
    experiment = compose(["+step=separate_downsampling", *QUICK])
    task = choose_task(experiment, "0123456789")
    network, batch = task.network(experiment.model, None), task.dummy_batch(2, torch.device("cpu"))
    gradients = []
    for walk in (Tensor.backward, backward):
        network.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        walk(task.loss(network, batch._replace(images=batch.images + 1)))
        gradients.append([weight.grad for weight in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(math.isfinite(gradient.sum()) for gradient in gradients[0])
