"""A packed data set: the same pictures and the same identity as its folder, or a data set of its own; damage is named."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from runs import images_of
from sklearn.datasets import load_sample_image

from roadmap.base.errors import Refused
from roadmap.base.files import PARTIAL
from roadmap.config.compose import compose
from roadmap.data.batches import BatchPlan
from roadmap.data.images import sources
from roadmap.data.images.sources import reader
from roadmap.data.pipeline import input_pipeline


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Two classes of seven pieces of a photograph for training and two for evaluation."""
    root, random, photograph = tmp_path / "photographs", np.random.default_rng(0), load_sample_image("china.jpg")
    for split, count in (("train", 7), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                top, left, height, width = random.integers([0, 0, 30, 30], [300, 400, 127, 240])
                picture = Image.fromarray(photograph[top : top + height, left : left + width])
                picture.save(root / split / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return root


@pytest.fixture
def command(terminal):
    """Packs with these words; exit code, stdout and stderr."""
    return lambda *words: terminal(shlex.join(["pack", *map(str, words)]))


def packed(command, folder, output, *options):
    code, _, err = command("data=folder", f"data.path={folder}", "--output", output, "--shard", 5, *options)
    assert code == 0, err
    return output


def composed(path, *overrides):
    recipe = ["recipe=smoke", "recipe.batch_size=4", "data.image_size=32", "data.workers=0"]
    experiment = compose(["+step=gelu", "scale=atto", "data=folder", f"data.path={path}", *recipe, *overrides])
    return experiment, images_of(experiment)


def fingerprint(path, *overrides):
    experiment, found = composed(path, *overrides)
    return sources.fingerprint(experiment.data, found)


@pytest.mark.parametrize("kind", ["stream", "device", "loader"])
def test_pictures_packed_as_they_are_are_the_folders(command, folder, tmp_path, kind):
    both = []
    for path in (folder, packed(command, folder, tmp_path / "packed")):
        experiment, found = composed(path, f"data.pipeline={kind}")
        data = input_pipeline(BatchPlan(experiment.data, experiment.recipe, 0, found, torch.device("cpu")))
        both.append([*data.epoch(0), *data.evaluation()])
    for (images, targets), (same, classes) in zip(*both, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(targets, classes)


def test_the_fingerprint_stays_where_the_pictures_do(command, folder, tmp_path, caplog):
    plain, small = packed(command, folder, tmp_path / "plain"), packed(command, folder, tmp_path / "small", "--side", 32)
    for overrides in ([], ["data.held_out=0.3"]):
        assert fingerprint(plain, *overrides) == fingerprint(folder, *overrides)
    assert "packed from" not in caplog.text
    for overrides in ([], ["data.held_out=0.3"]):
        assert fingerprint(small, *overrides) != fingerprint(folder, *overrides)
    assert "a shorter side of at most 32 pixels, as JPEG of quality 90: another data set" in caplog.text


def test_larger_pictures_are_made_smaller_and_others_stay(command, folder, tmp_path):
    output = packed(command, folder, tmp_path / "packed", "--side", 60, "--quality", 95)
    changed = []
    for index, ((original, _), (image, _)) in enumerate(zip(pictures(folder), pictures(output), strict=True)):
        assert min(image.size) == min(60, *original.size)
        assert abs(image.width / image.height - original.width / original.height) < 0.05
        changed.append(min(original.size) > 60)
        assert composed(output)[1].train.files[index][0].name.endswith(".jpg" if changed[-1] else (".jpg", ".png"))
        assert changed[-1] or original == image
    assert 0 < sum(changed) < len(changed)


def pictures(path):
    experiment, found = composed(path)
    return map(reader(experiment.data, found, "train"), range(found.train.size))


def test_the_shards_are_tars_of_the_data_set(command, folder, tmp_path):
    output = packed(command, folder, tmp_path / "packed")
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "out", filter="data")
    for path in folder.rglob("*.*"):
        assert (tmp_path / "out" / path.relative_to(folder)).read_bytes() == path.read_bytes()


# --- interrupted -------------------------------------------------------------------------------------------------------


def test_a_pack_that_was_killed_goes_on_and_is_refused_until_it_is_whole(command, folder, tmp_path):
    whole, output = packed(command, folder, tmp_path / "whole"), tmp_path / "packed"
    program = (
        "import os, sys; from roadmap import pack; from roadmap.data.images import packing;"
        "write = packing.write_atomic;"
        "die = lambda: os.kill(os.getpid(), 9);"
        "packing.write_atomic = lambda path, content: die() if path.name == '00002.json' else write(path, content);"
        "pack.main()"
    )
    line = ["data=folder", f"data.path={folder}", "--output", str(output), "--shard", "5"]
    assert subprocess.run([sys.executable, "-c", program, *line], capture_output=True).returncode == -9
    with pytest.raises(Refused, match=r"packed only in part, 2 of 4 shards"):
        composed(output)
    (output / f"00002.tar{PARTIAL}host-1").write_bytes(b"left behind")
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("0000[01].*")}
    packed(command, folder, output)
    assert times == {path.name: path.stat().st_mtime_ns for path in output.glob("0000[01].*")}
    assert contents(output) == contents(whole)


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != "lock"}


