"""Data: what is found, how it is fingerprinted, and that every picture depends on (seed, epoch, index) only."""

from __future__ import annotations

import math
import os
import pickle
import random
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import images_of
from timm.data import create_transform
from torchvision.datasets import CIFAR10

from roadmap.base.errors import Refused
from roadmap.base.paths import CONF
from roadmap.config.compose import compose
from roadmap.config.identity import decisive
from roadmap.config.schema import Source
from roadmap.data import loader
from roadmap.data.batches import BatchPlan
from roadmap.data.images import sources
from roadmap.data.images.sources import reader
from roadmap.data.pipeline import input_pipeline


def made(experiment, found):
    return input_pipeline(BatchPlan(experiment.data, experiment.recipe, experiment.seed, found, torch.device("cpu")))


def digits(*overrides):
    experiment = compose(["+step=gelu", "+study=digits", *overrides])
    return experiment, images_of(experiment)


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    experiment, found = digits()
    whole, read = load_digits(), reader(experiment.data, found, "train")
    first = whole.images[whole.target == 0][[0, 1, 3, 5, 6]]  # of five the third and the fifth are for evaluation
    ours = [np.asarray(image) for image, target in map(read, range(200)) if target == 0][:5]
    for image, levels in zip(ours, first, strict=True):
        assert np.array_equal(image.reshape(8, 8, -1)[..., 0], (levels * 255 / 16).round())


def folder(path, *overrides):
    overrides = [
        "recipe=smoke",
        "recipe.batch_size=4",
        "data=folder",
        f"data.path={path}",
        "data.image_size=32",
        "data.workers=0",
        *overrides,
    ]
    experiment = compose(["+step=gelu", "scale=atto", *overrides])
    return experiment, images_of(experiment)


def test_digits_split():
    experiment, found = digits()
    for split, size in (("train", 1083), ("val", 714)):
        read = reader(experiment.data, found, split)
        targets = [read(i)[1] for i in range(size)]
        assert np.bincount(targets).min() >= 0.095 * size
        with pytest.raises(IndexError):
            read(size)
    seen = {
        split: {read(i)[0].tobytes() for i in range(size)}
        for split, size in (("train", 1083), ("val", 714))
        for read in [reader(experiment.data, found, split)]
    }
    assert not seen["train"] & seen["val"]
    image, _ = reader(experiment.data, found, "train")(0)
    assert (image.size, image.mode) == ((8, 8), "RGB")


def test_every_image_of_val_once_and_in_order():
    experiment, found = digits()
    batches = list(made(experiment, found).evaluation())
    assert sum(len(targets) for _, targets in batches) == 714
    read = reader(experiment.data, found, "val")
    assert torch.cat([targets for _, targets in batches]).tolist() == [read(i)[1] for i in range(714)]


def test_a_training_epoch_is_a_shuffle_of_whole_batches():
    experiment, found = digits()
    both = made(experiment, found)
    first, second = ([index for batch in list_of(both.train_batches, epoch) for index in batch] for epoch in (0, 1))
    assert len(first) == 1056  # 33 batches of 32
    assert len({index for _, index in first}) == 1056
    assert [i for _, i in first] != [i for _, i in second]


def list_of(batches, epoch, start=0):
    batches.epoch, batches.start = epoch, start
    return list(batches)


