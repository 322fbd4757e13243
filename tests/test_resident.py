"""The data set on the device: the same pictures whatever the batch, the same evaluation as the loaders', nothing replaced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from runs import images_of
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.data.batches import BatchPlan, seed_all
from roadmap.data.device.dataset import DeviceDataset, Pictures, bytes_needed
from roadmap.data.images.sources import reader
from roadmap.data.transforms import train_transform

CPU = torch.device("cpu")
PAPER = ["recipe.randaugment=rand-m9-mstd0.5-inc1", "recipe.random_erasing=0.25", "recipe.crop_scale=[0.08,1.0]"]
COUNTS = {"train": 12, "val": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of pieces of photographs, of many sizes."""
    root, random = tmp_path_factory.mktemp("resident"), np.random.default_rng(0)
    for name in ("china", "flower"):
        photograph = load_sample_image(f"{name}.jpg")
        for split, count in COUNTS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                top, left, height, width = random.integers([0, 0, 20, 20], [300, 400, 127, 240])
                Image.fromarray(photograph[top : top + height, left : left + width]).save(root / split / name / f"{i:02}.png")
    return root


def composed(folder, *overrides):
    settings = ["recipe=smoke", "recipe.batch_size=8", "data=folder", f"data.path={folder}", "data.image_size=40"]
    experiment = compose(["+step=gelu", "scale=atto", "data.workers=0", *settings, *overrides])
    return experiment, images_of(experiment)


def plan_of(experiment, found, device=CPU):
    return BatchPlan(experiment.data, experiment.recipe, experiment.seed, found, device)


def on_device(experiment, found, device=CPU):
    return DeviceDataset(plan_of(experiment, found, device))


def resident(folder, *overrides, device=CPU):
    return on_device(*composed(folder, *overrides), device)


def pictures(resident, epoch, sampler=None):
    """Every training image by its index, made in the batches of `sampler` (whole: all at once)."""
    draws = resident.augmentation.draw(epoch, 24)
    made = {}
    for indices in sampler or [range(24)]:
        images = resident.augmentation(resident.train, np.array(indices), draws)
        made |= {int(index): image for index, image in zip(indices, images, strict=True)}
    return torch.stack([made[index] for index in range(24)])


def test_batches_are_what_the_network_takes(folder):
    experiment, found = composed(folder, *PAPER)
    both = on_device(experiment, found)
    read = reader(experiment.data, found, "train")
    train, _ = plan_of(experiment, found).samplers()
    train.epoch = 3
    expected = [[index for _, index in keys] for keys in train]
    made = list(both.epoch(3))
    assert len(made) == both.updates == 3
    for (images, targets), indices in zip(made, expected, strict=True):
        assert (images.shape, images.dtype) == ((8, 3, 40, 40), torch.float32)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert targets.dtype == torch.int64
        assert targets.tolist() == [read(index)[1] for index in indices]
        assert torch.equal(images, pictures(both, 3)[indices])


def test_decoded_pictures_are_the_files(folder):
    experiment, found = composed(folder)
    kept = resident(folder).train
    read = reader(experiment.data, found, "train")
    for index, (start, height, width) in enumerate(zip(kept.starts, kept.heights, kept.widths, strict=True)):
        pixels = kept.pixels[start : start + height * width].view(height, width, 3)
        assert np.array_equal(pixels, np.array(read(index)[0]))


def test_a_picture_depends_on_seed_epoch_and_index_only(folder):
    experiment, _ = composed(folder, *PAPER)
    once = pictures(resident(folder, *PAPER), 1)
    order = np.random.default_rng(0).permutation(24)
    assert torch.equal(pictures(resident(folder, *PAPER), 1, [[i] for i in range(24)]), once)
    assert torch.equal(pictures(resident(folder, *PAPER), 1, [order[:5], order[5:6], order[6:]]), once)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(5)
        assert torch.equal(pictures(resident(folder, *PAPER), 1), once)
    others = [pictures(resident(folder, *PAPER), 2), pictures(resident(folder, *PAPER, "seed=1"), 1)]
    assert all((other != once).flatten(1).any(1).all() for other in others)
    assert experiment.seed == 0


