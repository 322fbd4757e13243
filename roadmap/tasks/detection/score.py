"""COCO's average precision and recall of boxes and masks, computed by faster-coco-eval as pycocotools computes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from torch import Tensor

from roadmap.base.files import write_atomic
from roadmap.base.tables import Column, as_csv
from roadmap.data.dense.targets import Detections, Instances
from roadmap.tasks.task import Processes

KINDS = {"box": "bbox", "mask": "segm"}
STATISTICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
COLUMNS = (
    Column("class", "class"),
    Column("objects", "objects"),
    *(
        Column(f"{kind}_{key}", f"{kind} {words}, %", "{:.2f}")
        for kind in KINDS
        for key, words in (("ap", "AP"), ("ap50", "AP50"))
    ),
)
CERTAIN = 0.5  # the probability from which on a pixel belongs to a mask

Annotation = dict[str, Any]  # one object, as COCO's JSON has it


class Scored(NamedTuple):
    """A picture with its objects and what was found in it, in the pixels of the stored picture."""

    number: int  # of the picture in its split
    size: tuple[int, int]  # height and width
    truth: list[Annotation]
    found: list[Annotation]


class AveragePrecision:
    """The twelve statistics of COCO for boxes and for masks, in percent; one that has no object to judge by is left out."""

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = classes
        self.pictures: list[Scored] = []

    def update(self, outputs: Sequence[Detections], targets: Sequence[Instances]) -> None:
        """Take in what was found in each picture, and its objects."""
        for detections, target in zip(outputs, targets, strict=True):
            found = _found(to_stored(detections, target.size))
            self.pictures.append(Scored(target.index, target.size, _truth(target), found))

    def compute(self, processes: Processes) -> dict[str, float]:
        """`box_ap`, `box_ap50`, ..., `mask_ar_large`, each picture counted once."""
        pictures = {picture.number: picture for picture in chain.from_iterable(processes.gather(self.pictures))}
        self.pictures = [pictures[number] for number in sorted(pictures)]
        return statistics(self.pictures)

    def write(self, folder: Path) -> list[Path]:
        """`classes.csv`."""
        file = folder / "classes.csv"
        write_atomic(file, as_csv(by_class(self.pictures, self.classes), COLUMNS))
        return [file]


class Found(NamedTuple):
    """What was found in a picture, in its own pixels, on the host."""

    boxes: Tensor  # (k, 4) float64: left, top, right, bottom
    scores: Tensor  # (k,)
    labels: Tensor  # (k,)
    masks: np.ndarray[Any, Any]  # (k, H, W) uint8


def to_stored(detections: Detections, size: tuple[int, int]) -> Found:
    """Boxes and masks on the stored picture, of this height and width, cut off at its sides."""
    scale = torch.tensor(size, dtype=torch.float64) / torch.tensor(detections.size, dtype=torch.float64)
    boxes = detections.boxes.detach().cpu().double() * scale.flip(0).repeat(2)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor(size[::-1], dtype=torch.float64).repeat(2))
    masks = np.zeros((len(boxes), size[1], size[0]), np.uint8).swapaxes(1, 2)  # column after column, as they are encoded
    for canvas, box, mask in zip(masks, boxes.numpy(), detections.masks.detach().float().cpu().numpy(), strict=True):
        paste(canvas, box, mask)
    return Found(boxes, detections.scores.detach().float().cpu(), detections.labels.cpu(), masks)


def paste(canvas: np.ndarray[Any, Any], box: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> None:
    """Set the pixels (H, W) inside a box whose probability, bilinear between those of the mask (M, M), is certain enough."""
    corners = np.ceil(box - 0.5).astype(int).reshape(2, 2).clip(0, canvas.shape[::-1])  # pixels whose centre is inside
    first, end = corners
    if (end <= first).any():
        return
    columns, rows = (_weights(first[axis], end[axis], box[axis], box[axis + 2], mask.shape[1 - axis]) for axis in (0, 1))
    canvas[first[1] : end[1], first[0] : end[0]] = rows @ mask @ columns.T >= CERTAIN


def _weights(first: int, end: int, low: float, high: float, cells: int) -> np.ndarray[Any, Any]:
    """What each of a box's cells weighs at the centre of each pixel (end - first, cells); beyond the last the last counts."""
    place = (np.arange(first, end) + 0.5 - low) / max(high - low, 1e-6) * cells - 0.5
    return np.clip(1 - np.abs(place.clip(0, cells - 1)[:, None] - np.arange(cells)), 0, None)