def test_what_is_there_already_is_not_written_over(command, folder, tmp_path):
    output = packed(command, folder, tmp_path / "packed")
    code, _, err = command("data=folder", f"data.path={folder}", "--output", output, "--shard", 5, "--side", 64)
    assert (code, "holds images packed otherwise (unequal: side, quality)" in err) == (2, True)
    code, _, err = command("data=folder", f"data.path={folder}", "--output", folder)
    assert (code, "holds train, val; must be an empty folder" in err) == (2, True)


# --- damaged -----------------------------------------------------------------------------------------------------------


def cut_off(output):
    (output / "00001.tar").write_bytes((output / "00001.tar").read_bytes()[:-1000])


def other_bytes(output):
    content = bytearray((output / "00001.tar").read_bytes())
    content[2000] ^= 1
    (output / "00001.tar").write_bytes(content)


def other_classes(output):
    edited(output / "index.json", classes=["cat", "wolf"])


def other_form(output):
    edited(output / "index.json", format=2)


def torn_index(output):
    (output / "00001.json").write_text((output / "00001.json").read_text()[:-20])


def edited(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_off, r"00001\.tar: cut off or changed, [\d,]+ bytes in place of"),
        (other_bytes, r"shards whose SHA-256 is not that of their index: \S+00001\.tar"),
        (other_classes, r"train/dog/0\.png in it is of none of the classes in \S+index\.json"),
        (other_form, r"index\.json: not the index of a packed data set of format 1"),
        (torn_index, r"00001\.json: not the index of a shard"),
        (lambda output: (output / "00001.tar").unlink(), r"packed only in part, 3 of 4 shards"),
    ],
)
def test_a_damaged_pack_is_refused_and_mended_by_packing_again(command, folder, tmp_path, spoil, says):
    output = packed(command, folder, tmp_path / "packed")
    before = fingerprint(output)
    spoil(output)
    with pytest.raises(Refused, match=says):
        fingerprint(output)
    if spoil in (cut_off, other_bytes, torn_index):
        for path in output.glob("00001.*"):
            path.unlink()
        packed(command, folder, output)
        assert fingerprint(output) == before


def test_faults_that_were_accepted_must_be_accepted_again(command, folder, tmp_path):
    Image.new("CMYK", (50, 40)).save(folder / "train" / "cat" / "9.jpg")
    shutil.copy(folder / "train" / "dog" / "0.png", folder / "val" / "dog" / "9.png")
    code, _, err = command("data=folder", f"data.path={folder}", "--output", tmp_path / "packed")
    assert (code, "1 cmyk, 1 duplicate" in err) == (2, True)
    for options, kinds in (((), "1 cmyk, 1 duplicate"), (("--side", 32), "1 duplicate")):
        output = packed(command, folder, tmp_path / f"packed{len(options)}", "data.accept=[cmyk,duplicate]", *options)
        with pytest.raises(Refused, match=f"cannot be used: {kinds}\n"):
            fingerprint(output)
        assert fingerprint(output, "data.accept=[cmyk,duplicate]")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["data=digits", "--output", "x"], "only data sets of image files are packed"),
        (["data=coco", "data.path=x", "--output", "x"], "only images with a class each are packed"),
        (["data=folder", "data.path=x", "--output", "x", "--side", "8"], "--side 8: must be at least 32 and at most 4096"),
        (["data=folder", "data.path=x", "--output", "x", "recipe=paper"], "recipe=paper: only data=NAME"),
        (["data=folder", "data.path=nowhere", "--output", "x"], "there is no folder"),
    ],
)
def test_a_wrong_command_line_is_refused(command, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*line)
    assert (code, says in err) == (2, True), err
    assert not (tmp_path / "x").exists()


def test_a_picture_that_cannot_be_decoded_is_named(command, folder, tmp_path):
    """Packed in one form and changed behind the index's back: the reader still says which picture it was."""
    experiment, found = composed(packed(command, folder, tmp_path / "packed"))
    found.store.open = lambda path: io.BytesIO(b"\x89PNG broken")
    with pytest.raises(Refused, match=r"packed/train/cat/0\.png: cannot be decoded"):
        reader(experiment.data, found, "train")(0)