def test_an_epoch_goes_on_from_its_middle(folder):
    whole, later = list(resident(folder, *PAPER).epoch(2)), list(resident(folder, *PAPER).epoch(2, start=1))
    assert len(later) == 2
    for (a, b), (c, d) in zip(whole[1:], later, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_what_is_switched_off_changes_nothing_else(folder):
    with_erasing = pictures(resident(folder, *PAPER), 0)
    without = pictures(resident(folder, *PAPER, "recipe.random_erasing=0"), 0)
    same = (with_erasing == without).flatten(1).all(1)
    assert 0.5 < same.float().mean() < 1
    plain = pictures(resident(folder, *PAPER, "recipe.random_erasing=0", "recipe.randaugment=null"), 0)
    assert 0.1 < (plain == without).flatten(1).all(1).float().mean() < 0.7


def test_what_chance_is_for_has_chance_of_its_own(folder):
    draws = resident(folder, *PAPER).augmentation.draw(0, 1)
    assert len({table.tobytes()[:8] for table in draws}) == 3


def test_the_colour_from_outside_and_the_interpolation_are_those_of_timms_transform(folder):
    overrides = [*PAPER, "data.mean=[0.1,0.4914,0.4465]"]
    experiment, _ = composed(folder, *overrides)
    (policy,) = (step for step in train_transform(experiment.data, experiment.recipe).transforms if isinstance(step, RandAugment))
    fill = resident(folder, *overrides).augmentation.randaugment.canvas.fill
    for op in policy.ops:
        assert (op.kwargs["resample"], op.kwargs["fillcolor"]) == (Image.Resampling.BICUBIC, tuple(fill))


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_come_at_their_rate(folder, probability):
    overrides = ["recipe.randaugment=null", "recipe.random_erasing=0", "recipe.crop_scale=[1.0,1.0]", "data.image_size=32"]
    both = resident(folder, *overrides, f"data.hflip={probability}")
    gradient = torch.arange(32, dtype=torch.uint8).view(1, 32, 1).expand(32, 32, 3).reshape(-1, 3)
    many = copies(gradient, 32, 32, 2000)
    images = both.augmentation(many, np.arange(2000), both.augmentation.draw(0, 2000))
    flipped = (images[:, 0, 0, 0] > images[:, 0, 0, -1]).float().mean()
    assert abs(flipped - probability) < 0.03


def copies(pixels, height, width, number):
    """A data set that is one picture many times over."""
    starts = np.zeros(number, dtype=np.int64)
    return Pictures(pixels, torch.zeros(number), starts, starts + height, starts + width)


def test_one_picture_many_times_is_distributed_as_through_timm(folder):
    """All parts in their order: mean, spread and extremes of 1,500 pictures of one photograph."""
    experiment, _ = composed(folder, *PAPER, "data.image_size=32")
    photograph, number = load_sample_image("flower.jpg")[100:180, 200:300], 1500
    augmentation = resident(folder, *PAPER, "data.image_size=32").augmentation
    many = copies(torch.from_numpy(np.ascontiguousarray(photograph)).view(-1, 3), 80, 100, number)
    ours = augmentation(many, np.arange(number), augmentation.draw(0, number))
    transform, picture = timms(experiment, is_training=True), Image.fromarray(photograph)
    theirs = []
    for index in range(number):
        seed_all(0, 0, index)
        theirs.append(transform(picture))
    for statistic in (brightness, spread, left_right, edges):
        result = ks_2samp(statistic(ours), statistic(torch.stack(theirs)))
        assert result.statistic < 0.07, statistic.__name__  # once in 1,000 times by chance


def timms(experiment, **options):
    """What timm's own script would do to a picture, all of it."""
    data, recipe = experiment.data, experiment.recipe
    return create_transform(
        (3, data.image_size, data.image_size),
        scale=tuple(recipe.crop_scale),
        hflip=data.hflip,
        color_jitter=None,
        auto_augment=recipe.randaugment,
        interpolation="bicubic",
        mean=tuple(data.mean),
        std=tuple(data.std),
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        **options,
    )


def brightness(images):
    return images.mean((1, 2, 3))


def spread(images):
    return images.std((1, 2, 3))


def left_right(images):
    return (images[..., :16].mean((1, 2, 3)) - images[..., 16:].mean((1, 2, 3))).numpy()


def edges(images):
    return images.diff(dim=3).abs().mean((1, 2, 3))


@pytest.mark.parametrize("overrides", [[], ["data.crop_pct=1.0"], ["data.image_size=33"]])
def test_evaluation_is_the_loaders(folder, overrides):
    experiment, found = composed(folder, *overrides)
    read, transform = reader(experiment.data, found, "val"), timms(experiment, crop_pct=experiment.data.crop_pct)
    made = list(resident(folder, *overrides).evaluation())
    expected = [read(index) for index in range(found.val.size)]
    assert torch.equal(torch.cat([images for images, _ in made]), torch.stack([transform(image) for image, _ in expected]))
    assert torch.cat([targets for _, targets in made]).tolist() == [target for _, target in expected]


def test_sources_without_files(folder):
    experiment = compose(["+step=gelu", "+study=digits", *PAPER])
    found = images_of(experiment)
    both = on_device(experiment, found)
    images, _ = next(both.epoch(0))
    assert images.shape[1:] == (3, 32, 32)
    assert sum(len(targets) for _, targets in both.evaluation()) == 714
    assert bytes_needed(experiment.data, found) == 3 * (1083 * 8 * 8 + 714 * 32 * 32) == bytes_kept(both)


def test_bytes_are_told_from_headers_alone(folder, monkeypatch):
    experiment, found = composed(folder)
    kept = bytes_kept(resident(folder))
    monkeypatch.setattr(Image.Image, "load", None)
    assert bytes_needed(experiment.data, found) == kept


def bytes_kept(both):
    return both.train.pixels.numel() + both.val.numel()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("keep", [0, 20, 200])
def test_a_picture_that_cannot_be_decoded_is_named_and_not_replaced(tiny_images, split, keep):
    """Broken from its first byte, in its header, or behind a header that tells its size."""
    path = tiny_images / split / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:keep])
    experiment, found = composed(tiny_images)
    with pytest.raises(Refused, match=rf"^\S*{split}/cat/0\.png: cannot be decoded"):
        on_device(experiment, found)
    if keep < 200 and split == "train":
        with pytest.raises(Refused, match=r"^\S*cat/0\.png: cannot be decoded"):
            bytes_needed(experiment.data, found)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_pictures_and_is_never_waited_for(folder, never_waiting):
    on_cpu, on_gpu = resident(folder, *PAPER), resident(folder, *PAPER, device=torch.device("cuda"))
    list(on_gpu.epoch(0))  # what is set up once may wait
    with never_waiting():
        made = list(on_gpu.epoch(1))
    for (images, targets), (expected, classes) in zip(made, on_cpu.epoch(1), strict=True):
        assert torch.allclose(images.cpu(), expected, atol=1e-5)
        assert torch.equal(targets.cpu(), classes)
