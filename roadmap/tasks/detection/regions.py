"""What finds objects in proposed regions: stages of a box head and a mask head, one in Mask R-CNN, three in Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from roadmap.config.schema import Head, HeadConfig
from roadmap.data.dense.targets import Detections, Instances
from roadmap.tasks.dense.backbone import DenseNetwork
from roadmap.tasks.detection.parts import Proposals, RegionPool, Size, Targets, as_targets, box_loss, padded, target_masks

BOX_SIZE, MASK_SIZE = 7, 14  # to which regions are pooled; masks come out twice as large
BOXES, MASKS = 1000, 100  # regions that pass each box head and each mask head in published FLOPs
Maps = Mapping[str, Tensor]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class StageConfig:
    """What distinguishes the stages of a cascade."""

    overlap: float  # of a region with an object, from which it is one
    deviations: tuple[float, float, float, float]  # by which offsets of centre and size are divided
    weight: float  # of its losses


FIRST = StageConfig(overlap=0.5, deviations=(0.1, 0.1, 0.2, 0.2), weight=1.0)
STAGES = {
    Head.mask_rcnn: (FIRST,),
    Head.cascade_mask_rcnn: (
        FIRST,
        StageConfig(overlap=0.6, deviations=(0.05, 0.05, 0.1, 0.1), weight=0.5),
        StageConfig(overlap=0.7, deviations=(0.033, 0.033, 0.067, 0.067), weight=0.25),
    ),
}
"""Of Mask R-CNN (He et al., 1703.06870) and of Cascade Mask R-CNN (Cai and Vasconcelos, 1906.09756), as ConvNeXt's appendix A.3
sets them. A cascade's stages, each on the boxes of the one before, ask for more and more overlap; each has its own mask head."""


class Samples(NamedTuple):
    """The regions of one picture that a stage learns from."""

    boxes: Tensor  # (n, 4)
    labels: Tensor  # (n,), 0: background
    matched: Tensor  # (n,) the object that each is compared with
    is_truth: Tensor  # (n,) whether it is an object's own box
    objects: Tensor  # numbers of those that are no background; asked for once, as a GPU is waited for


