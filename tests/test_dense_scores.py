"""Scores of detection and segmentation: equal to pycocotools', whoever saw which picture."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from conftest import SHARED
from pycocotools import mask as reference_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from roadmap.base.errors import Refused
from roadmap.config.schema import Device, Precision
from roadmap.data.dense.targets import Detections, Instances
from roadmap.tasks.detection import score
from roadmap.tasks.detection.score import STATISTICS, AveragePrecision, Scored, paste, statistics, to_stored
from roadmap.tasks.segmentation.inference import at_scales, slide
from roadmap.tasks.segmentation.score import Confusion
from roadmap.tasks.segmentation.task import Segmentation
from roadmap.train.evaluate import evaluate
from roadmap.train.ranks import process_group


class Alone:
    def total_(self, values):
        return values

    def gather(self, value):
        return [value]


def reference(pictures, kind):
    """The twelve statistics by pycocotools, in percent, those without an object left out."""
    truth, found = [], []
    for picture in pictures:
        truth += [{**one, "image_id": picture.number, "id": len(truth) + place + 1} for place, one in enumerate(picture.truth)]
        for one in picture.found:
            found.append({key: value for key, value in one.items() if key != ("bbox" if kind == "mask" else "")})
            found[-1]["image_id"] = picture.number
    known = COCO()
    known.dataset = {
        "info": {},
        "images": [{"id": picture.number, "height": picture.size[0], "width": picture.size[1]} for picture in pictures],
        "annotations": truth,
        "categories": [{"id": label} for label in sorted({one["category_id"] for one in truth + found})],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(found), score.KINDS[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {f"{kind}_{key}": 100 * value for key, value in zip(STATISTICS, evaluation.stats, strict=True) if value >= 0}


def assert_equal_to_pycocotools(pictures):
    ours = statistics(pictures)
    theirs = reference(pictures, "box") | reference(pictures, "mask")
    assert list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1e-9)
    return ours


def encoded(mask):
    return reference_masks.encode(np.asfortranarray(mask))


def blob(random, size, most):
    """An ellipse somewhere in a picture, as a mask."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    tall, wide = random.integers(3, most, 2)
    row, column = random.integers(0, size[0]), random.integers(0, size[1])
    return (((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1).astype(np.uint8)


def annotation(mask, label, **more):
    coded = encoded(mask)
    box = [float(side) for side in reference_masks.toBbox(coded)]
    return {"category_id": label, "bbox": box, "segmentation": coded, **more}


def shaken(random, mask, label, pixels=4):
    """A detection that is the object moved by some pixels."""
    moved = np.roll(mask, tuple(random.integers(-pixels, pixels + 1, 2)), (0, 1))
    return annotation(moved, label, score=float(random.random()))


def random_pictures(seed, count=12):
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        size = tuple(int(side) for side in random.integers(120, 260, 2))
        truth, found = [], []
        for _ in range(random.integers(0, 8)):
            mask, label = blob(random, size, random.choice([8, 30, 90])), int(random.integers(1, 5))
            crowd = int(random.random() < 0.15)
            truth.append(annotation(mask, label, area=float(mask.sum()), iscrowd=crowd))
            found += [shaken(random, mask, label) for _ in range(random.integers(0, 4))]
        found += [annotation(blob(random, size, 40), int(random.integers(1, 6)), score=float(random.random())) for _ in range(3)]
        pictures.append(Scored(number * 3, size, truth, found))
    return pictures


@pytest.mark.parametrize("seed", range(3))
def test_random_detections_score_as_in_pycocotools(seed):
    scores = assert_equal_to_pycocotools(random_pictures(seed))
    assert 1 < scores["box_ap"] < 99 and len(scores) == 24


def test_ties_and_more_than_a_hundred():
    random = np.random.default_rng(5)
    masks = [blob(random, (200, 200), 25) for _ in range(140)]
    truth = [annotation(mask, 1, area=float(mask.sum()), iscrowd=0) for mask in masks]
    found = [{**shaken(random, mask, 1), "score": 0.5} for mask in masks]
    assert_equal_to_pycocotools([Scored(0, (200, 200), truth, found)])


def test_nothing_found_scores_nothing():
    pictures = [picture._replace(found=[]) for picture in random_pictures(0)]
    scores = statistics(pictures)
    assert set(scores.values()) == {0.0} and scores["mask_ap"] == 0.0


def test_sizes_without_objects_are_left_out():
    mask = np.zeros((100, 100), np.uint8)
    mask[10:20, 10:20] = 1
    picture = Scored(0, (100, 100), [annotation(mask, 1, area=100.0, iscrowd=0)], [annotation(mask, 1, score=1.0)])
    scores = statistics([picture])
    assert scores["box_ap_small"] == 100 and "box_ap_medium" not in scores and "mask_ar_large" not in scores
    assert all(value == 100 for value in scores.values())


def from_photographs(name):
    with zipfile.ZipFile(SHARED / f"{name}.zip") as archive:
        content = json.loads(archive.read(f"{name}/instances_val.json"))
    for image in content["images"]:
        own = [known for known in content["annotations"] if known["image_id"] == image["id"]]
        truth = [{key: value for key, value in known.items() if key not in ("id", "image_id")} for known in own]
        yield Scored(image["id"], (image["height"], image["width"]), truth, [])


@pytest.mark.photographs
@pytest.mark.parametrize("name", ["nuclei256", "coco53"])
def test_real_objects(name):
    """Objects given as detections score 100; moved by some pixels, what pycocotools says, crowds included."""
    random, moved, perfect = np.random.default_rng(1), [], []
    for picture in from_photographs(name):
        masks = [score.rle.decode(known["segmentation"]) for known in picture.truth]
        labels = [known["category_id"] for known in picture.truth]
        moved.append(picture._replace(found=[shaken(random, *pair) for pair in zip(masks, labels, strict=True)]))
        exact = [{**known, "score": 0.9} for known in picture.truth if not known["iscrowd"]]
        perfect.append(
            picture._replace(found=[{key: one[key] for key in ("category_id", "bbox", "segmentation", "score")} for one in exact])
        )
    scores = assert_equal_to_pycocotools(moved)
    assert 5 < scores["box_ap"] < 90
    ideal = {key: value for key, value in statistics(perfect).items() if "ar1" not in key}
    crowded = name == "nuclei256"  # pictures with more than a hundred nuclei
    assert all(value > (80 if crowded else 99.999) for value in ideal.values())


# --- pasting and sharing ---------------------------------------------------------------------------------------------


def test_masks_are_pasted_at_their_pixels():
    canvas = np.zeros((20, 30), np.uint8)
    cells = np.zeros((4, 4), np.float32)
    cells[:2] = 1  # the upper half
    paste(canvas, np.array([4.0, 2.0, 20.0, 10.0]), cells)
    expected = np.zeros((20, 30), np.uint8)
    expected[2:6, 4:20] = 1
    assert np.array_equal(canvas, expected)


def test_detections_are_scaled_to_the_stored_picture():
    ones = torch.ones(3, 28, 28)
    boxes = torch.tensor([[8.0, 4, 16, 12], [-3, -3, 200, 200], [5, 5, 5, 9]])
    found = to_stored(Detections(boxes, torch.rand(3), torch.zeros(3, dtype=torch.long), ones, (80, 120)), (40, 30))
    assert found.boxes.tolist() == [[2, 2, 4, 6], [0, 0, 30, 40], [1.25, 2.5, 1.25, 4.5]]
    assert found.masks.sum((1, 2)).tolist() == [8, 1200, 0]


def updates(pictures):
    """The same pictures as a network and a pipeline give them: (detections, instances)."""
    for picture in pictures:
        masks = torch.from_numpy(
            np.array([score.rle.decode(one["segmentation"]) for one in picture.truth]).reshape(-1, *picture.size)
        )
        truth = torch.tensor([one["bbox"] for one in picture.truth], dtype=torch.float64).reshape(-1, 4)
        found = torch.tensor([one["bbox"] for one in picture.found]).reshape(-1, 4)
        for boxes in (truth, found):
            boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([one["score"] for one in picture.found])
        labels = [
            torch.tensor([one["category_id"] - 1 for one in part], dtype=torch.long) for part in (picture.found, picture.truth)
        ]
        crowd = torch.tensor([bool(one["iscrowd"]) for one in picture.truth])
        areas = torch.tensor([one["area"] for one in picture.truth])
        yield (
            Detections(found, scores, labels[0], torch.ones(len(found), 14, 14), picture.size),
            Instances(truth, labels[1], masks, crowd, picture.size, picture.number, areas),
        )


class Several(Alone):
    def __init__(self, scorers):
        self.scorers = scorers

    def gather(self, value):
        return [scorer.pictures for scorer in self.scorers]


def test_who_saw_a_picture_does_not_matter():
    pictures = list(updates(random_pictures(7)))
    alone, shared = AveragePrecision(), [AveragePrecision() for _ in range(3)]
    for place, (found, target) in enumerate(pictures):
        alone.update([found], [target])
        shared[place % 3].update([found], [target])
    shared[1].update(*[[part] for part in pictures[0]])  # as a sampler would that pads
    scores = alone.compute(Alone())
    assert scores == shared[2].compute(Several(shared))
    expected = statistics(random_pictures(7))
    boxes = [key for key in expected if key.startswith("box")]
    assert [scores[key] for key in boxes] == pytest.approx([expected[key] for key in boxes], abs=0.5)  # float32 scores tie


# --- maps ------------------------------------------------------------------------------------------------------------


def confusion(classes=4):
    return Confusion([f"c{number}" for number in range(classes)], torch.device("cpu"))


def test_union_and_accuracy_by_hand():
    scorer = confusion()
    target = torch.tensor([[0, 0, 1, 255], [0, 1, 1, 255]])
    given = torch.tensor([[0, 1, 1, 2], [0, 1, 0, 0]])
    scorer.update([torch.nn.functional.one_hot(given, 4).permute(2, 0, 1)], [target])
    assert scorer.compute(Alone()) == pytest.approx(
        {"miou": 50, "pixel_accuracy": 100 * 4 / 6, "iou_c0": 50, "iou_c1": 50}  # c2 is given to a pixel that counts nowhere
    )
    scorer.add(torch.tensor([3]), torch.tensor([0]))  # a class that is nowhere, but was given
    assert scorer.compute(Alone()) == pytest.approx(
        {"miou": (200 / 5 + 50) / 3, "pixel_accuracy": 100 * 4 / 7, "iou_c0": 40, "iou_c1": 50, "iou_c3": 0}
    )
    assert confusion().compute(Alone()) == {}


def test_pictures_without_anything_to_judge_by_are_refused():
    with process_group(Device.cpu) as ranks, pytest.raises(Refused, match="no mIoU: the pictures that are scored hold nothing"):
        evaluate(torch.nn.Identity(), Segmentation, [], Precision.float32, ranks, scorer=confusion())


def test_scores_are_compared_at_the_size_of_the_map():
    scores = torch.zeros(2, 4, 4)
    scores[0, :, :2] = scores[1, :, 2:] = 1
    scorer = confusion(2)
    target = torch.zeros(16, 16, dtype=torch.long)
    target[:, 8:] = 1
    scorer.update([scores], [target])
    assert scorer.compute(Alone())["miou"] == 100


def test_counts_are_summed_over_processes():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(0, 4, (2, 30, 20), generator=generator) for _ in range(5)]
    alone, halves = confusion(), (confusion(), confusion())
    for place, (given, target) in enumerate(maps):
        alone.add(given, target)
        halves[place % 2].add(given, target)

    class Two(Alone):
        def total_(self, values):
            return values.copy_(halves[0].counts + halves[1].counts)

    assert halves[0].compute(Two()) == alone.compute(Alone())
    assert alone.compute(Alone()) == alone.compute(Alone())  # and computing leaves the counts alone


def local(images):
    """A network that looks at single pixels: windows and scales of 1 change nothing."""
    return torch.cat([images, images[:, :1] * 2], 1)


def test_windows_cover_the_picture():
    image = torch.rand(3, 50, 90)
    sizes = []

    def network(images):
        sizes.append(images.shape)
        return local(images)

    assert torch.allclose(slide(network, image, 32, 20), local(image[None])[0])
    assert set(sizes) == {(1, 3, 32, 32)} and len(sizes) == 2 * 4
    assert torch.allclose(slide(network, image[:, :10, :20], 32, 20), local(image[None, :, :10, :20])[0])


def test_a_pixel_takes_the_mean_of_its_windows():
    def network(images):  # scores that tell the column in the window
        return torch.arange(4.0).expand(1, 1, 4, 4)

    scores = slide(network, torch.rand(3, 4, 6), 4, 2)
    assert scores[0, 0].tolist() == [0, 1, (2 + 0) / 2, (3 + 1) / 2, 2, 3]


def test_scales_and_mirror_images_are_averaged():
    image = torch.rand(3, 24, 40)
    assert torch.allclose(at_scales(lambda seen: local(seen[None])[0], image, (1.0,)), local(image[None])[0].softmax(0))
    sizes = []

    def left_is_certain(seen):
        sizes.append(tuple(seen.shape[1:]))
        scores = torch.zeros(2, *seen.shape[1:])
        scores[1, :, : seen.shape[2] // 2] = 50
        return scores

    scores = at_scales(left_is_certain, image)
    assert sizes[::2] == [(12, 20), (18, 30), (24, 40), (30, 50), (36, 60), (42, 70)] and len(sizes) == 12
    assert torch.allclose(scores.sum(0), torch.ones(24, 40))
    assert scores[1, 5, 3] == pytest.approx(0.75)  # certain, and even in the mirror
