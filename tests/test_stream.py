"""Pictures from disk to the device: those of the device pipeline bit for bit, decoded no further than a box reaches."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import images_of
from sklearn.datasets import load_sample_image

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.schema import Pipeline
from roadmap.data import loader, pipeline
from roadmap.data.batches import BatchPlan
from roadmap.data.images import jpeg, sources
from roadmap.data.pipeline import input_pipeline

simplejpeg = pytest.importorskip("simplejpeg")  # the images of GPU machines may lack it, and runs do without
CPU = torch.device("cpu")
PAPER = ["recipe.randaugment=rand-m9-mstd0.5-inc1", "recipe.random_erasing=0.25", "recipe.crop_scale=[0.08,1.0]"]
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by 90 degrees, which the readers leave as it is
FORMS = [
    ("RGB", "jpg", {"subsampling": 0}),
    ("RGB", "jpg", {"subsampling": 1}),
    ("RGB", "jpg", {"subsampling": 2}),
    ("RGB", "jpg", {"progressive": True}),
    ("RGB", "jpg", {"subsampling": 2, "restart_marker_rows": 1}),
    ("RGB", "jpg", {"subsampling": 2, "exif": EXIF}),
    ("RGB", "jpg", {"keep_rgb": True}),
    ("L", "jpg", {}),
    ("CMYK", "jpg", {}),
    ("RGB", "png", {}),
    ("P", "png", {}),
    ("RGBA", "png", {}),
    ("RGB", "webp", {}),
]


def photograph(random, least=16, most=200):
    """A piece of a photograph."""
    height, width = random.integers(least, most, 2)
    top, left = random.integers(0, 200, 2)
    return load_sample_image("china.jpg")[top : top + height, left : left + width]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of pieces of photographs, of many sizes and every form that is read."""
    root, random = tmp_path_factory.mktemp("stream"), np.random.default_rng(0)
    for split, rounds in (("train", 2), ("val", 1)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number, (mode, suffix, options) in enumerate(FORMS * rounds):
                picture = Image.fromarray(photograph(random)).convert(mode)
                picture.save(root / split / name / f"{number:02}.{suffix}", quality=90, **options)
    return root


def made(folder, kind, *overrides, rank=0, world=1, device=CPU):
    recipe = ["recipe=smoke", "recipe.batch_size=16", "recipe.micro_batch=8", *PAPER]
    data = ["data=folder", f"data.path={folder}", "data.image_size=40", f"data.pipeline={kind}", "data.workers=0"]
    experiment = compose(["+step=gelu", "scale=atto", *recipe, *data, "data.accept=[cmyk]", *overrides])
    found = images_of(experiment)
    return input_pipeline(BatchPlan(experiment.data, experiment.recipe, experiment.seed, found, device, rank, world))


def assert_same(ones, others):
    ones, others = list(ones), list(others)
    assert len(ones) == len(others) > 0
    for (images, targets), (same, classes) in zip(ones, others, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(targets, classes)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_pictures_are_those_of_the_device_pipeline(folder, workers):
    stream, device = made(folder, "stream", f"data.workers={workers}"), made(folder, "device")
    assert (stream.name, stream.updates) == (Pipeline.stream, device.updates)
    assert_same(stream.epoch(1), device.epoch(1))
    assert_same(stream.epoch(2, start=1), device.epoch(2, start=1))
    assert_same(stream.evaluation(), device.evaluation())


def test_two_processes_share_the_pictures_of_one(folder):
    whole = list(made(folder, "device").epoch(1))
    for rank in range(2):
        assert_same(made(folder, "stream", rank=rank, world=2).epoch(1), whole[rank::2])


def test_pictures_in_memory_are_streamed_too():
    digits = ["+step=gelu", "+study=digits", *PAPER]
    pipelines = []
    for kind in ("stream", "device"):
        experiment = compose([*digits, f"data.pipeline={kind}"])
        found = images_of(experiment)
        pipelines.append(input_pipeline(BatchPlan(experiment.data, experiment.recipe, 0, found, CPU)).epoch(0, start=30))
    assert_same(*pipelines)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_makes_the_same_pictures_and_is_never_waited_for(folder, workers, never_waiting):
    gpu = torch.device("cuda")
    stream, device = (made(folder, kind, f"data.workers={workers}", device=gpu) for kind in ("stream", "device"))
    list(stream.epoch(0))  # what is set up once may wait
    with never_waiting():
        streamed = list(stream.epoch(1))
    assert_same(streamed, device.epoch(1))
    assert_same(stream.evaluation(), device.evaluation())


# --- decoding in part --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [options for mode, suffix, options in FORMS if (mode, suffix) == ("RGB", "jpg")],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_the_first_rows_are_those_of_the_whole(options):
    random = np.random.default_rng(0)
    for pixels in [photograph(random, 1, 90) for _ in range(12)]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", **options)
        assert_first_rows(file.getvalue())


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_the_first_rows_are_those_of_the_whole_however_the_colours_are_sampled(subsampling):
    random = np.random.default_rng(1)
    for pixels in [photograph(random, 1, 60) for _ in range(6)]:
        given = pixels[..., :1] if subsampling == "Gray" else pixels
        colours = "GRAY" if subsampling == "Gray" else "RGB"
        assert_first_rows(simplejpeg.encode_jpeg(np.ascontiguousarray(given), 90, colours, subsampling))


def assert_first_rows(content):
    header, whole = jpeg.frame(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert (header.height, header.width) == whole.shape[:2]
    for end in range(1, header.height + 1):
        assert np.array_equal(jpeg.first_rows(content, header, end)[:end], whole[:end])


def test_what_is_below_the_last_row_is_not_decoded():
    pixels = np.ascontiguousarray(load_sample_image("china.jpg"))
    content = simplejpeg.encode_jpeg(pixels)
    assert len(jpeg.first_rows(content, jpeg.frame(content), 100)) == 100 + jpeg.BELOW


def test_a_decoder_of_other_bits_is_not_used(folder, monkeypatch):
    """Pillow's may be built from another library: then it decodes alone, and the pictures are the same."""
    expected = list(made(folder, "stream").epoch(1))
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **more: decode(*args, **more) ^ 1)
    jpeg._is_exact.cache_clear()
    try:
        assert not jpeg._is_exact()
        assert_same(made(folder, "stream").epoch(1), expected)
    finally:
        jpeg._is_exact.cache_clear()


# --- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", [0, 20, 400, -40])
def test_a_picture_that_cannot_be_decoded_is_named_and_not_replaced(folder, tmp_path, workers, keep):
    root = copied(folder, tmp_path)
    path = root / "train" / "cat" / "02.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    stream = made(root, "stream", f"data.workers={workers}", "recipe.batch_size=52", "recipe.micro_batch=26")
    with pytest.raises(Refused, match=r"^\S*train/cat/02\.jpg: cannot be decoded"):
        list(stream.epoch(0))
    if workers:
        stream.train._iterator._shutdown_workers()  # left to the garbage collector, it would wait for them in vain


def copied(folder, place):
    return shutil.copytree(folder, place / "copy")


def test_damage_that_pillow_reads_over_gives_the_pictures_of_pillow(folder, tmp_path):
    root = copied(folder, tmp_path)
    for path in sorted(root.glob("train/*/*.jpg")):
        content = bytearray(path.read_bytes())
        content[len(content) * 2 // 3] ^= 0x10
        path.write_bytes(content)
    assert_same(made(root, "stream").epoch(1), made(root, "device").epoch(1))


# --- what is chosen ----------------------------------------------------------------------------------------------------


def test_auto_streams_on_a_gpu_what_does_not_fit(folder, monkeypatch):
    experiment = compose(["+step=gelu", "data=folder", f"data.path={folder}", "data.accept=[cmyk]", "recipe=smoke"])
    found, gpu = sources.list_images(experiment.data), torch.device("cuda")
    for room, picked in ((2**40, "device"), (2**22, "stream"), (1, "stream")):
        monkeypatch.setattr(pipeline, "_memory", lambda device, room=room: room)
        assert pipeline._pick(experiment.data, found, gpu) == picked
        assert pipeline._pick(experiment.data, found, CPU) == "loader"


def test_loader_processes_follow_the_cores(monkeypatch):
    data = compose(["+step=gelu", "data=folder", "data.path=x"]).data
    for cores, processes, workers in ((1, 1, 1), (2, 1, 2), (96, 8, 12), (96, 1, 16), (4, 8, 1)):
        monkeypatch.setattr(loader, "cores", lambda cores=cores: range(cores))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert loader.worker_count(data) == workers
        assert loader.worker_count(replace(data, workers=3)) == 3
    assert compose(["+step=gelu"]).data.workers == 0  # the digits lie in memory
