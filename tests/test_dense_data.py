"""Dense data: what is refused before training, and that pictures, boxes, masks and maps stay together whatever is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runs import images_of
from torchvision.tv_tensors import Image

from roadmap.config.compose import compose
from roadmap.data.dense import transforms
from roadmap.data.dense.transforms import View, detection_view, fitting, segmentation_view, show_objects
from roadmap.data.images.inventory import IGNORED, Objects
from roadmap.data.images.scenes import fit_boxes
from roadmap.tasks.choose import choose_task

SMALL = ["task=detection", "data.image_size=80", "data.longest_side=150", "data.hflip=0.5", "recipe.short_sides=[64,96]"]
SMALL += ["recipe.crop_sides=[80,120]", "recipe.crop_range=[40,70]"]
PAPER = ["task=detection", "recipe=coco_1x", "data=coco", "data.path=."]
MAPS = ["task=segmentation", "data.longest_side=96", "data.hflip=0.5", "recipe.jitter=[0.5,2.0]", "recipe.crop_size=64"]
MAPS += ["recipe.class_share=0.75", "recipe.photometric=true"]


def composed(*words):
    return compose(["+step=gelu", "scale=atto", *words])


def settings(*words):
    experiment = composed(*words)
    return experiment.data, experiment.recipe


def jittered(low, high, side):
    return settings("task=detection", "data.hflip=0.5", f"recipe.jitter=[{low},{high}]", f"recipe.crop_size={side}")


def pipeline(*words, rank=0, world=1, seed=0):
    experiment = composed("data=scenes", "recipe.batch_size=8", "recipe.micro_batch=2", *words)
    found = images_of(experiment)
    return choose_task(experiment, found.classes).batches(seed, found, torch.device("cpu"), rank, world)


def rectangles(size, *boxes):
    """Objects that fill their boxes (left, top, right, bottom), of classes 0, 1, 2, ..."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return Objects(
        fit_boxes(masks), np.arange(len(boxes)), masks, np.zeros(len(boxes), bool), masks.sum((1, 2)).astype(np.float64)
    )


def painted(objects):
    """A picture in which each object has a level of its own, 50 apart, so that masks can be read off it."""
    levels = sum((mask.astype(int) * 50 * (label + 1) for mask, label in zip(objects.masks, objects.labels, strict=True)))
    return Image(torch.from_numpy(np.repeat(levels[None], 3, 0).astype(np.uint8)))


# --- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [settings(*SMALL), jittered(0.3, 2.0, 100)], ids=["detr", "jitter"])
def test_masks_and_boxes_stay_on_their_objects(asked):
    objects = rectangles((90, 120), (5, 10, 40, 50), (60, 30, 110, 80), (20, 60, 50, 85))
    kinds = set()
    for number in range(60):
        pixels, target = transforms.train_detection(*asked, painted(objects), objects, 7, np.random.default_rng(number))
        height, width = pixels.shape[1:]
        masks, boxes = target.masks, target.boxes
        assert target.index == 7 and masks.shape == (len(target.labels), *target.size) and target.size >= (height, width)
        assert not masks[:, height:].any() and not masks[:, :, width:].any()  # what is padded
        for mask, box, label in zip(masks, boxes, target.labels, strict=True):
            inside = mask[:height, :width].bool()
            levels = pixels[0][inside].float()
            if len(levels) > 50:
                assert (levels - 50 * (int(label) + 1)).abs().median() <= 1
            assert np.abs(box.numpy() - fit_boxes(mask[None].numpy())[0]).max() <= 1.5
        kinds.add(len(target.labels))
    assert len(kinds) >= 2  # some crops lose objects