class Stage(RoIHeads):
    """torchvision's heads on a region, with the losses of `head`, and numbers in float32 under autocast too."""

    def __init__(self, head: HeadConfig, classes: int, config: StageConfig) -> None:
        width = head.channels
        super().__init__(
            RegionPool(BOX_SIZE),
            box_head(head),
            _predictor(head.box_channels, classes),
            fg_iou_thresh=config.overlap,
            bg_iou_thresh=config.overlap,
            batch_size_per_image=head.samples,
            positive_fraction=0.25,
            bbox_reg_weights=tuple(1 / deviation for deviation in config.deviations),
            score_thresh=head.score_threshold,
            nms_thresh=head.nms,
            detections_per_img=head.detections,
            mask_roi_pool=RegionPool(MASK_SIZE),
            mask_head=MaskRCNNHeads(width, [width] * head.mask_convolutions, dilation=1),
            mask_predictor=_zero_biases(MaskRCNNPredictor(width, width, classes)),
        )
        self.loss, self.weight, self.target_masks = head.box_loss, config.weight, target_masks

    def sample(self, proposals: list[Tensor], targets: Targets) -> list[Samples]:
        """Of the proposals and the objects themselves, a quarter on objects where there are so many."""
        truths, labels = [t["boxes"] for t in targets], [t["labels"] for t in targets]
        boxes = self.add_gt_proposals(proposals, truths)
        matched, found = self.assign_targets_to_proposals(boxes, truths, labels)
        return [
            Samples(own[chosen], its[chosen], at[chosen], chosen >= len(proposed), torch.where(its[chosen] > 0)[0])
            for own, its, at, proposed, chosen in zip(boxes, found, matched, proposals, self.subsample(found), strict=True)
        ]

    def classify(self, maps: Maps, boxes: list[Tensor], sizes: list[Size]) -> tuple[Tensor, Tensor]:
        """Of all boxes logits (n, classes + 1), the background's first, and offsets (n, classes, 4)."""
        logits, offsets = self.box_predictor(self.box_head(self.box_roi_pool(maps, boxes, sizes)))
        return logits.float(), offsets.float().unflatten(1, (-1, 4))

    def segment(self, maps: Maps, boxes: list[Tensor], labels: Tensor, sizes: list[Size]) -> Tensor:
        """Logits (n, 28, 28) of the mask of each box, for its label (n,)."""
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes, sizes))).float()
        return _of_labels(logits, labels)

    def losses(self, maps: Maps, samples: list[Samples], targets: Targets, sizes: list[Size]) -> tuple[Losses, list[Tensor]]:
        """The stage's losses, times its weight, and the boxes that it makes of the samples."""
        boxes, labels = [one.boxes for one in samples], torch.cat([one.labels for one in samples])
        logits, offsets = self.classify(maps, boxes, sizes)
        losses = {
            "classes": functional.cross_entropy(logits, labels),
            "boxes": self._box_loss(offsets, samples, targets),
            "masks": self._mask_loss(maps, samples, targets, sizes),
        }
        found = torch.where(labels > 0, labels, surest(logits))
        refined = self.refine(boxes, offsets.detach(), found, sizes)
        kept = [own[~one.is_truth] for own, one in zip(refined, samples, strict=True)]
        return {name: self.weight * value for name, value in losses.items()}, kept

    def refine(self, boxes: list[Tensor], offsets: Tensor, labels: Tensor, sizes: list[Size]) -> list[Tensor]:
        """The boxes moved by the offsets of their labels (n,), inside their pictures."""
        moved = self.box_coder.decode_single(_of_labels(offsets, labels), torch.cat(boxes)).split([len(one) for one in boxes])
        return [clip_boxes_to_image(one, size) for one, size in zip(moved, sizes, strict=True)]

    def _box_loss(self, offsets: Tensor, samples: list[Samples], targets: Targets) -> Tensor:
        """Of the regions on objects, divided by the number of all."""
        boxes, labels = (torch.cat([getattr(one, name) for one in samples]) for name in ("boxes", "labels"))
        on = torch.where(labels > 0)[0]
        truth = torch.cat([t["boxes"][one.matched[one.objects]] for one, t in zip(samples, targets, strict=True)])
        return box_loss(self.loss, self.box_coder, _of_labels(offsets[on], labels[on]), boxes[on], truth) / len(labels)

    def _mask_loss(self, maps: Maps, samples: list[Samples], targets: Targets, sizes: list[Size]) -> Tensor:
        """Mean over the pixels of the regions on objects; 0 without any, of which every weight learns nothing."""
        labels = torch.cat([one.labels[one.objects] for one in samples])
        logits = self.segment(maps, [one.boxes[one.objects] for one in samples], labels, sizes)
        if not len(labels):
            return logits.sum()
        truth = [
            self.target_masks(t["masks"], one.boxes[one.objects], one.matched[one.objects], logits.shape[-1])
            for one, t in zip(samples, targets, strict=True)
            if len(one.objects)
        ]
        return functional.binary_cross_entropy_with_logits(logits, torch.cat(truth))


def _of_labels(values: Tensor, labels: Tensor) -> Tensor:
    """(n, ...): of values (n, classes, ...) each one's for its label (n,), which count from 1."""
    return values[torch.arange(len(labels), device=labels.device), labels - 1]


def surest(logits: Tensor) -> Tensor:
    """The likeliest class (n,) of logits (n, classes + 1), the background aside."""
    return logits[:, 1:].argmax(1) + 1


