"""Pictures with their objects: everything is drawn at its place, and stays inside."""

from __future__ import annotations

import numpy as np
from PIL import Image

from roadmap.data.dense.draw import colour_of, draw_map, draw_objects, side_by_side

NAMES = ("cat", "dog", "a class with a rather long name")


def black(height, width):
    return Image.new("RGB", (width, height))


def test_boxes_and_masks_are_drawn_where_they_are():
    masks = np.zeros((2, 500, 600), np.uint8)
    masks[0, 100:200, 50:150] = masks[1, 120:300, 100:400] = 1
    boxes = np.array([[50, 100, 150, 200], [100, 120, 400, 300]])
    drawn = np.asarray(draw_objects(black(500, 600), boxes, [0, 1], NAMES, masks, [0.9, 0.5]))
    assert drawn.shape == (500, 600, 3)
    assert tuple(drawn[100, 120]) == tuple(drawn[199, 120]) == tuple(drawn[150, 50]) == colour_of(0)  # the first is on top
    assert tuple(drawn[299, 200]) == tuple(drawn[200, 399]) == colour_of(1)
    assert 60 < drawn[180, 70].max() < 160 and not drawn[300:, 401:].any() and not drawn[:80].any()
    assert np.array_equal(
        draw_objects(black(500, 600), boxes, [0, 1], NAMES), draw_objects(black(500, 600), boxes, [0, 1], NAMES)
    )


def test_small_pictures_are_enlarged_and_text_stays_inside():
    boxes = np.array([[80.5, 0, 96, 10], [0, 90, 5, 96], [90, 40, 90, 40]])
    drawn = draw_objects(black(96, 96), boxes, [2, 2, 0], NAMES, scores=[1, 0.25, 0.1])
    assert drawn.size == (480, 480)
    assert (np.asarray(drawn)[0, 410:475] == colour_of(2)).all()
    assert draw_objects(black(96, 96), boxes[:0], [], NAMES, np.zeros((0, 96, 96))).size == (480, 480)


def test_maps_are_tinted_and_named():
    classes = np.zeros((480, 480), np.uint8)
    classes[:100] = 2
    classes[400:] = 255
    drawn = np.asarray(draw_map(black(480, 480), classes, NAMES))
    assert drawn.shape[0] > 480 and not drawn[401:480].any()  # what is ignored stays
    assert len(np.unique(drawn[:480].reshape(-1, 3), axis=0)) == 3
    below = {tuple(colour) for colour in np.unique(drawn[480:].reshape(-1, 3), axis=0)}
    assert {colour_of(0), colour_of(2)} <= below and colour_of(1) not in below


def test_side_by_side():
    both = side_by_side([("known", black(480, 300)), ("found", black(400, 200))])
    assert both.width > 500 and both.height > 480
    assert len({colour_of(number) for number in range(150)}) == 150
