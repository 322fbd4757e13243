"""Augmentation in batches: timm's, in distribution and, given the same parameters, in pixels."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, ks_2samp, kstest
from sklearn.datasets import load_sample_image
from timm.data import auto_augment, random_erasing, transforms
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import Normalize, ToTensor

from roadmap.data.device import augment
from roadmap.data.device.randaugment import CHOICE, OPERATIONS, Canvas, RandAugment, affine

DRAWS = 10_000
KS = 0.03  # two samples of 10,000 from one distribution differ by more once in 4,000 times
ASPECT = (3 / 4, 4 / 3)
MEAN = (0.485, 0.456, 0.406)
FILL = (124, 116, 104)


@pytest.fixture(scope="module")
def photograph():
    return load_sample_image("china.jpg").copy()


class Script:
    """Python's `random` module, for timm to draw the numbers that it is told."""

    def __init__(self, numbers):
        self.numbers = iter(numbers)

    def random(self):
        return float(next(self.numbers))

    def uniform(self, low, high):
        return low + (high - low) * self.random()

    def randint(self, low, high):
        return low + math.floor(self.random() * (high - low + 1))


# --- crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.6, 1.0)])
@pytest.mark.parametrize(("height", "width"), [(160, 160), (61, 400), (375, 500), (32, 20)])
def test_crops_are_distributed_as_timms(height, width, scale):
    random.seed(0)
    picture = Image.new("L", (width, height))
    theirs = np.array([RandomResizedCropAndInterpolation.get_params(picture, scale, ASPECT) for _ in range(DRAWS)])
    drawn = augment.draws(augment.CROP, (DRAWS,), 0, 0, 1)
    ours = augment.crop_boxes(drawn, np.full(DRAWS, height), np.full(DRAWS, width), scale)
    for statistic in (area, aspect, vertical, horizontal):
        assert ks_2samp(statistic(ours), statistic(theirs)).statistic < KS, statistic.__name__
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


def area(boxes):
    return boxes[:, 2] * boxes[:, 3]


def aspect(boxes):
    return boxes[:, 3] / boxes[:, 2]


def vertical(boxes):
    return boxes[:, 0]


def horizontal(boxes):
    return boxes[:, 1]


def test_places_of_crops_are_uniform():
    boxes = augment.crop_boxes(augment.draws(augment.CROP, (DRAWS,), 1), np.full(DRAWS, 2000), np.full(DRAWS, 2000), (0.1, 0.2))
    for place, side in ((0, 2), (1, 3)):
        assert kstest((boxes[:, place] + 0.5) / (2001 - boxes[:, side]), "uniform").statistic < 0.02


def test_from_the_same_numbers_come_timms_crops(monkeypatch):
    sizes = np.random.default_rng(0).integers(2, 300, (500, 2))
    drawn = augment.draws(augment.CROP, (500,), 2)
    ours = augment.crop_boxes(drawn, *sizes.T, (0.3, 1.0))
    fell_back = 0
    for row, box, (height, width) in zip(drawn, ours, sizes, strict=True):
        wide, tall = augment._sides(row[None], np.array([height * width]), (0.3, 1.0), ASPECT)
        fits = ((wide <= width) & (tall <= height))[0]
        fell_back += not fits.any()
        tried = np.stack([row["area"], row["aspect"]], 1)[: fits.argmax() + 1 if fits.any() else None]
        monkeypatch.setattr(transforms, "random", Script([*tried.flatten(), row["top"], row["left"]]))
        picture = Image.new("L", (int(width), int(height)))
        assert tuple(box) == RandomResizedCropAndInterpolation.get_params(picture, (0.3, 1.0), ASPECT)
    assert 20 < fell_back < 480


@pytest.mark.parametrize(("height", "width"), [(10, 300), (300, 10), (100, 100), (99, 120)])
def test_where_no_box_fits_the_centre_is_timms(height, width, monkeypatch):
    drawn = np.zeros(1, augment.CROP)
    drawn["area"] = 1
    box = augment.crop_boxes(drawn, np.array([height]), np.array([width]), (0.08, 1.0))[0]
    monkeypatch.setattr(transforms, "random", Script([1, 0] * 10))
    assert tuple(box) == RandomResizedCropAndInterpolation.get_params(Image.new("L", (width, height)), (0.08, 1.0), ASPECT)


def test_a_box_is_never_empty():
    boxes = augment.crop_boxes(augment.draws(augment.CROP, (1000,), 3), np.full(1000, 1), np.full(1000, 2), (0.01, 1.0))
    assert boxes[:, 2:].min() == 1


