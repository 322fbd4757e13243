"""Detectors and segmenters in use: started from other networks, scored, shown pictures, handed to timm."""

from __future__ import annotations

import csv
import errno
import json
import sys

import numpy as np
import pytest
import runs
import timm
import torch
from conftest import QUICK
from PIL import Image
from runs import images_of, prepared
from safetensors.torch import load_file, save_file

import roadmap.timm
from roadmap import export, predict, score
from roadmap.base.errors import Refused, StorageFault
from roadmap.config.compose import compose
from roadmap.data.dense.targets import Detections
from roadmap.data.images import sources
from roadmap.record.folder import RunFolder
from roadmap.run.start import check_start, resolved
from roadmap.tasks.choose import choose_task
from roadmap.tasks.segmentation.upernet import UPerNet

pytestmark = pytest.mark.usefixtures("few")
TINY = [*QUICK, "recipe=dense_short", "data.image_size=64", "recipe.batch_size=6", "recipe.updates=4", "head.channels=8"]
HEADS = {"detection": "mask_rcnn", "segmentation": "upernet"}
STEPS = ["resnet", "gelu", "separate_downsampling"]


def asked(folder, *words):
    return resolved(compose([*words, f"output={folder}"]))


def trained(folder, *words):
    """A run, trained in this process; its folder."""
    return runs.trained(asked(folder, *words))


def started(folder, *words):
    """The network of a run before its first update."""
    experiment = asked(folder, *words)
    check_start(experiment, images_of(experiment).classes)
    return prepared(experiment).network


@pytest.fixture(scope="module", params=STEPS)
def classifier(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    short = ["data.image_size=32", "recipe.epochs=1", "recipe.warmup_epochs=0"]
    return request.param, trained(folder, f"+step={request.param}", *QUICK, *short)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("detection"), "+step=gelu", "task=detection", *TINY)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("segmentation"), "+step=separate_downsampling", "task=segmentation", *TINY)


@pytest.fixture(params=["detector", "segmenter"])
def run(request):
    return request.getfixturevalue(request.param)


# Where a network starts from.


def assert_backbone(network, weights, prefix=""):
    """All weights of the backbone are among these; nothing of what stands on it is."""
    ours = network.backbone.state_dict()
    assert len(ours) > 20
    assert all(torch.equal(weight, weights[prefix + name]) for name, weight in ours.items())


@pytest.mark.parametrize("task", HEADS)
def test_a_head_starts_on_a_classifiers_backbone_and_says_what_is_left_out(classifier, task, tmp_path, caplog):
    step, folder = classifier
    words = [f"+step={step}", f"task={task}", *TINY]
    fresh = started(tmp_path, *words)
    caplog.clear()
    with caplog.at_level("INFO"):
        network = started(tmp_path, *words, f"init={folder}")
    weights = load_file(folder / "weights.safetensors")
    assert_backbone(network, weights)
    assert not torch.equal(next(fresh.backbone.parameters()), next(network.backbone.parameters()))
    left = [name for name in weights if name not in network.backbone.state_dict()]
    assert [name for name in left if not name.startswith("head.")] == []
    assert (
        f"{', '.join(left[:3])}{f' and {len(left) - 3} more' if len(left) > 3 else ''}: a classifier's, left out" in caplog.text
    )


