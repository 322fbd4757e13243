"""Pictures of an evaluation: which are kept, how they are judged, where they lie and who shows them."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from records import made, write

from roadmap.config.compose import compose
from roadmap.data.dense.targets import Detections, Instances
from roadmap.data.images.inventory import IGNORED
from roadmap.record.folder import RunFolder
from roadmap.report import table
from roadmap.report.page.pictures import sheets
from roadmap.tasks.choose import choose_task
from roadmap.tasks.dense.gallery import Gallery
from roadmap.tasks.detection.task import overlap
from roadmap.tasks.segmentation.task import accuracy


def objects(*boxes, labels=None, size=(40, 60)):
    count = len(boxes)
    masks = torch.zeros(count, *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    named = torch.tensor(labels or [0] * count)
    return Instances(torch.tensor(boxes).float().reshape(-1, 4), named, masks, torch.zeros(count, dtype=torch.bool), size, 0)


def found(*boxes, labels=None, size=(80, 120)):
    """In the pixels of a picture twice as large."""
    count = len(boxes)
    scores = torch.linspace(0.9, 0.5, count)
    named = torch.tensor(labels or [0] * count)
    return Detections(2 * torch.tensor(boxes).float().reshape(-1, 4), scores, named, torch.ones(count, 4, 4), size)


def test_the_first_the_worst_and_the_best_are_kept():
    gallery = Gallery(lambda target, _: target, lambda example: Image.new("RGB", (10, 10), (example.target or 0, 0, 0)))
    for scores in ([5, 3, None, 9], [1, 7, 2, 8, 6]):
        gallery.update([torch.zeros(3, 4, 4)] * len(scores), scores, scores)
    kept = {name: [example.target for example in getattr(gallery, name)] for name in ("first", "worst", "best")}
    assert kept == {"first": [5, 3, None], "worst": [1, 2, 3], "best": [9, 8, 7]}
    assert gallery.sheets().keys() == kept.keys()
    with Image.open(io.BytesIO(gallery.sheets()["best"])) as sheet:
        assert sheet.size == (720, 3 * 720)


def test_how_well_the_objects_of_a_picture_are_found():
    box, other = [10, 10, 20, 20], [30, 10, 50, 30]
    assert overlap(objects(box, other), found(other, box)) == 1.0
    assert overlap(objects(box, other), found(box)) == 0.5
    assert overlap(objects(box), found(box, labels=[1])) == 0.0
    assert overlap(objects(box), found()) == 0.0
    assert overlap(objects(box), found(other, box)) == 0.0, "more than there are objects are not looked at"
    assert overlap(objects(), found(box)) is None


def test_how_well_the_pixels_of_a_picture_are_found():
    target = torch.tensor([[0, 1], [1, IGNORED]])
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1], [0, 0]]), 2).movedim(-1, 0).float()
    assert accuracy(target, scores) == torch.tensor(2 / 3).item()
    assert accuracy(torch.full((2, 2), IGNORED), scores) is None


def test_what_is_drawn_shows_the_labels_beside_what_was_found():
    run = compose(["+step=gelu", "task=detection"])
    task = choose_task(run, "0123456789")
    gallery = task.gallery()
    gallery.update([torch.zeros(3, 80, 120)], [objects([10, 10, 20, 20])], [found([30, 10, 50, 30])])
    with Image.open(io.BytesIO(gallery.sheets()["worst"])) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    left, right = np.array_split(pixels, 2, axis=1)
    colourful = [(half.max(2) - half.min(2) > 60) for half in (left, right)]
    columns = [np.flatnonzero(mask.any(0)).mean() / mask.shape[1] for mask in colourful]
    assert columns[0] < 0.5 < columns[1]


def test_pictures_of_a_run_lie_in_its_folder_and_on_the_page(tmp_path):
    run = RunFolder(tmp_path / "runs" / "gelu-s0-1")
    run.write_pictures(0, {"first": b"0", "worst": b"1", "best": b"2"})
    run.write_pictures(1, {"first": b"3", "worst": b"4"})
    assert {file.name: file.read_bytes() for file in (run.path / "pictures").iterdir()} == {
        "epoch-0000.jpg": b"0", "epoch-0001.jpg": b"3", "worst.jpg": b"4", "best.jpg": b"2"
    }  # fmt: skip
    result = SimpleNamespace(run="gelu-s0-1", seed=0, done=True)
    rows = [SimpleNamespace(variant=SimpleNamespace(name=name, label=name)) for name in ("resnet", "gelu")]
    study = SimpleNamespace(folder=tmp_path, plan=SimpleNamespace(rows=rows), of=lambda name: [result] if name == "gelu" else [])
    shown = sheets(study, [0, 1])
    assert [sheet.caption for sheet in shown] == ["gelu, seed 0: the worst", "gelu, seed 0: the best"]
    assert base64.b64decode(shown[0].source.removeprefix("data:image/jpeg;base64,")) == b"4"


def test_a_table_says_what_of_the_cost_is_the_backbones_where_there_are_heads(tmp_path):
    for name, heads in (("with", {"gmacs_backbone": 0.5}), ("without", {})):
        for step, seed in (("resnet", 0), ("gelu", 0)):
            run = tmp_path / name / "runs" / f"{step}-s{seed}-1"
            run.mkdir(parents=True)
            about = {"data": {"source": "scenes", "image_size": 96}, "recipe": {"epochs": 1}, "gmacs": 2.0}
            write(run, made(run.name, 50.0, **about, **heads))
    assert list(table(tmp_path / "with")["gmacs_backbone"]) == [0.5, 0.5]
    assert "gmacs_backbone" not in table(tmp_path / "without")
