"""Cascade Mask R-CNN (Cai and Vasconcelos, 1906.09756) on any backbone, as ConvNeXt's appendix A.3 sets it.

Three stages, each on the boxes of the one before, ask for more and more overlap; each has its own mask head.
"""

from __future__ import annotations

from roadmap.config.schema import HeadConfig
from roadmap.tasks.dense.backbone import DenseBackbone
from roadmap.tasks.detection.regions import Detector, StageConfig

STAGES = (
    StageConfig(overlap=0.5, deviations=(0.1, 0.1, 0.2, 0.2), weight=1.0),
    StageConfig(overlap=0.6, deviations=(0.05, 0.05, 0.1, 0.1), weight=0.5),
    StageConfig(overlap=0.7, deviations=(0.033, 0.033, 0.067, 0.067), weight=0.25),
)


def cascade_mask_rcnn(backbone: DenseBackbone, head: HeadConfig, classes: int) -> Detector:
    """Cascade Mask R-CNN on this backbone for so many classes.

    Raises:
        Refused: where `head.proposal_loss` is none of proposals.

    """
    return Detector(backbone, head, classes, STAGES)