class Detector(DenseNetwork):
    """Pictures (3, h, w) to their `Detections`; in training, with their objects, to the named losses, whose sum is the loss.

    Losses are means over the micro-batch, in float32. Crowds are not for training: leave them out before.
    """

    regions: Any  # a list of `Stage`

    def __init__(self, network: nn.Module, head: HeadConfig, classes: int) -> None:
        super().__init__(network, head)
        self.pyramid = FeaturePyramidNetwork(self.channels, head.channels, LastLevelMaxPool())
        self.proposals = Proposals(head)
        self.regions = nn.ModuleList(Stage(head, classes, stage) for stage in STAGES[head.name])

    def forward(self, images: Sequence[Tensor], targets: Sequence[Instances] | None = None) -> Losses | list[Detections]:
        """See the class."""
        batch = padded(images)
        maps = self.pyramid({str(i): features for i, features in enumerate(self.maps(batch.tensors))})
        if not self.training:
            return self._detect(maps, self.proposals(batch, maps)[0], batch.image_sizes)
        assert targets is not None
        truth = as_targets(targets)
        proposals, losses = self.proposals(batch, maps, truth)
        found = {"objectness": losses["loss_objectness"], "proposals": losses["loss_rpn_box_reg"]}
        return found | self._losses(maps, proposals, truth, batch.image_sizes)

    def run_head(self, maps: list[Tensor]) -> None:
        """See `DenseNetwork.run_head`: in each stage `BOXES` regions pass the box head, `MASKS` the mask head."""
        pyramid = self.pyramid({str(i): features for i, features in enumerate(maps)})
        self.proposals.head(list(pyramid.values()))
        width = maps[0].new_zeros(1).expand(next(iter(pyramid.values())).shape[1])
        for stage in self.regions:
            boxes, masks = (
                width[None, :, None, None].expand(regions, -1, side, side)
                for regions, side in ((BOXES, BOX_SIZE), (MASKS, MASK_SIZE))
            )
            stage.box_predictor(stage.box_head(boxes))
            stage.mask_predictor(stage.mask_head(masks))

    def _losses(self, maps: Maps, boxes: list[Tensor], targets: Targets, sizes: list[Size]) -> Losses:
        """Each stage learns from the boxes that the one before it made."""
        losses: Losses = {}
        for number, stage in enumerate(self.regions, 1):
            own, boxes = stage.losses(maps, stage.sample(boxes, targets), targets, sizes)
            losses |= {f"{name}_{number}" if len(self.regions) > 1 else name: value for name, value in own.items()}
        return losses

    def _detect(self, maps: Maps, boxes: list[Tensor], sizes: list[Size]) -> list[Detections]:
        """The stages' logits averaged, the last one's boxes; a mask is the mean of the stages'."""
        total: Tensor | float = 0.0
        for stage in self.regions[:-1]:
            logits, offsets = stage.classify(maps, boxes, sizes)
            total, boxes = total + logits, stage.refine(boxes, offsets, surest(logits), sizes)
        last = self.regions[-1]
        logits, offsets = last.classify(maps, boxes, sizes)
        mean = (total + logits) / len(self.regions)
        with_background = functional.pad(offsets.flatten(1), (4, 0))
        found, scores, labels = last.postprocess_detections(mean, with_background, boxes, sizes)
        masks = [stage.segment(maps, found, torch.cat(labels), sizes).sigmoid() for stage in self.regions]
        each = torch.stack(masks).mean(0).split([len(one) for one in found])
        return [Detections(b, s, n - 1, m, size) for b, s, n, m, size in zip(found, scores, labels, each, sizes, strict=True)]


def box_head(head: HeadConfig) -> nn.Module:
    """A pooled region to its features: two fully connected layers, or convolutions with norms and one."""
    shape, convolutions = (head.channels, BOX_SIZE, BOX_SIZE), [head.channels] * head.box_convolutions
    linear = [head.box_channels] * (1 if convolutions else 2)
    made = FastRCNNConvFCHead(shape, convolutions, linear, norm_layer=nn.BatchNorm2d)
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return _zero_biases(made)


def _predictor(channels: int, classes: int) -> nn.Module:
    """Class and box from a region's features; at first, nearly none is preferred and no box moves."""
    made = FastRCNNPredictor(channels, classes + 1)
    made.bbox_pred = nn.Linear(channels, 4 * classes)
    nn.init.normal_(made.cls_score.weight, std=0.01)
    nn.init.normal_(made.bbox_pred.weight, std=0.001)
    return _zero_biases(made)


def _zero_biases(module: nn.Module) -> nn.Module:
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
    return module