def test_an_object_that_is_cut_is_fitted_to_what_is_left():
    masks = np.zeros((3, 20, 20), np.uint8)
    masks[0, 2, 2:18] = masks[0, 2:18, 2] = 1  # an angle: what is left of it below the view's top is its upright alone
    masks[1, 0:2, 0:20] = masks[1, 0:12, 19] = 1  # its box reaches into the view, its mask does not
    masks[2, 12:15, 12:15] = 1
    objects = Objects(fit_boxes(masks), np.arange(3), masks, np.zeros(3, bool), masks.sum((1, 2)).astype(float))
    target = show_objects(objects, View(5, 0, 15, 15, (30, 30)), 0)
    assert target.labels.tolist() == [0, 2]
    assert target.boxes.tolist() == [[4, 0, 6, 26], [24, 14, 30, 20]]
    mirrored = show_objects(objects, View(5, 0, 15, 15, (30, 30), True), 0)
    assert mirrored.boxes.tolist() == [[24, 0, 26, 26], [0, 14, 6, 20]]
    assert torch.equal(mirrored.masks, target.masks.flip(2))


def test_a_whole_object_keeps_its_exact_box():
    objects = rectangles((20, 20), (4, 4, 10, 10))
    objects = objects._replace(boxes=np.array([[4.25, 4.5, 9.75, 9.9]]))
    assert show_objects(objects, View(0, 0, 20, 20, (40, 60)), 0).boxes.tolist() == [[12.75, 9, 29.25, pytest.approx(19.8)]]


def test_crowds_and_empty_objects_are_not_trained_on():
    objects = rectangles((20, 20), (4, 4, 10, 10), (0, 0, 20, 20), (1, 1, 3, 3), (8, 8, 9, 19))
    objects = objects._replace(crowd=np.array([False, True, False, False]))
    objects.boxes[2] = (1, 1, 1, 3)
    assert show_objects(objects, View(0, 0, 20, 20, (20, 20)), 0).labels.tolist() == [0, 3]
    assert show_objects(objects, View(0, 0, 20, 20, (10, 10)), 0).labels.tolist() == [0]  # the last is half a pixel wide
    nothing = rectangles((20, 20))
    target = show_objects(nothing, View(0, 0, 20, 20, (10, 15)), 0)
    assert target.boxes.shape == (0, 4) and target.masks.shape == (0, 10, 15)


def test_sizes_of_the_papers_recipe():
    """Shorter side 480 to 800, longer at most 1333; half the pictures cut to 384 to 600 of 400, 500 or 600 first."""
    views = [detection_view(*settings(*PAPER), (480, 640), np.random.default_rng(number)) for number in range(400)]
    whole = [view for view in views if (view.height, view.width) == (480, 640)]
    assert 150 < len(whole) < 250 and 150 < sum(view.mirrored for view in views) < 250
    assert {min(view.shown) for view in whole} == set(range(480, 801, 32))
    assert all(max(view.shown) <= 1333 and min(view.shown) <= 800 for view in views)
    cut = [view for view in views if view not in whole]
    assert all(
        384 / 600 <= view.height / 480 <= 1 and abs(view.width / view.height - view.shown[1] / view.shown[0]) < 0.02
        for view in cut
    )
    assert fitting((480, 640), 800, 1333) == (800, 1067) and fitting((400, 1000), 800, 1333) == (533, 1333)


def test_large_scale_jittering():
    asked = jittered(0.1, 2.0, 1024)
    views = [detection_view(*asked, (480, 640), np.random.default_rng(number)) for number in range(300)]
    assert all(max(view.shown) <= 1024 for view in views)
    assert min(max(view.shown) for view in views) < 150
    assert min(view.height * view.width for view in views) < 480 * 640 / 2.5  # at twice the canvas, a third is seen


def test_a_crop_has_no_class_over_its_share():
    classes = np.zeros((64, 200), np.uint8)
    classes[:, 150:] = np.arange(64)[:, None] % 5 + 1
    asked = settings(*MAPS, "data.image_size=64", "data.longest_side=200", "data.hflip=0", "recipe.jitter=[]")
    views = [segmentation_view(*asked, classes, np.random.default_rng(number)) for number in range(100)]
    assert all(view.shown == (64, 64) for view in views)
    assert sum(view.left > 100 for view in views) > 90  # 36 % of all crops are there
    blank = np.full((64, 200), IGNORED, np.uint8)
    assert segmentation_view(*asked, blank, np.random.default_rng(0)).shown == (64, 64)