def test_pictures_do_not_depend_on_workers_or_on_who_drew_before():
    def pictures(workers, *, start=0):
        experiment, found = digits(
            f"data.workers={workers}", "recipe.randaugment=rand-m9-mstd0.5-inc1", "recipe.random_erasing=0.25"
        )
        random.random(), np.random.rand(3), torch.rand(5)
        return [
            (images, targets) for (images, targets), _ in zip(made(experiment, found).epoch(2, start), range(3), strict=False)
        ]

    alone, with_workers, later = pictures(0), pictures(2), pictures(0, start=1)
    for (a, b), (c, d) in zip(alone, with_workers, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert torch.equal(alone[1][0], later[0][0])


def test_epochs_and_seeds_augment_differently():
    experiment, found = digits()
    images = {
        (seed, epoch): next(made(replace(experiment, seed=seed), found).epoch(epoch))[0] for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({tensor.numpy().tobytes() for tensor in images.values()}) == 4


def test_a_loader_leaves_the_global_generator_alone():
    experiment, found = digits()
    both = made(experiment, found)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    iter(both.train)
    assert torch.equal(torch.get_rng_state(), before)


def test_folder_is_found(tiny_images):
    experiment, found = folder(tiny_images)
    assert found.classes == ("cat", "dog")
    assert (found.train.size, found.val.size) == (12, 4)
    images, targets = next(made(experiment, found).epoch(0))
    assert images.shape == (4, 3, 32, 32)
    assert set(targets.tolist()) <= {0, 1}


def test_classes_come_from_train_and_must_equal_those_of_val(tiny_images):
    (tiny_images / "val" / "dog").rename(tiny_images / "val" / "wolf")
    with pytest.raises(Refused, match="only in train dog; only in val wolf"):
        folder(tiny_images)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: shutil.rmtree(root / "val"), "there is no folder"),
        (lambda root: shutil.rmtree(root / "val" / "dog"), "only in train dog"),
        (lambda root: [p.unlink() for p in (root / "train" / "cat").iterdir()], "a class without images"),
        (lambda root: (root / "train" / "cat" / "notes.txt").write_text("x"), "notes.txt: not an image"),
        (lambda root: (root / "train" / "list.csv").write_text("x"), "a file among the classes"),
        (lambda root: (root / "train" / ".ipynb_checkpoints").mkdir(), "hidden"),
    ],
)
def test_a_spoilt_folder_is_refused(tiny_images, spoil, says):
    spoil(tiny_images)
    with pytest.raises(Refused, match=says):
        folder(tiny_images)