@pytest.mark.parametrize("task", HEADS)
def test_a_head_starts_on_another_heads_backbone(detector, task, tmp_path, caplog):
    with caplog.at_level("INFO"):
        network = started(tmp_path, "+step=gelu", f"task={task}", *TINY, f"init={detector}")
    weights = load_file(detector / "weights.safetensors")
    assert_backbone(network, weights, "backbone.")
    others = sum(not name.startswith("backbone.") for name in weights)
    assert f"and {others - 3} more: outside of backbone, left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnext_atto", ["+step=separate_downsampling", "scale=atto"]),
        ("resnet50", ["+step=resnet", "scale=tiny"]),
        ("resnet10t", ["reference=resnet10t"]),
    ],
)
def test_a_head_starts_on_a_checkpoint_of_timms(name, words, tmp_path):
    torch.manual_seed(1)
    theirs = timm.create_model(name).eval()
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    small = ["task=detection", "recipe.batch_size=6", "runtime.threads=1", "runtime.progress=false", "head.channels=8"]
    network = started(tmp_path, *words, *small, f"init={tmp_path / 'timm.safetensors'}").eval()
    network.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in network.norms)
    images = torch.randn(1, 3, 64, 64)
    indices = [i for i, info in enumerate(theirs.feature_info) if info["reduction"] in (4, 8, 16, 32)]
    with torch.inference_mode():
        expected = theirs.forward_intermediates(images, indices=indices[-4:], intermediates_only=True)
        for found, wanted in zip(network.maps(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_weights_of_timms_are_taken_at_their_own_size(hub, tmp_path):
    """At the data's 64 pixels a Swin Transformer would have smaller windows, and other tables of positions, than its backbone."""
    theirs = hub("swin_tiny_patch4_window7_224.ms_in1k")
    words = [
        "reference=swin_tiny_patch4_window7_224",
        "task=segmentation",
        *(word for word in TINY if not word.startswith("model.")),
        "init=timm:swin_tiny_patch4_window7_224.ms_in1k",
    ]
    network = started(tmp_path, *words)
    assert_backbone(network, theirs.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("backbone.stem.layer.conv.weight"), r"missing: stem\.layer\.conv\.weight"),
        (lambda w: w.update({"backbone.other": torch.zeros(2)}), "left over: other"),
        (lambda w: w.update({"backbone.stem.layer.conv.weight": torch.zeros(8, 3, 7, 7)}), "of another shape: stem"),
        (lambda w: w["backbone.stem.layer.conv.weight"].fill_(float("nan")), "numbers that are not finite"),
    ],
)
def test_other_weights_are_refused_as_for_a_classifier(detector, change, message, tmp_path):
    weights = load_file(detector / "weights.safetensors")
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(Refused, match=message):
        started(tmp_path, "+step=gelu", "task=segmentation", *TINY, f"init={tmp_path / 'w.safetensors'}")


def test_another_steps_weights_are_refused(classifier, tmp_path):
    with pytest.raises(Refused, match=r"init=.*not the weights of this network: (missing|of another shape)"):
        started(tmp_path, "+step=layer_norm", "task=detection", *TINY, f"init={classifier[1]}")


# Scores.


def test_a_run_scored_again_has_its_records_scores_to_the_digit(run, command, tmp_path):
    out = command(score, run, "--output", tmp_path / "out")
    record, written = (json.loads(file.read_text()) for file in (run / "result.json", tmp_path / "out" / "score.json"))
    assert written["scores"] == {key: value for key, value in record["scores"].items() if not key.endswith("_without_ema")}
    assert written["images"] == record["data"]["val"] == 10
    assert f"its record says {RunFolder(run).result().final}" in out
    for kind in ("first", "worst", "best"):
        assert str(tmp_path / "out" / f"{kind}.jpg") in out
        with Image.open(tmp_path / "out" / f"{kind}.jpg") as sheet:
            assert np.asarray(sheet.convert("L")).std() > 10


def test_several_scales_are_a_segmenters_twelve_passes_a_picture(segmenter, detector, command, tmp_path, monkeypatch):
    plain, several = [], []
    for passes, more in ((plain, []), (several, ["--multi-scale"])):
        monkeypatch.setattr(UPerNet, "forward", counted(passes))
        command(score, segmenter, *more, "--output", tmp_path / "out")
    assert len(several) >= 12 * 10 > len(plain) >= 10
    written = json.loads((tmp_path / "out" / "score.json").read_text())
    assert written["multi_scale"] and 0 <= written["scores"]["miou"] <= 100
    monkeypatch.setattr(sys, "argv", ["score", str(detector), "--multi-scale", "--output", str(tmp_path / "none")])
    monkeypatch.setattr(sources, "checked_images", lambda *_: pytest.fail("images were examined first"))
    with pytest.raises(Refused, match="--multi-scale: is for task=segmentation"):
        score.main()
    assert not (tmp_path / "none").exists()


