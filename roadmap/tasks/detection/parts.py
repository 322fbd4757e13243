"""torchvision's parts of a detector, set as the paper's detectors have them (appendix A.3), where torchvision has others.

| | torchvision | here |
|---|---|---|
| anchors | rounded to pixels; the coarsest map's stride is that of its rounded size | neither |
| pooling of regions | two samples a side, off by half a pixel | as many samples as pixels, aligned |
| loss of boxes | smooth L1 | by `head.box_loss` and `head.proposal_loss` |
| target masks | interpolated | 0 or 1 |
| outputs | a box and a mask for the background too, of which nothing learns | for classes alone |
| number types | those of autocast | boxes, scores and losses in float32 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import generalized_box_iou_loss, roi_align
from torchvision.ops._utils import convert_boxes_to_roi_format

from roadmap.base.errors import Refused
from roadmap.config.schema import BoxLoss, HeadConfig
from roadmap.data.dense.targets import Instances
from roadmap.tasks.dense.backbone import STRIDES

Targets = list[dict[str, Tensor]]
Size = tuple[int, int]
RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors
SMOOTH = {BoxLoss.l1: 0.0, BoxLoss.smooth_l1: 1 / 9}  # below it the loss is quadratic
GIOU_WEIGHT = 10.0
MULTIPLE = 32  # of which the sides of a batch are, the coarsest stride of the backbone
CANONICAL = 56  # pixels a side, up to whose double a region is pooled from the finest map


def padded(images: Sequence[Tensor]) -> ImageList:
    """Pictures (3, h, w) in the upper left corner of a batch (N, 3, H, W), zeros around them."""
    height, width = (-(-max(image.shape[side] for image in images) // MULTIPLE) * MULTIPLE for side in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for image, place in zip(images, batch, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return ImageList(batch, [(image.shape[1], image.shape[2]) for image in images])


def as_targets(instances: Sequence[Instances]) -> Targets:
    """What torchvision's parts are given: label 0 is their background."""
    return [{"boxes": one.boxes, "labels": one.labels + 1, "masks": one.masks} for one in instances]


class Anchors(AnchorGenerator):
    """Boxes around each position of the pyramid's five maps: a side of `scale` strides, in three ratios."""

    def __init__(self, scale: float) -> None:
        self.strides = (*STRIDES, 2 * STRIDES[-1])
        super().__init__(tuple((scale * stride,) for stride in self.strides), (RATIOS,) * len(self.strides))

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """(ratios, 4), around 0."""
        sides = [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for ratio in aspect_ratios for scale in scales]
        return torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides], dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The same anchors (A, 4) for each picture."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        sizes = [list(features.shape[-2:]) for features in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)


class ProposalHead(nn.Module):
    """Objectness and offsets of each anchor at each position, in float32: under autocast bfloat16 holds no pixel of a picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, len(RATIOS), 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """(N, C, h, w) of each map to (N, 3, h, w) and (N, 12, h, w)."""
        hidden = [functional.relu(self.conv(features)) for features in maps]
        return [self.cls_logits(one).float() for one in hidden], [self.bbox_pred(one).float() for one in hidden]


class Proposals(RegionProposalNetwork):
    """torchvision's region proposals, with another loss of boxes."""

    def __init__(self, head: HeadConfig) -> None:
        if head.proposal_loss not in SMOOTH:
            raise Refused(f"head.proposal_loss={head.proposal_loss}: proposals have {' or '.join(SMOOTH)}")
        super().__init__(
            Anchors(head.anchor_scale),
            ProposalHead(head.channels),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},  # of each map
            post_nms_top_n={"training": head.proposals_train, "testing": head.proposals_test},
            nms_thresh=0.7,
        )
        self.beta = SMOOTH[head.proposal_loss]

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Of a sample of the anchors, half of them on objects where there are so many."""
        positive, negative = (torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        expected = torch.cat(regression_targets)
        distance = functional.smooth_l1_loss(pred_bbox_deltas[positive], expected[positive], beta=self.beta, reduction="sum")
        of_objects = functional.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled])
        return of_objects, distance / len(sampled)


def box_loss(kind: BoxLoss, coder: BoxCoder, offsets: Tensor, boxes: Tensor, truth: Tensor) -> Tensor:
    """Summed over boxes (n, 4), from which `offsets` (n, 4) lead to `truth` (n, 4)."""
    if kind in SMOOTH:
        return functional.smooth_l1_loss(offsets, coder.encode_single(truth, boxes), beta=SMOOTH[kind], reduction="sum")
    return GIOU_WEIGHT * generalized_box_iou_loss(coder.decode_single(offsets, boxes), truth, reduction="sum")


class RegionPool(nn.Module):
    """Regions of four maps as (n, C, size, size), each from the map that fits its area (Lin et al., 1612.03144)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[Size]) -> Tensor:
        """`boxes`: (k, 4) of each picture, in its pixels."""
        regions = convert_boxes_to_roi_format(boxes)  # (n, 5): the picture's number before each box
        sides = (regions[:, 3:] - regions[:, 1:3]).clamp(min=0).prod(1).sqrt()
        levels = (sides / CANONICAL + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1)
        finest = next(iter(maps.values()))
        pooled = finest.new_zeros(len(regions), finest.shape[1], self.size, self.size)
        for level, (features, stride) in enumerate(zip(maps.values(), STRIDES, strict=False)):
            here = torch.where(levels == level)[0]
            found = roi_align(features, regions[here], self.size, 1 / stride, sampling_ratio=0, aligned=True)
            pooled[here] = found.to(pooled.dtype)
        return pooled


def target_masks(masks: Tensor, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """(k, size, size) of 0 and 1: of masks (n, H, W) those that are `matched` (k,), as far as they lie in boxes (k, 4)."""
    regions = torch.cat([matched[:, None].to(boxes), boxes], 1)
    return (roi_align(masks[:, None].to(boxes), regions, size, sampling_ratio=0, aligned=True)[:, 0] >= 0.5).to(boxes)