@pytest.mark.parametrize("size", [32, 97, 128, 300])
def test_crops_are_pillows_to_the_last_bit(photograph, size):
    """Smaller and larger, odd sides, single rows and columns, the whole image, mirrored or not; from two images."""
    pictures = [photograph[:180, :203].copy(), photograph[200:260, 300:]]
    boxes = np.array([[3, 5, 171, 197], [0, 0, 180, 203], [10, 20, 1, 50], [7, 0, 64, 1], [40, 31, size % 60 + 1, 77]] * 2)
    boxes = np.concatenate([boxes, np.array([[0, 0, 60, 340], [5, 100, 32, 32]])])
    owner, flips = np.array([0] * 10 + [1] * 2), np.arange(12) % 5 < 2
    pixels = torch.from_numpy(np.concatenate([picture.reshape(-1, 3) for picture in pictures]))
    starts, strides = np.array([0, 180 * 203])[owner], np.array([203, 340])[owner]
    ours = augment.resized_crops(pixels, starts, strides, boxes, flips, size)
    for crop, which, (top, left, height, width), flip in zip(ours, owner, boxes, flips, strict=True):
        cut = Image.fromarray(pictures[which]).crop((left, top, left + width, top + height))
        theirs = cut.resize((size, size), Image.Resampling.BICUBIC)
        theirs = theirs.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else theirs
        assert np.array_equal(crop.permute(1, 2, 0), theirs)


def test_crops_do_not_depend_on_how_many_are_resized_at_once_or_on_autocast(photograph, monkeypatch):
    random = np.random.default_rng(0)
    boxes = np.stack([random.integers(0, 100, 40), random.integers(0, 100, 40), *random.integers(1, 300, (2, 40))], 1)
    pixels, zeros = torch.from_numpy(photograph.reshape(-1, 3)), np.zeros(40, dtype=np.int64)
    arguments = pixels, zeros, zeros + photograph.shape[1], boxes, zeros, 48
    together = augment.resized_crops(*arguments)
    monkeypatch.setitem(augment.PADDED, "cpu", 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment.resized_crops(*arguments), together)


def test_what_is_resized_at_once_is_bounded_and_alike():
    random = np.random.default_rng(0)
    tall = random.integers(10, 200, 300)
    wide = (tall * random.uniform(0.75, 1.33, 300)).astype(int)
    tall[7], wide[7] = 900, 900
    groups = list(augment._alike(tall, wide, 400_000))
    assert sorted(np.concatenate(groups)) == list(range(300))
    padded = [len(group) * tall[group].max() * wide[group].max() for group in groups]
    assert all(size <= 400_000 or len(group) == 1 for size, group in zip(padded, groups, strict=True))
    assert sum(padded) < 1.6 * (tall * wide).sum()


# --- normalisation and erasing ---------------------------------------------------------------------------------------


def test_normalisation_is_torchvisions(photograph):
    mean, std = torch.tensor(MEAN), torch.tensor([0.2, 0.3, 0.25])
    images = torch.from_numpy(photograph).permute(2, 0, 1)[None]
    ours = augment.normalise(images, mean.view(3, 1, 1), std.view(3, 1, 1))
    assert torch.equal(ours[0], Normalize(mean, std)(ToTensor()(photograph)))
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_erased_boxes_are_distributed_as_timms(monkeypatch):
    seen = []
    monkeypatch.setattr(random_erasing, "_get_pixels", lambda pixel, colour, patch, **_: seen.append(patch) or torch.zeros(patch))
    random.seed(0)
    erasing = RandomErasing(0.25, mode="pixel", device="cpu")
    for _ in range(4 * DRAWS):
        erasing(torch.empty(3, 96, 96))
    boxes = augment.erasing_boxes(augment.draws(augment.ERASING, (4 * DRAWS,), 0), 96, 0.25)
    boxes, theirs = boxes[boxes[:, 2] > 0], np.array(seen)
    assert abs(len(boxes) / (4 * DRAWS) - 0.25) < 0.01
    assert abs(len(boxes) - len(theirs)) < 0.01 * 4 * DRAWS
    assert ks_2samp(area(boxes), theirs[:, 1] * theirs[:, 2]).statistic < KS
    assert ks_2samp(aspect(boxes), theirs[:, 2] / theirs[:, 1]).statistic < KS
    for place, side in ((0, 2), (1, 3)):
        jitter = np.random.default_rng(0).random(len(boxes))
        assert kstest((boxes[:, place] + jitter) / (97 - boxes[:, side]), "uniform").statistic < 0.02


