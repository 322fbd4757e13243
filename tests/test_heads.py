"""Detection and segmentation networks on any step: backbones, heads, losses, layers of the learning rate."""

import pytest
import torch
from torch import nn

from roadmap.base.errors import Refused
from roadmap.config.schema import BackboneNorm, BoxLoss, Head, HeadConfig, ModelConfig, OutputNorm
from roadmap.config.steps import known_steps
from roadmap.data.dense.targets import Instances
from roadmap.model.check import compose_run
from roadmap.model.decay import decay_layers
from roadmap.model.network import Network
from roadmap.tasks.dense.backbone import DenseNetwork, backbone_network, synchronise
from roadmap.tasks.dense.layers import Pool
from roadmap.tasks.detection.parts import Anchors, RegionPool, box_loss, padded, target_masks
from roadmap.tasks.detection.regions import Detector
from roadmap.tasks.segmentation.upernet import UPerNet

STEPS = list(known_steps())
TINY_HEAD = {"channels": 16, "box_channels": 32, "samples": 64, "proposals_train": 100, "proposals_test": 50, "aux_channels": 16}


def network_of(step, scale="atto", *settings, classes=0):
    model = compose_run([f"scale={scale}", f"+step={step}", *settings]).model
    return backbone_network(model, None, classes=classes)


def backbone_of(step, scale="atto", *settings, kind=DenseNetwork, **head):
    return kind(network_of(step, scale, *settings), HeadConfig(**head))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# The backbone


@pytest.mark.parametrize("step", STEPS)
def test_a_step_gives_four_maps_and_every_weight_has_a_gradient(step):
    backbone = backbone_of(step, "atto", "model.depths=[1,1,1,1]")
    maps = backbone.maps(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [name for name, weight in backbone.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("reference", ["swin_tiny_patch4_window7_224", "resnet18", "convnext_atto"])
def test_a_timm_model_is_a_backbone_for_images_of_any_size(reference):
    backbone = DenseNetwork(backbone_network(ModelConfig(drop_path=0.0), reference), HeadConfig())
    maps = backbone.maps(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]
    sum(m.square().sum() for m in maps).backward()
    assert [name for name, weight in backbone.named_parameters() if weight.grad is None] == []


def test_the_maps_are_what_the_classifiers_stages_put_out():
    network = network_of("gelu", classes=10).eval()
    images = torch.randn(1, 3, 64, 64)
    _, expected = network.forward_intermediates(images)
    maps = DenseNetwork(network, HeadConfig(output_norm=OutputNorm.none)).eval().maps(images)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, expected, strict=True))


def test_output_norms_are_fresh_layer_norms_over_channels():
    maps = backbone_of("resnet").maps(torch.randn(1, 3, 64, 64))
    assert all(m.mean(1).abs().max() < 1e-5 and (m.var(1, unbiased=False) - 1).abs().max() < 0.02 for m in maps)


def test_a_classifiers_weights_load_under_the_prefix():
    trained, network = network_of("kernel_7", classes=10), backbone_of("kernel_7")
    state = {f"backbone.{name}": weight for name, weight in trained.state_dict().items() if not name.startswith("head.")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("norms.") for name in missing)


def test_a_network_without_such_maps_is_refused():
    with pytest.raises(Refused, match="VisionTransformer cannot be a backbone: its maps have the strides 16"):
        DenseNetwork(backbone_network(ModelConfig(drop_path=0.0), "vit_tiny_patch16_224"), HeadConfig())