def counted(passes, forward=UPerNet.forward):
    def counting(self, images):
        passes.append(len(images))
        return forward(self, images)

    return counting


def table(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_table_by_class_of_a_detector_adds_up_to_its_scores(detector, command, tmp_path):
    command(score, detector, "--output", tmp_path / "out")
    scores, rows = json.loads((tmp_path / "out" / "score.json").read_text())["scores"], table(tmp_path / "out" / "classes.csv")
    assert [row["class"] for row in rows] == [str(digit) for digit in range(10)]
    there = [row for row in rows if int(row["objects"])]
    for key in ("box_ap", "box_ap50", "mask_ap", "mask_ap50"):
        assert np.mean([float(row[key]) for row in there]) == pytest.approx(scores[key])
    assert all(row["box_ap"] == "" for row in rows if row not in there)


def test_the_table_by_class_of_a_segmenter_is_that_of_its_scores(segmenter, command, tmp_path):
    command(score, segmenter, "--output", tmp_path / "out")
    scores, rows = json.loads((tmp_path / "out" / "score.json").read_text())["scores"], table(tmp_path / "out" / "classes.csv")
    assert {f"iou_{row['class']}": float(row["iou"]) for row in rows if row["iou"]} == pytest.approx(
        {key: value for key, value in scores.items() if key.startswith("iou_")}
    )
    pixels = sum(int(row["pixels"]) for row in rows)
    assert 100 * sum(int(row["right"]) for row in rows) / pixels == pytest.approx(scores["pixel_accuracy"])
    assert (tmp_path / "out" / "confusion.png").is_file()


# Pictures.


def test_pictures_are_answered_as_in_the_evaluation_and_drawn_on(run, command, tmp_path):
    settings = roadmap.use.trained.find_trained(str(run)).settings
    reader = sources.object_reader(settings.data, images_of(settings), "val")
    names = []
    for folder, index in (("a", 0), ("b", 1), ("b", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        names.append(f"{folder}/{'same' if index < 2 else 'other'}.png")
        reader(index)[0].save(tmp_path / names[-1])
    rows = json.loads(command(predict, run, *names, "--format", "json", "--top", 3, "--output", "drawn"))
    assert {row["image"] for row in rows} <= set(names)
    assert max(sum(row["image"] == name for row in rows) for name in names) <= 3
    assert {file.name for file in (tmp_path / "drawn").iterdir()} == {"same-0.png", "same-1.png", "other.png"}
    for name, drawn in zip(names, ("same-0", "same-1", "other"), strict=True):
        with Image.open(tmp_path / "drawn" / f"{drawn}.png") as picture, Image.open(tmp_path / name) as plain:
            factor = picture.width // plain.width
            shown = np.asarray(picture.convert("RGB")).astype(int)[: plain.height * factor : factor, ::factor]
            assert np.abs(shown - np.asarray(plain.convert("RGB"))).mean() > 1
    key = "score" if "score" in rows[0] else "share"
    own = [row[key] for row in rows if row["image"] == names[0]]
    assert own == sorted(own, reverse=True)
    assert all(0 <= value <= 1 for value in own)


def test_a_full_disk_is_a_storage_fault_and_leaves_no_part_of_a_picture(segmenter, command, tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(predict, "write_atomic", full)
    with pytest.raises(StorageFault, match=r"drawn/a\.png: could not be written: .*No space left"):
        command(predict, segmenter, "a.png", "--output", "drawn")
    assert not list((tmp_path / "drawn").iterdir())
    with pytest.raises(Refused, match="--output /dev/null/x: /dev/null is not a folder that can be written"):
        command(predict, segmenter, "a.png", "--output", "/dev/null/x")


def test_answers_are_in_the_pixels_of_the_picture_and_no_more_than_asked_for():
    picture = Image.new("RGB", (60, 40))
    detection = choose_task(compose(["+step=gelu", "task=detection"]), [f"digit {digit}" for digit in range(10)])
    boxes = torch.tensor([[20.0, 30.0, 80.0, 70.0], [0.0, 0.0, 130.0, 80.0], [0.0, 0.0, 10.0, 10.0]])
    scores, labels = torch.tensor([0.75, 0.5, 0.25]), torch.tensor([3, 1, 2])
    found = Detections(boxes, scores, labels, torch.ones(3, 4, 4), (80, 120))  # shown twice as large
    assert detection.answers(picture, found, 2) == [
        {"class": "digit 3", "score": 0.75, "left": 10, "top": 15, "right": 40, "bottom": 35},
        {"class": "digit 1", "score": 0.5, "left": 0, "top": 0, "right": 60, "bottom": 40},
    ]
    segmentation = choose_task(compose(["+step=gelu", "task=segmentation"]), "abc")
    shares = torch.zeros(3, 8, 12)
    shares[2, :, :9] = shares[0, :, 9:] = 1
    assert segmentation.answers(picture, shares, 5) == [
        {"class": "c", "share": 0.75},
        {"class": "a", "share": 0.25},
    ]


def test_pictures_that_cannot_be_read_are_refused_before_anything_is_made(run, tmp_path, monkeypatch, command):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(Refused, match=r"text\.png"):
        command(predict, run, "text.png", "--output", "drawn")
    assert not (tmp_path / "drawn").exists()


def test_a_classifier_has_nothing_to_draw_and_says_so_before_any_answer(classifier, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(classifier[1]), "a.png", "--output", "drawn"])
    with pytest.raises(Refused, match=r"--output drawn: .*nothing to draw"):
        predict.main()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "drawn").exists()


# Export.


def test_the_backbone_is_exported_for_timm(run, command, tmp_path):
    out = command(export, run, "--output", "out")
    assert "pretrained=True, features_only=True)" in out
    assert f"roadmap.timm.load_trained('{run}')" in out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_classes"] == 0
    assert "label_names" not in config
    assert ("import roadmap.timm; timm" in out) == config["architecture"].startswith("roadmap_")
    features = timm.create_model("local-dir:out", pretrained=True, features_only=True).eval()
    whole = roadmap.timm.load_trained(run)
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        expected = whole.backbone.forward_intermediates(images, indices=[0, 1, 2, 3], intermediates_only=True)
        for found, wanted in zip(features(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_references_backbone_is_exported_as_it_was_built(command, tmp_path):
    """For images of any size, with the windows of its own size: not of the 64 pixels that it was trained at."""
    words = (word for word in TINY if not word.startswith("model."))
    run = trained(tmp_path, "reference=swin_tiny_patch4_window7_224", "task=segmentation", *words, "recipe.updates=1")
    command(export, run, "--output", "out")
    features = timm.create_model("local-dir:out", pretrained=True, features_only=True).eval()
    images = torch.randn(1, 3, 224, 160)
    with torch.inference_mode():
        expected = roadmap.timm.load_trained(run).backbone.forward_intermediates(images, intermediates_only=True)
        for found, wanted in zip(features(images), expected, strict=True):  # timm's has its channels last
            torch.testing.assert_close(found.permute(0, 3, 1, 2), wanted, atol=1e-4, rtol=1e-4)


def test_an_exported_backbone_starts_another_run(detector, command, tmp_path):
    command(export, detector, "--output", "out")
    network = started(tmp_path, "+step=gelu", "task=segmentation", *TINY, "init=out/model.safetensors")
    assert_backbone(network, load_file(detector / "weights.safetensors"), "backbone.")


def test_the_whole_network_comes_back(run):
    network, weights = roadmap.timm.load_trained(run), load_file(run / "weights.safetensors")
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())
    assert not network.training


def test_a_head_has_no_onnx_program(run, command, tmp_path):
    with pytest.raises(Refused, match=r"--onnx: .* has a head of task=(detection|segmentation)"):
        command(export, run, "--output", "out", "--onnx")
    assert not (tmp_path / "out" / "model.safetensors").exists()