def test_from_the_same_numbers_come_timms_erasures(monkeypatch):
    drawn = augment.draws(augment.ERASING, (300,), 1)
    drawn["area"][:, 0] = 1  # so that the first attempt often fails
    for row, (top, left, height, width) in zip(drawn, augment.erasing_boxes(drawn, 31, 0.5), strict=True):
        tall, wide = augment._sides(row[None], np.array([31 * 31]), augment.ERASED_AREA, augment.ERASED_ASPECT)
        tries = np.flatnonzero((tall < 31) & (wide < 31))[0] + 1
        tried = np.stack([row["area"], row["aspect"]], 1)[:tries]
        monkeypatch.setattr(random_erasing, "random", Script([row["erased"], *tried.flatten(), row["top"], row["left"]]))
        image = RandomErasing(0.5, mode="pixel", device="cpu")(torch.full((3, 31, 31), math.inf))
        ours = torch.zeros(31, 31, dtype=torch.bool)
        ours[top : top + height, left : left + width] = True
        assert torch.equal(image[0].isfinite(), ours)


def test_erasing_touches_its_box_and_nothing_else():
    before = torch.rand(4, 3, 20, 24)
    boxes, keys = np.array([[2, 3, 5, 7], [0, 0, 0, 0], [0, 0, 19, 23], [0, 0, 0, 0]]), np.array([0.1, 0.2, 0.3, 0.4])
    after = augment.erase(before.clone(memory_format=torch.channels_last), boxes, keys)
    changed = (after != before).all(1)
    for image, (top, left, height, width) in zip(changed, boxes, strict=True):
        assert image[top : top + height, left : left + width].all()
        assert image.sum() == height * width
    alone = augment.erase(before[2:3].clone(), boxes[2:3], keys[2:3])
    assert torch.equal(alone[0], after[2])


def test_noise_is_standard_normal_and_independent():
    noise = augment.normal_noise(torch.tensor([1, 2, 2**52 + 1]), 200_000)
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    for row in noise:
        assert kstest(row, "norm").statistic < 0.005
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.01
    for shift in (1, 2, 32, 1024):
        assert abs(np.corrcoef(noise[0, shift:], noise[0, :-shift])[0, 1]) < 0.01
    assert torch.equal(augment.normal_noise(torch.tensor([2]), 100)[0], noise[1, :100])


def test_splitmix_is_the_published_generator():
    state = torch.tensor([1234567]) + torch.arange(1, 4) * augment.GOLDEN
    assert [value % 2**64 for value in augment.splitmix(state).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_draws_depend_on_every_part_of_their_key():
    tables = {key: augment.draws(CHOICE, (5, 2), *key) for key in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]}
    assert len({table.tobytes() for table in tables.values()}) == 4
    assert np.array_equal(tables[0, 0, 1], augment.draws(CHOICE, (5, 2), 0, 0, 1))


# --- RandAugment -----------------------------------------------------------------------------------------------------

TEXTS = ["rand-m9-mstd0.5-inc1", "rand-m6-n3-mstd101-p0.8", "rand-m7-mmax12-mstd4-inc0-p1"]


@pytest.mark.parametrize("text", TEXTS)
def test_operations_and_magnitudes_are_distributed_as_timms(text):
    random.seed(0), np.random.seed(0)
    number = 20_000
    policy, seen = auto_augment.rand_augment_transform(text), defaultdict(list)
    for op in policy.ops:
        op.level_fn, op.aug_fn = lambda level, _: (level,), lambda image, level, name=op.name, **_: seen[name].append(level)
    for _ in range(number):
        policy(None)
    ours = RandAugment(text, 32, MEAN)
    drawn = augment.draws(CHOICE, (number, ours.layers), 0)
    chosen, magnitudes = ours.choose(drawn), ours.magnitudes(drawn)
    assert ours.names == [op.name for op in policy.ops]
    applied = chosen[chosen >= 0]
    assert abs(len(applied) - sum(map(len, seen.values()))) < 0.01 * drawn.size
    assert chisquare(np.bincount(applied)).pvalue > 0.001
    assert chisquare([len(seen[name]) for name in ours.names]).pvalue > 0.001
    assert ks_2samp(magnitudes[chosen >= 0], np.concatenate(list(seen.values()))).statistic < 0.02


def test_either_direction_is_as_frequent_as_in_timm():
    random.seed(0)
    op, factors = auto_augment.AugmentOp("ShearX", prob=1.0, magnitude=9, hparams={"magnitude_std": 0.5}), []
    op.aug_fn = lambda image, factor, **_: factors.append(factor)
    for _ in range(DRAWS):
        op(None)
    ours = RandAugment("rand-m9-mstd0.5-inc1-n1-p1", 32, MEAN)
    drawn = augment.draws(CHOICE, (DRAWS,), 2)
    drawn["operation"] = (ours.names.index("ShearX") + 0.5) / len(ours.names)
    ((kernel, members, arguments),) = ours._groups(drawn)
    assert kernel is affine
    assert len(members) == DRAWS
    assert ks_2samp(arguments[:, 1], factors).statistic < KS