def test_a_batch_larger_than_the_data_is_refused(tiny_images):
    with pytest.raises(Refused, match=r"recipe\.batch_size=13: .* 12 images"):
        folder(tiny_images, "recipe.batch_size=13")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_cannot_be_decoded_is_named_and_not_replaced(tiny_images, workers):
    (tiny_images / "train" / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    experiment, found = folder(tiny_images, f"data.workers={workers}")
    with pytest.raises(Refused, match=r"^\S*cat/0\.png: cannot be decoded"):
        list(made(experiment, found).epoch(0))


def test_linked_folders_are_followed_and_what_desktops_leave_is_not_an_image(tiny_images):
    (tiny_images / "more").mkdir()
    (tiny_images / "train" / "cat" / "0.png").rename(tiny_images / "more" / "0.png")
    (tiny_images / "train" / "cat" / "linked").symlink_to(tiny_images / "more")
    (tiny_images / "train" / "dog" / ".DS_Store").write_bytes(b"x")
    files = [path for path, _ in folder(tiny_images)[1].train.files]
    assert len(files) == 12
    assert files == sorted(files)


def test_fingerprint_follows_bytes_names_and_nothing_else(tiny_images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fingerprint(path):
        experiment, found = folder(path)
        return sources.fingerprint(experiment.data, found)

    first = fingerprint(tiny_images)
    assert fingerprint(tiny_images) == first  # from the cache
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_images, moved)
    assert fingerprint(moved) == first
    Image.new("RGB", (40, 48)).save(moved / "val" / "dog" / "1.png")
    assert fingerprint(moved) != first
    (tiny_images / "train" / "cat" / "0.png").rename(tiny_images / "train" / "dog" / "99.png")
    assert fingerprint(tiny_images) != first


def test_missing_data_is_refused(tmp_path):
    for source in ("folder", "imagenette", "cifar10", "cifar100", "imagenet"):
        with pytest.raises(Refused, match=r"data\.path"):
            sources.list_images(compose(["+step=gelu", f"data={source}", f"data.path={tmp_path}/none"]).data)
        with pytest.raises(Refused, match=r"data\.path=null"):
            compose(["+step=gelu", f"data={source}"])


def test_every_data_set_is_a_class_and_a_yaml():
    for source in Source:
        overrides = ["+step=gelu", f"data={source}", *([] if source.facts.package else ["data.path=x"])]
        assert compose(overrides).data.source == source
        assert source in sources.DATA_SETS
    files = {file.stem for file in (CONF / "data").glob("*.yaml")}
    assert files - {"imagenet_384"} == set(Source) == set(sources.DATA_SETS)  # the same pictures as imagenet, larger


def test_imagenette_is_found_where_torchvision_leaves_it(tiny_images):
    root = tiny_images.parent / "root"
    shutil.copytree(tiny_images, root / "imagenette2-160")
    overrides = ["+step=gelu", "data=imagenette", f"data.path={root}", "recipe=smoke", "recipe.batch_size=4"]
    assert sources.list_images(compose(overrides).data).root == root / "imagenette2-160"


@pytest.mark.filterwarnings("ignore:dtype")
def test_cifar_is_read_as_torchvision_leaves_it(tmp_path, monkeypatch):
    """The real reader on small files of the real form; only the checksums of the real files are taken out."""
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (6, 5, 3072), dtype=np.uint8)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name, content in zip(names, pixels, strict=True):
        (batches / name).write_bytes(pickle.dumps({"data": content, "labels": [0, 1, 2, 3, 9]}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    experiment = compose(["+step=gelu", "data=cifar10", f"data.path={tmp_path}"])
    found = images_of(experiment)
    assert (found.train.size, found.val.size, len(found.classes)) == (50_000, 10_000, 10)
    image, target = reader(experiment.data, found, "val")(4)
    assert (image.size, image.mode, target) == ((32, 32), "RGB", 9)
    assert np.array_equal(np.asarray(image), pixels[5, 4].reshape(3, 32, 32).transpose(1, 2, 0))
    assert len(sources.fingerprint(experiment.data, found)) == 16


def test_ten_thousand_of_the_papers_augmentations():
    """Pillow 13 crashes timm's RandAugment (posterize with 0 bits) about once in 850 images."""
    augment = create_transform(
        32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25, re_mode="pixel"
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    random.seed(0), torch.manual_seed(0), np.random.seed(0)
    assert all(augment(picture).shape == (3, 32, 32) for _ in range(10_000))


@pytest.mark.photographs
def test_real_photographs(photographs):
    experiment, found = folder(photographs, "data.image_size=64")
    assert (len(found.classes), found.train.size, found.val.size) == (10, 640, 160)
    images, _ = next(made(experiment, found).epoch(0))
    assert images.isfinite().all()


def test_a_signal_while_the_loader_starts_does_not_end_its_processes(tiny_images, monkeypatch):
    """The signal comes between a worker's first instruction and its ignoring signals: made long here."""
    begin = loader._begin_worker

    def late(worker):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        begin(worker)

    monkeypatch.setattr(loader, "_begin_worker", late)
    experiment, found = folder(tiny_images, "data.workers=2", "data.pipeline=loader")
    data = made(experiment, found)
    assert len(list(data.epoch(0))) == data.updates
    assert sum(len(targets) for _, targets in data.evaluation()) == found.val.size


@pytest.mark.parametrize("source", ["files", "arrays"])
def test_images_held_out_are_training_images_and_no_others(tiny_images, source):
    """A recipe is chosen on them: nothing of `val` is seen, no image is on both sides, every class is there."""
    whole = (lambda *more: folder(tiny_images, *more)) if source == "files" else digits
    (experiment, found), (plain, everything) = whole("data.held_out=0.25"), whole()

    def pictures(data, held, split):
        read = reader(data, held, split)
        return {(read(i)[0].tobytes(), read(i)[1]) for i in range((held.train if split == "train" else held.val).size)}

    kept, scored = (pictures(experiment.data, found, split) for split in ("train", "val"))
    assert kept | scored == pictures(plain.data, everything, "train")
    assert not kept & scored
    assert not scored & pictures(plain.data, everything, "val")
    assert {target for _, target in scored} == set(range(len(found.classes)))
    assert math.isclose(found.val.size, everything.train.size / 4, abs_tol=len(found.classes))
    assert "held_out" in decisive(experiment, "")["data"]
    assert "held_out" not in decisive(plain, "")["data"]  # or every run of before it was there would have another name


def test_an_image_that_is_held_out_and_trained_on_is_a_duplicate(tiny_images):
    experiment, found = folder(tiny_images, "data.held_out=0.25")
    shutil.copy(found.val.files[0][0], found.train.files[0][0])
    with pytest.raises(Refused, match="the same bytes as"):
        sources.fingerprint(experiment.data, found)


def test_a_share_that_leaves_a_class_without_images_is_refused(tiny_images):
    with pytest.raises(Refused, match="must be a share that holds one of each class"):
        folder(tiny_images, "data.held_out=0.01")