def test_frozen_norms_keep_their_statistics_and_weights_in_training():
    network = network_of("resnet")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    backbone = DenseNetwork(network, HeadConfig(backbone_norm=BackboneNorm.frozen)).train()
    backbone.maps(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    norms = {name: m for name, m in backbone.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms and all(not m.training and not m.weight.requires_grad and not m.bias.requires_grad for m in norms.values())
    assert all(torch.equal(value, before[name]) for name, value in backbone.backbone.state_dict().items())
    assert backbone.norms[0].weight.requires_grad and backbone.training


@pytest.mark.parametrize("norm", BackboneNorm)
def test_only_a_synced_backbone_is_synchronised_the_head_always(norm):
    class Plain(DenseNetwork):
        def __init__(self, network, head):
            super().__init__(network, head)
            self.own = nn.Sequential(nn.BatchNorm2d(4))

    network = synchronise(backbone_of("resnet", kind=Plain, backbone_norm=norm))
    synced = any(isinstance(m, nn.SyncBatchNorm) for m in network.backbone.modules())
    assert synced == (norm == BackboneNorm.sync) and isinstance(network.own[0], nn.SyncBatchNorm)


# Layers of the learning rate


class WithHead(DenseNetwork):
    def __init__(self, network, head):
        super().__init__(network, head)
        self.fpn = nn.Conv2d(1, 1, 1)


def layers_of(step, scale="tiny", layers=6, by_stage=False):
    with torch.device("meta"):
        return decay_layers(backbone_of(step, scale, kind=WithHead), layers, by_stage)


def test_convnext_tiny_has_the_papers_layers():
    ids = layers_of("separate_downsampling")
    stages = {
        (stage, block): ids[f"backbone.stages.{stage}.blocks.{block}.branch.0.conv.weight"]
        for stage, depth in enumerate((3, 3, 9, 3))
        for block in range(depth)
    }
    assert ids["backbone.stem.layer.conv.weight"] == ids["backbone.stem.norm.bias"] == 0
    assert [ids[f"backbone.stages.{s}.downsampling.{p}.weight"] for s in (1, 2, 3) for p in ("0", "1.conv")] == [2, 2, 3, 3, 6, 6]
    assert stages == {(s, b): (1, 2, 3 + b // 3, 6)[s] for s, b in stages}
    assert ids["norms.0.weight"] == ids["norms.3.bias"] == ids["fpn.weight"] == 7


@pytest.mark.parametrize("scale", ["small", "base"])
def test_larger_convnexts_have_twelve_layers(scale):
    ids = layers_of("separate_downsampling", scale, layers=12)
    third = [ids[f"backbone.stages.2.blocks.{block}.branch.0.conv.weight"] for block in range(27)]
    assert third == [3 + block // 3 for block in range(27)]
    assert ids["backbone.stages.3.blocks.0.scale.gamma"] == 12 and ids["fpn.bias"] == 13


@pytest.mark.parametrize(("layers", "scale"), [(6, "tiny"), (12, "small")])
def test_by_stage_the_downsamplings_are_the_stems(layers, scale):
    ids = layers_of("separate_downsampling", scale, layers, by_stage=True)
    assert {ids[f"backbone.stages.{s}.downsampling.1.conv.weight"] for s in (1, 2, 3)} == {0}
    assert [ids[f"backbone.stages.{s}.blocks.2.branch.0.conv.weight"] for s in range(4)] == [1, 2, 3, 4]
    assert ids["backbone.stem.layer.conv.bias"] == 0 and ids["norms.1.weight"] == layers + 1


@pytest.mark.parametrize("step", STEPS)
def test_no_step_has_degenerate_layers(step):
    assert set(layers_of(step).values()) == set(range(8))
    assert set(layers_of(step, "small", 12).values()) == set(range(14))
    assert set(layers_of(step, by_stage=True).values()) == {0, 1, 2, 3, 4, 7}


def test_references_have_layers_too():
    with torch.device("meta"):
        swin = WithHead(backbone_network(ModelConfig(drop_path=0.0), "swin_tiny_patch4_window7_224"), HeadConfig())
    ids = decay_layers(swin, 6)
    assert set(ids.values()) == set(range(8))
    assert [ids[f"backbone.layers.2.blocks.{b}.attn.qkv.weight"] for b in range(6)] == [3, 3, 4, 4, 5, 5]
    assert ids["backbone.layers.3.downsample.norm.weight"] == 6 and ids["backbone.patch_embed.proj.weight"] == 0
    by_stage = decay_layers(swin, 6, by_stage=True)
    assert by_stage["backbone.layers.3.downsample.norm.weight"] == 0 and by_stage["norms.0.weight"] == 7


def test_timms_own_grouping_puts_the_head_on_top():
    from timm.models import group_parameters

    with torch.device("meta"):
        network = Detector(network_of("gelu", "tiny"), HeadConfig(**CASCADE), 3)
    ids = group_parameters(network, network.group_matcher(), reverse=True)
    own = {name: layer for name, layer in ids.items() if name.startswith("backbone.")}
    assert isinstance(network.backbone, Network) and set(own.values()) == set(range(7))
    assert own["backbone.stages.2.blocks.8.branch.0.conv.weight"] == 5
    assert {layer for name, layer in ids.items() if name not in own} == {7}


# UPerNet


def upernet_of(step="gelu", classes=5, **head):
    settings = HeadConfig(**{**TINY_HEAD, "name": Head.upernet, **head})
    return UPerNet(network_of(step, "atto", "model.depths=[1,1,1,1]"), settings, classes)


def test_upernets_head_has_as_many_parameters_as_published():
    head = HeadConfig(name=Head.upernet, channels=512)
    with torch.device("meta"):
        network = UPerNet(network_of("separate_downsampling", "tiny"), head, 150)
    counted = [sum(w.numel() for w in part.parameters()) for part in (network.decoder, network.classifier)]
    assert sum(counted) == 31_497_366
    assert round(sum(w.numel() for w in network.parameters()) / 1e6) == 60


def test_upernet_gives_logits_of_the_images_size():
    network, images = upernet_of(), torch.randn(2, 3, 64, 96)
    logits, auxiliary = network(images)
    assert logits.shape == auxiliary.shape == (2, 5, 64, 96)
    assert network.eval()(images[:1]).shape == (1, 5, 64, 96)
    assert upernet_of(aux_weight=0.0)(images)[1] is None


def test_upernet_sends_gradients_to_every_weight():
    network = upernet_of("resnet")
    logits, auxiliary = network(torch.randn(2, 3, 64, 64))
    (logits * torch.randn_like(logits) + auxiliary * torch.randn_like(auxiliary)).sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_upernet_refuses_to_train_on_one_image_alone():
    network = upernet_of()
    with pytest.raises(Refused, match=r"recipe\.micro_batch must be at least 2"):
        network(torch.randn(1, 3, 64, 64))
    upernet_of(pools=[2, 3])(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("size", [(4, 6), (7, 5), (1, 2)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_pools_are_torchs(size, cells):
    x = torch.randn(2, 3, *size)
    assert torch.allclose(Pool(cells)(x), nn.functional.adaptive_avg_pool2d(x, cells), atol=1e-6)


# Detectors

MASK_RCNN = {**TINY_HEAD, "name": Head.mask_rcnn}
CASCADE_LOSSES = {"box_loss": BoxLoss.giou, "proposal_loss": BoxLoss.smooth_l1}
CASCADE = {**TINY_HEAD, "name": Head.cascade_mask_rcnn, "box_convolutions": 2, **CASCADE_LOSSES}
BOTH = pytest.mark.parametrize("settings", [MASK_RCNN, CASCADE], ids=["mask", "cascade"])


def detector_of(settings, step="gelu", classes=3, *coordinates):
    coordinates = coordinates or ("model.depths=[1,1,1,1]",)
    return Detector(network_of(step, "atto", *coordinates), HeadConfig(**settings), classes)


def picture(height, width, boxes):
    """Noise with bright rectangles, each in the colour of its class."""
    image, masks = torch.randn(3, height, width) * 0.1, torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes):
        image[number % 3, top:bottom, left:right] += 2
        masks[number, top:bottom, left:right] = 1
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    no_crowd = torch.zeros(len(boxes), dtype=torch.bool)
    return image, Instances(corners, torch.arange(len(boxes)) % 3, masks, no_crowd, (height, width), 0)


@BOTH
@pytest.mark.parametrize("step", ["resnet", "separate_downsampling"])
def test_a_detector_sends_gradients_to_every_weight(settings, step):
    network = detector_of(settings, step)
    images, targets = zip(picture(96, 128, [(10, 10, 50, 60), (70, 30, 120, 80)]), picture(80, 96, []), strict=True)
    losses = network(images, targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@BOTH
def test_pictures_without_objects_train_every_weight_and_give_no_nan(settings):
    network = detector_of(settings)
    image, nothing = picture(64, 64, [])
    losses = network((image,), (nothing,))
    assert losses["masks" if settings is MASK_RCNN else "masks_3"] == 0 and all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


@BOTH
def test_losses_are_float32_under_autocast(settings):
    network = detector_of(settings)
    image, objects = picture(96, 128, [(10, 10, 50, 60)])
    with torch.autocast("cpu", torch.bfloat16):
        losses = network((image,), (objects,))
        found = network.eval()((image,))[0]
        batch = padded((image,))
        maps = network.pyramid({str(i): m for i, m in enumerate(network.maps(batch.tensors))})
        proposed = network.proposals(batch, maps)[0][0]
    assert maps["0"].dtype == torch.bfloat16 and proposed.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32


@BOTH
def test_detections_lie_in_their_own_picture(settings):
    network = detector_of({**settings, "detections": 7}).eval()
    with torch.no_grad():
        found = network((torch.randn(3, 96, 128), torch.randn(3, 50, 70)))
    for one, (height, width) in zip(found, [(96, 128), (50, 70)], strict=True):
        assert one.size == (height, width) and len(one.boxes) == len(one.scores) == len(one.labels) == 7
        assert one.masks.shape == (7, 28, 28) and one.masks.min() >= 0 and one.masks.max() <= 1
        assert one.boxes.min() >= 0 and one.boxes[:, 2].max() <= width and one.boxes[:, 3].max() <= height
        assert set(one.labels.tolist()) <= {0, 1, 2} and torch.equal(one.scores, one.scores.sort(descending=True).values)


def test_padding_is_zeros_below_and_to_the_right():
    batch = padded((torch.ones(3, 40, 30), torch.ones(3, 20, 65)))
    assert batch.tensors.shape == (2, 3, 64, 96) and batch.image_sizes == [(40, 30), (20, 65)]
    assert batch.tensors[0, :, :40, :30].all() and batch.tensors.sum() == 3 * (40 * 30 + 20 * 65)


def test_anchors_are_exact_and_as_far_apart_as_the_strides():
    maps = [torch.zeros(1, 1, -(-800 // stride), -(-1280 // stride)) for stride in (4, 8, 16, 32, 64)]
    (anchors,) = Anchors(8.0)(padded((torch.zeros(3, 800, 1280),)), maps)
    coarsest = anchors[-13 * 20 * 3 :].view(13, 20, 3, 4)
    sides = coarsest[0, 0, :, 2:] - coarsest[0, 0, :, :2]
    assert torch.allclose(sides.prod(1), torch.full((3,), 512.0**2))
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]))
    assert torch.equal(coarsest[1, 0] - coarsest[0, 0], torch.tensor([0.0, 64, 0, 64]).expand(3, 4))


def test_regions_are_pooled_aligned_from_the_map_of_their_size():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)  # the centre of column i lies at 4 * (i + 0.5) pixels
    maps = {str(level): ramp if level == 0 else torch.full((1, 1, 64 >> level, 64 >> level), -float(level)) for level in range(4)}
    boxes = [torch.tensor([[16.0, 16, 44, 44], [0, 0, 120, 120], [0, 0, 230, 230], [0, 0, 250, 900]])]
    pooled = RegionPool(7)(maps, boxes, [(256, 256)])
    assert torch.allclose(pooled[0, 0, 0], torch.arange(4.0, 11.0))
    assert [pooled[i, 0, 0, 0].item() for i in (1, 2, 3)] == [-1, -2, -3]


def test_target_masks_are_zeros_and_ones_inside_the_box():
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[1, 8:16, 8:16] = 1
    (found,) = target_masks(masks, torch.tensor([[8.0, 8, 24, 16]]), torch.tensor([1]), 28)
    assert set(found.unique().tolist()) == {0.0, 1.0} and found[:, :14].all() and not found[:, 14:].any()


def test_a_cascades_stages_ask_for_more_overlap_and_count_less():
    stages = detector_of(CASCADE).regions
    assert [stage.proposal_matcher.high_threshold for stage in stages] == [0.5, 0.6, 0.7]
    assert [stage.weight for stage in stages] == [1.0, 0.5, 0.25]
    assert [round(1 / stage.box_coder.weights[0], 3) for stage in stages] == [0.1, 0.05, 0.033]
    assert [round(1 / stage.box_coder.weights[3], 3) for stage in stages] == [0.2, 0.1, 0.067]


def test_losses_of_boxes_are_those_of_their_names():
    from torchvision.models.detection._utils import BoxCoder

    coder, still, box = BoxCoder((10.0, 10.0, 5.0, 5.0)), torch.zeros(1, 4), torch.tensor([[0.0, 0, 10, 10]])
    half, shifted = torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([[0.05, 0, 10.05, 10]])  # offsets of 0.05 in x, so weighed
    assert box_loss(BoxLoss.giou, coder, still, box, half).item() == pytest.approx(10 * 0.5)
    assert box_loss(BoxLoss.l1, coder, still, box, shifted).item() == pytest.approx(0.05, rel=1e-4)
    assert box_loss(BoxLoss.smooth_l1, coder, still, box, shifted).item() == pytest.approx(0.05**2 / 2 * 9, rel=1e-4)


def test_a_stage_hands_its_boxes_on_but_not_the_objects_own():
    network = detector_of(CASCADE)
    image, objects = picture(96, 128, [(10, 10, 50, 60), (70, 30, 120, 80)])
    stage, targets = network.regions[0], [{"boxes": objects.boxes, "labels": objects.labels + 1, "masks": objects.masks}]
    proposals = [torch.tensor([[12.0, 12, 50, 60], [0, 0, 20, 20], [200, 0, 220, 20]])]
    (samples,) = stage.sample(proposals, targets)
    assert len(samples.boxes) == 5 and samples.is_truth.sum() == 2 and sorted(samples.labels.tolist()) == [0, 0, 1, 1, 2]
    nn.init.zeros_(stage.box_predictor.bbox_pred.weight)
    maps = network.pyramid({str(i): m for i, m in enumerate(network.maps(padded((image,)).tensors))})
    _, (refined,) = stage.losses(maps, [samples], targets, [(96, 128)])
    assert torch.allclose(refined, torch.tensor([[12.0, 12, 50, 60], [0, 0, 20, 20], [128, 0, 128, 20]]))  # unmoved, cut off


def test_giou_is_not_for_proposals():
    with pytest.raises(Refused, match=r"head\.proposal_loss=giou: proposals have l1 or smooth_l1"):
        detector_of({**MASK_RCNN, "proposal_loss": BoxLoss.giou})


# Against torchvision


def torchvisions_twin(reference):
    """Our Mask R-CNN at step `resnet`, with torchvision's settings and its model's weights."""
    from torchvision.models.detection.roi_heads import project_masks_on_boxes
    from torchvision.ops import MultiScaleRoIAlign

    from roadmap.model.weights import RESNET, _timm_name

    losses = {"box_loss": BoxLoss.smooth_l1, "proposal_loss": BoxLoss.smooth_l1, "output_norm": OutputNorm.none}
    head = HeadConfig(name=Head.mask_rcnn, proposals_train=2000, **losses)
    network = Detector(network_of("resnet", "tiny", "model.drop_path=0"), head, 90)
    network.proposals.anchor_generator = reference.rpn.anchor_generator
    (stage,) = network.regions
    stage.box_roi_pool, stage.mask_roi_pool = (MultiScaleRoIAlign(list("0123"), size, 2) for size in (7, 14))
    stage.target_masks = lambda masks, boxes, matched, size: project_masks_on_boxes(masks, boxes, matched, size)
    theirs = reference.state_dict()
    parts = {
        "pyramid.": "backbone.fpn.",
        "proposals.head.conv.": "rpn.head.conv.0.0.",
        "proposals.head.": "rpn.head.",
        "regions.0.box_head.1.": "roi_heads.box_head.fc6.",
        "regions.0.box_head.3.": "roi_heads.box_head.fc7.",
        "regions.0.": "roi_heads.",
    }

    def their_name(name):
        if name.startswith("backbone."):
            return "backbone.body." + _timm_name(name.removeprefix("backbone."), RESNET)
        return next(other + name.removeprefix(own) for own, other in parts.items() if name.startswith(own))

    state = network.state_dict()
    assert len(state) == len(theirs)
    for name in state:
        if "bbox_pred" in name or "mask_fcn_logits" in name:  # no rows for the background, which come first
            theirs[their_name(name)] = theirs[their_name(name)][-len(state[name]) :]
    network.load_state_dict({name: theirs[their_name(name)].reshape(value.shape) for name, value in state.items()})
    return network


def test_mask_rcnn_at_the_first_step_is_torchvisions():
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    reference = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    reference.transform.resize = lambda image, target: (image, target)  # `_skip_resize` skips it in training alone
    network = torchvisions_twin(reference)
    pictures = picture(96, 128, [(10, 10, 60, 90), (50, 30, 120, 80)]), picture(64, 96, [(5, 5, 60, 60)])
    images, targets = zip(*pictures, strict=True)
    torch.manual_seed(1)
    ours = network(images, targets)
    torch.manual_seed(1)
    theirs = reference(images, [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks} for t in targets])
    assert theirs["loss_mask"] > 0 and theirs["loss_box_reg"] > 0
    assert torch.allclose(torch.stack(list(ours.values())), torch.stack([theirs[name] for name in (
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")]), rtol=1e-4)  # fmt: skip
    for predictor in (network.regions[0].box_predictor, reference.roi_heads.box_predictor):
        nn.init.normal_(predictor.cls_score.weight, std=1.0, generator=torch.Generator().manual_seed(2))  # sure of some
    with torch.no_grad():
        found, expected = network.eval()(images), reference.eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert len(one.boxes) == len(other["boxes"]) > 0 and torch.equal(one.labels + 1, other["labels"])
        assert torch.allclose(one.boxes, other["boxes"], atol=1e-2) and torch.allclose(one.scores, other["scores"], atol=1e-4)
        pasted = paste_masks_in_image(one.masks[:, None], one.boxes, one.size)
        assert torch.allclose(pasted, other["masks"], atol=1e-3)


# Learning two pictures by heart

SMALL_DETECTOR = {
    "channels": 32,
    "box_channels": 128,
    "mask_convolutions": 2,
    "samples": 64,
    "proposals_train": 128,
    "proposals_test": 64,
    "anchor_scale": 4.0,
    "detections": 20,
}
PICTURES = (
    (96, 128, [(10, 10, 50, 60), (70, 30, 120, 80)]),
    (128, 96, [(6, 70, 60, 120), (50, 8, 90, 40), (20, 20, 44, 50)]),
)


def learn(network, loss, updates, rate):
    """The losses of each update."""
    optimizer, seen = torch.optim.AdamW(network.parameters(), rate), []
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (update + 1) / 20) * (0.1 if update > 0.75 * updates else 1)
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(value.item())
    return torch.tensor(seen)


@BOTH
def test_a_detector_learns_two_pictures_by_heart(settings, storm, figure):
    network = detector_of({**settings, **SMALL_DETECTOR}, "gelu", 3, "model.drop_path=0")
    images, targets = zip(*(picture(*one) for one in PICTURES), strict=True)
    losses = learn(network, lambda: sum(network(images, targets).values()), 300 if storm else 24, 1e-3)
    assert losses.isfinite().all() and losses[-4:].mean() < (0.1 if storm else 0.6) * losses[0]
    if storm:
        score = average_precision(network.eval(), images, targets)
        figure(", ".join(f"{name} {score[name]:.1f}" for name in ("box_ap", "box_ap50", "mask_ap", "mask_ap50")))
        assert min(score["box_ap50"], score["mask_ap50"]) > 99 and min(score["box_ap"], score["mask_ap"]) > 85


def average_precision(network, images, targets):
    from roadmap.tasks.detection.score import AveragePrecision

    class Alone:
        def gather(self, value):
            return [value]

    scorer = AveragePrecision()
    with torch.no_grad():
        scorer.update(network(images), [target._replace(index=i) for i, target in enumerate(targets)])
    return scorer.compute(Alone())


def test_upernet_learns_two_pictures_by_heart(storm):
    network = upernet_of("gelu", classes=3)
    images, maps = torch.randn(2, 3, 64, 64) * 0.1, torch.zeros(2, 64, 64, dtype=torch.long)
    for number, (left, top, side) in enumerate([(8, 8, 32), (24, 20, 36)]):
        images[number, number, top : top + side, left : left + side] += 2
        maps[number, top : top + side, left : left + side] = number + 1

    def loss():
        return sum(weight * nn.functional.cross_entropy(out, maps) for weight, out in zip((1, 0.4), network(images), strict=True))

    losses = learn(network, loss, 150 if storm else 40, 8e-3)
    right = (network.train()(images)[0].argmax(1) == maps).float().mean()
    assert losses.isfinite().all() and losses[-1] < 0.5 * losses[0] and right > (0.97 if storm else 0.85)