@pytest.mark.parametrize("text", TEXTS)
def test_layers_are_independent(text):
    ours = RandAugment(text, 32, MEAN)
    chosen = ours.choose(augment.draws(CHOICE, (30_000, ours.layers), 1))
    pairs = np.bincount((chosen[:, 0] + 1) * 16 + chosen[:, 1] + 1)
    both = pairs[[i for i in range(len(pairs)) if i >= 16 and i % 16]]
    assert chisquare(both).pvalue > 0.001


@pytest.fixture(scope="module")
def small(photograph):
    """Photographs, and what photographs hold at times: one colour, two colours, a gradient, saturated areas."""
    pieces = [photograph[top : top + 48, left : left + 48] for top, left in ((0, 0), (200, 300), (300, 100))]
    ramp = np.linspace(0, 255, 48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)
    halves = np.where(np.arange(48)[:, None, None] < 20, 37, 201).astype(np.uint8) * np.ones((48, 48, 3), np.uint8)
    flat = [np.full((48, 48, 3), value, np.uint8) for value in (0, 93, 255)]
    stretched = (pieces[2].astype(int) * 2 - 100).clip(0, 255).astype(np.uint8)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in [*pieces, ramp, halves, *flat, stretched]]


@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_timms(name, small, monkeypatch):
    """Equal; a level of difference is left to processors that fuse Pillow's products and sums of an interpolation."""
    kernel, meaning = OPERATIONS[name]
    images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in small])
    bound = 1 if kernel is affine else 0
    for magnitude in (0.0, 0.7, 3.3, 6.25, 8.49, 9.0, 9.6, 10.0, 12.0):
        for sign in (1.0, -1.0):
            ones = np.ones(len(small))
            arguments = meaning(magnitude / 10 * ones, sign * ones, Canvas(48, np.array(FILL)))
            ours = kernel(images, torch.from_numpy(np.ascontiguousarray(arguments)))
            monkeypatch.setattr(auto_augment, "random", SimpleNamespace(random=lambda value=0.5 - sign / 4: value))
            hparams = {"magnitude_max": 12, "img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
            op = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
            for image, mine in zip(small, ours.permute(0, 2, 3, 1), strict=True):
                difference = np.abs(np.array(op(image), dtype=int) - mine.numpy())
                assert difference.max() <= bound, (magnitude, sign)
                assert (difference > 0).mean() < 0.001, (magnitude, sign)


def test_each_image_has_its_own_operations_whatever_the_batch(small):
    """A batch of the same images as singles; and what is drawn as not applied leaves an image as it is."""
    images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in small] * 20)
    ours = RandAugment("rand-m9-mstd0.5-inc1", 48, MEAN)
    drawn = augment.draws(CHOICE, (len(images), 2), 5)
    together = ours(images.clone(), drawn)
    backwards = ours(images.flip(0), drawn[::-1]).flip(0)
    assert torch.equal(together, backwards)
    for i in range(0, len(images), 7):
        assert torch.equal(ours(images[i : i + 1].clone(), drawn[i : i + 1])[0], together[i])
    idle = torch.from_numpy((ours.choose(drawn) < 0).all(1))
    assert torch.equal(together[idle], images[idle])
    changed = (together != images).flatten(1).any(1)
    assert changed[~idle].float().mean() > 0.8


def test_two_layers_are_two_operations_in_their_order(small, monkeypatch):
    ours = RandAugment("rand-m9-inc1", 48, MEAN)
    drawn = np.zeros((1, 2), CHOICE)
    drawn["operation"] = (np.array([ours.names.index("ShearX"), ours.names.index("Equalize")]) + 0.5) / 15
    image = torch.from_numpy(np.array(small[0])).permute(2, 0, 1)[None]
    monkeypatch.setattr(auto_augment, "random", SimpleNamespace(random=lambda: 0.0))
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    theirs = small[0]
    for name in ("ShearX", "Equalize"):
        theirs = auto_augment.AugmentOp(name, prob=1.0, magnitude=9, hparams=hparams)(theirs)
    difference = np.abs(ours(image, drawn)[0].permute(1, 2, 0).numpy().astype(int) - np.array(theirs, dtype=int))
    assert (difference > 0).mean() < 0.001
