"""Scenes of digits: the same ones everywhere, training digits in training scenes only, and masks that agree with the picture."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.schema import Target
from roadmap.data.images import scenes, sources
from roadmap.data.images.arrays import Digits
from roadmap.data.images.scenes import BACKGROUND, SCENES, SIZE, fit_boxes, make_scene


def experiment(*overrides):
    return compose(["+step=gelu", "scale=atto", "recipe=smoke", "data=scenes", *overrides])


def read(split, *overrides):
    data = experiment(*overrides).data
    return sources.object_reader(data, sources.checked_images(data, 16, Target.objects), split)


def read_maps(split):
    data = experiment().data
    return sources.map_reader(data, sources.checked_images(data, 16, Target.map), split)


@pytest.fixture(scope="module")
def val():
    return read("val")


def test_scenes_do_not_depend_on_the_machine(val):
    content = [part.tobytes() for index in range(3) for part in (np.asarray(val(index)[0]), val(index)[1].masks)]
    assert hashlib.sha256(b"".join(content)).hexdigest()[:16] == "fbb62874e8396f2e"


def test_boxes_are_around_masks_that_do_not_meet(val):
    hidden = 0
    for index in range(SCENES["val"]):
        image, objects = val(index)
        assert image.size == (SIZE, SIZE) and 1 <= len(objects.labels) <= 5 and not objects.crowd.any()
        assert objects.masks.sum(0).max() == 1
        for box, mask, area in zip(objects.boxes.astype(int), objects.masks, objects.areas, strict=True):
            left, top, right, bottom = box
            assert mask.sum() == area == mask[top:bottom, left:right].sum() > 0
            assert all(side.any() for side in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]))
        starts, ends = objects.boxes[:, None, :2], objects.boxes[None, :, 2:]
        meet = (starts < ends).all(2)
        hidden += (meet & meet.T).sum() > len(objects.labels)
    assert hidden > 20  # scenes with boxes that overlap


def test_a_digit_is_brighter_than_its_background():
    """So the masks are where the digits are in the picture."""
    for index in range(20):
        image, classes = read_maps("val")(index)
        pixels = np.asarray(image).mean(2)
        assert pixels[classes != BACKGROUND].mean() > pixels[classes == BACKGROUND].mean() + 30


def test_maps_hold_the_digits_and_the_background(val):
    data = experiment().data
    assert sources.checked_images(data, 16, Target.map).classes == (*"0123456789", "background")
    assert sources.checked_images(data, 16, Target.objects).classes == tuple("0123456789")
    _, objects = val(5)
    _, classes = read_maps("val")(5)
    for mask, label in zip(objects.masks, objects.labels, strict=True):
        assert (classes[mask > 0] == label).all()
    assert ((classes == BACKGROUND) == ~objects.masks.any(0)).all()


def test_training_scenes_show_training_digits_only(monkeypatch):
    asked = []
    scenes.scenes.cache_clear()
    arrays = Digits.arrays
    monkeypatch.setattr(Digits, "arrays", lambda self, split: asked.append(split) or arrays(self, split))
    read("train")(0)
    assert asked == ["train"]
    read("val", "data.held_out=0.25")(0)  # chosen from the training scenes
    assert asked == ["train"]
    read("val")(0)
    assert asked == ["train", "val"]


def test_held_out_scenes_are_training_scenes():
    whole, train, val = read("train"), read("train", "data.held_out=0.25"), read("val", "data.held_out=0.25")
    assert np.array_equal(val(0)[0], whole(3)[0])
    assert np.array_equal(train(3)[0], whole(4)[0])


def test_digits_in_front_hide_those_behind():
    full, empty = np.full((8, 8), 255, np.uint8), np.zeros(1, int)
    objects = [make_scene(full[None], empty, 9, number).objects for number in range(200)]
    boxes_of_squares = [box for scene in objects for box, area in zip(scene.boxes, scene.areas, strict=True) if area]
    areas = np.concatenate([scene.areas for scene in objects])
    assert len(boxes_of_squares) == len(areas)  # nothing is hidden whole
    assert (areas < [np.prod(box[2:] - box[:2]) for box in boxes_of_squares]).sum() > 20  # squares with a corner missing


def test_fingerprint_follows_the_rules(monkeypatch):
    data = experiment().data
    before = sources.fingerprint(data, sources.list_images(data))
    monkeypatch.setattr(scenes, "OVERLAP", 0.5)
    assert sources.fingerprint(data, sources.list_images(data)) != before


def test_a_task_that_the_data_cannot_serve_is_refused():
    with pytest.raises(Refused, match=r"data=scenes: has a list of objects and a map .* a class is in data=digits, folder"):
        sources.checked_images(experiment().data, 16)
    digits = compose(["+step=gelu", "+study=digits"]).data
    with pytest.raises(Refused, match="data=digits: has a class for each picture; a list of objects is in data=coco, scenes"):
        sources.checked_images(digits, 16, Target.objects)


def test_boxes_around_masks():
    masks = np.zeros((3, 5, 7), np.uint8)
    masks[0, 1:3, 2:6] = 1
    masks[1, 4, 6] = 1
    assert fit_boxes(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5], [0, 0, 0, 0]]
    assert fit_boxes(masks[:0]).shape == (0, 4)