def test_maps_follow_their_picture():
    classes = np.zeros((60, 90), np.uint8)
    classes[10:40, 20:50] = 1
    classes[30:60, 60:90] = 2
    pixels = Image(torch.from_numpy(np.repeat(classes[None] * 100, 3, 0)))
    asked = settings(*MAPS, "data.image_size=60", "data.longest_side=120", "recipe.photometric=false")
    for number in range(50):
        seen, shown = transforms.train_segmentation(*asked, pixels, classes, 0, np.random.default_rng(number))
        assert shown.shape == (64, 64)
        height, width = seen.shape[1:]
        assert (shown[height:] == IGNORED).all() and (shown[:, width:] == IGNORED).all()
        assert ((seen[0] / 100).round() == shown[:height, :width]).float().mean() > 0.93
    seen, shown = transforms.test_segmentation(*asked, pixels, classes, 0, None)
    assert seen.shape == (3, 60, 90) and np.array_equal(shown, classes)


def test_distortion_keeps_bytes_and_changes_them():
    pixels = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    results = [transforms.distort(pixels, np.random.default_rng(number)) for number in range(40)]
    assert all(result.dtype == torch.uint8 and result.shape == pixels.shape for result in results)
    same = sum(torch.equal(result, pixels) for result in results)
    assert 0 < same < 10  # none of four changes: one in sixteen


# --- batches ---------------------------------------------------------------------------------------------------------


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return (
        len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
        if isinstance(one, tuple)
        else one == other
    )


@pytest.mark.parametrize("words", [SMALL, MAPS])
def test_batches_depend_on_seed_epoch_and_index_only(words):
    alone = list(pipeline(*words).epoch(3))
    assert len(alone) == 200 and len(alone[0].images) == 2
    workers = list(pipeline(*words, "data.workers=2").epoch(3))
    assert equal(tuple(map(tuple, alone)), tuple(map(tuple, workers)))
    halves = [list(pipeline(*words, rank=rank, world=2).epoch(3)) for rank in (0, 1)]
    shared = [batch for pair in zip(*halves, strict=True) for batch in pair]
    assert equal(tuple(map(tuple, alone)), tuple(map(tuple, shared)))
    resumed = list(pipeline(*words).epoch(3, start=30))
    assert equal(tuple(map(tuple, alone[120:])), tuple(map(tuple, resumed)))
    for other in (pipeline(*words).epoch(4), pipeline(*words, seed=1).epoch(3)):
        assert not equal(tuple(alone[0]), tuple(next(other)))


@pytest.mark.parametrize("world", [1, 3])
def test_every_picture_is_scored_once(world):
    seen = []
    for rank in range(world):
        for batch in pipeline(*SMALL, "recipe.batch_size=12", rank=rank, world=world).evaluation():
            seen += [target.index for target in batch.targets]
            assert all(image.shape == (3, 80, 80) for image in batch.images)
            assert all(target.size == (96, 96) and target.masks.shape[1:] == (96, 96) for target in batch.targets)
            assert all(len(target.areas) == len(target.labels) for target in batch.targets)
    assert sorted(seen) == list(range(200)) and (world > 1 or seen == sorted(seen))


def test_pictures_are_normalised_and_padded_with_their_mean():
    batch = next(pipeline("task=detection", "recipe.jitter=[0.4,0.5]", "recipe.crop_size=96").epoch(0))
    image, target = batch.images[0], batch.targets[0]
    assert image.shape == (3, 96, 96) and target.size == (96, 96) and image.dtype == torch.float32
    assert not image[:, 60:].any() and not image[:, :, 60:].any() and image[:, :30, :30].all()
    assert all(tensor.shape for tensor in batch.tensors())


def test_maps_are_batched():
    segmentation = pipeline(*MAPS)
    batch = next(segmentation.epoch(0))
    assert batch.images.shape == (2, 3, 64, 64) and batch.targets.shape == (2, 64, 64) and batch.targets.dtype == torch.int64
    assert set(batch.targets.unique().tolist()) <= {*range(11), IGNORED}
    scored = next(segmentation.evaluation())
    assert [image.shape for image in scored.images] == [(3, 96, 96)] * 2 == [(3, *map_.shape) for map_ in scored.targets]
