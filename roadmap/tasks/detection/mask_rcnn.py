"""Mask R-CNN (He et al., 1703.06870) on any backbone, as ConvNeXt's appendix A.3 sets it."""

from __future__ import annotations

from roadmap.config.schema import HeadConfig
from roadmap.tasks.dense.backbone import DenseBackbone
from roadmap.tasks.detection.regions import Detector, StageConfig

STAGE = StageConfig(overlap=0.5, deviations=(0.1, 0.1, 0.2, 0.2), weight=1.0)


def mask_rcnn(backbone: DenseBackbone, head: HeadConfig, classes: int) -> Detector:
    """Mask R-CNN on this backbone for so many classes.

    Raises:
        Refused: where `head.proposal_loss` is none of proposals.

    """
    return Detector(backbone, head, classes, [STAGE])