def _found(found: Found) -> list[Annotation]:
    parts = zip(found.boxes, found.labels.tolist(), found.scores.tolist(), _encoded(found.masks), strict=True)
    return [{**_object(box, label, mask), "score": score} for box, label, score, mask in parts]


def _truth(target: Instances) -> list[Annotation]:
    masks = target.masks.cpu().numpy()
    areas = masks.sum((1, 2)) if target.areas is None else target.areas.tolist()
    parts = zip(target.boxes.cpu().double(), target.labels.tolist(), _encoded(masks), areas, target.crowd.tolist(), strict=True)
    return [{**_object(box, label, mask), "area": float(area), "iscrowd": int(crowd)} for box, label, mask, area, crowd in parts]


def _object(box: Tensor, label: int, mask: Annotation) -> Annotation:
    left, top, right, bottom = box.tolist()
    return {"category_id": label + 1, "bbox": [left, top, right - left, bottom - top], "segmentation": mask}


def _encoded(masks: np.ndarray[Any, Any]) -> list[Annotation]:
    return rle.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []


# --- statistics ------------------------------------------------------------------------------------------------------


def statistics(pictures: Iterable[Scored]) -> dict[str, float]:
    """All of `KINDS` and `STATISTICS` that there is an object to judge by, in percent."""
    pictures = list(pictures)
    scores: dict[str, float] = {}
    for kind in KINDS:
        values = map(float, _evaluated(pictures, kind).stats[: len(STATISTICS)])
        scores |= {f"{kind}_{key}": 100 * value for key, value in zip(STATISTICS, values, strict=True) if value >= 0}
    return scores


def by_class(pictures: Sequence[Scored], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: its objects without crowds, and its average precision in percent, left out where it has none."""
    counts = Counter(one["category_id"] for picture in pictures for one in picture.truth if not one["iscrowd"])
    rows: list[dict[str, Any]] = [{"class": name, "objects": counts[label]} for label, name in enumerate(classes, 1)]
    for kind in KINDS:
        evaluation = _evaluated(pictures, kind)
        precision = evaluation.eval["precision"][..., 0, -1]  # (overlaps, recalls, labels): objects of any size, 100 a picture
        for place, label in enumerate(evaluation.params.catIds):
            if counts[label]:
                of_class = precision[..., place]
                rows[label - 1] |= {f"{kind}_ap": 100 * of_class.mean(), f"{kind}_ap50": 100 * of_class[0].mean()}
    return rows


def _evaluated(pictures: Sequence[Scored], kind: str) -> Any:
    # A result with a box is sized by its box: of masks the box is left out, so that their own area counts.
    left_out = () if kind == "box" else ("bbox",)
    numbers = count(1)
    truth, found = [], []
    for picture in pictures:
        place = {"image_id": picture.number}
        truth += [{**known, **place, "id": next(numbers)} for known in picture.truth]
        found += [{key: value for key, value in {**one, **place}.items() if key not in left_out} for one in picture.found]
    images = [{"id": picture.number, "height": picture.size[0], "width": picture.size[1]} for picture in pictures]
    labels = sorted({one["category_id"] for one in (*truth, *found)})
    known = COCO({"images": images, "annotations": truth, "categories": [{"id": label} for label in labels]})
    evaluation = COCOeval_faster(known, known.loadRes(found), KINDS[kind], print_function=lambda *_: None, rle_iou_max_workers=1)
    evaluation.run()
    return evaluation
