"""The fused kernels make the bits of the plain code: in Triton's interpreter on any machine, and compiled on a GPU.

Without a GPU the tests run in a process of their own, because Triton must be told before its first import.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from roadmap.config.schema import DataConfig, RecipeConfig
from roadmap.data.device import augment, fused
from roadmap.data.device.dataset import Augmentation, Pictures
from roadmap.data.device.randaugment import CHOICE, OPERATIONS, RandAugment

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
MEAN = (0.485, 0.456, 0.406)
NOISE = 1e-5  # Box-Muller's angle is rounded at 2 pi: half a unit in its last place, 2.4e-7, times a radius of up to 6.7


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
@pytest.mark.skipif(version("triton") < "3.7" and version("numpy") >= "2.4", reason="these do not go together in the interpreter")
def test_all_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    triton_s = "ignore:Conversion of an array with ndim:DeprecationWarning"  # of the interpreter before 3.7, of its own code
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", triton_s, "-m", "gpu", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


@pytest.fixture
def forced(monkeypatch):
    """`forced(function)`: what it makes with the kernels, on the device, and what without them, on the CPU."""

    def both(function):
        plain = function(torch.device("cpu"))
        monkeypatch.setattr(fused, "usable", lambda tensor: True)
        made = function(DEVICE)
        monkeypatch.undo()
        return made.cpu(), plain

    return both


@pytest.fixture(scope="module")
def photograph():
    return load_sample_image("china.jpg").copy()


def pieces(photograph, size, number):
    """Photographs, and what stresses: noise, one level, two levels, a ramp, black and white."""
    random = np.random.default_rng(size)
    made = [random.integers(0, 256, (size, size, 3))]
    made += [np.full((size, size, 3), level) for level in (0, 93, 255)]
    made += [np.where(np.arange(size)[:, None, None] < size // 3, 37, 201) + np.zeros((size, size, 3), int)]
    made += [np.linspace(0, 255, size * size * 3).reshape(size, size, 3), 255 * random.integers(0, 2, (size, size, 3))]
    while len(made) < number:
        top, left = random.integers(0, 640 - size, 2) % [427 - size, 640 - size]
        made.append(photograph[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(made[:number]).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "most"), [(3, 20), (20, 60), (70, 60)])
def test_crops(size, most, photograph, forced):
    """Smaller and larger, single rows, columns and pixels, a whole image, mirrored or not; from two images."""
    random = np.random.default_rng(0)
    sides = random.integers(1, most + 1, (2, 6))
    boxes = np.stack([random.integers(0, 61 - sides[0]), random.integers(0, 341 - sides[1]), *sides], 1)
    special = [[0, 0, most, most * 2], [3, 5, most - 3, 1], [59, 0, 1, most], [59, 339, 1, 1], [0, 0, size % 60, size % 60]]
    boxes = np.concatenate([boxes, np.array(special)])
    pixels = torch.from_numpy(np.concatenate([photograph[:60, :340].reshape(-1, 3), photograph[200:260, 300:].reshape(-1, 3)]))
    starts, flips = np.arange(len(boxes)) % 2 * 60 * 340, random.random(len(boxes)) < 0.5
    strides = np.full(len(boxes), 340)
    made, plain = forced(lambda device: augment.resized_crops(pixels.to(device), starts, strides, boxes, flips, size))
    assert torch.equal(made, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted({kernel.__name__: name for name, (kernel, _) in OPERATIONS.items()}.values()))
def test_one_operation(name, photograph, forced):
    """Of every kind, at magnitudes from the least to beyond the greatest, either way, on images of 36 pixels."""
    randaugment = RandAugment("rand-m6-mstd2.5-inc1-n1-p1", 36, MEAN)
    randaugment.names, randaugment.most = [name], 12
    images = pieces(photograph, 36, 8 if INTERPRETED else 12)
    drawn = augment.draws(CHOICE, (len(images), 1), 7)
    made, plain = forced(lambda device: randaugment(images.to(device, copy=True), drawn))
    assert torch.equal(made, plain)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("size", "text"), [(1, "rand-m9-mstd0.5-inc1"), (33, "rand-m9-mstd3-inc1-n3"), (47, "rand-m5-inc0-p0.9")]
)
def test_layers_of_operations(size, text, photograph, forced):
    randaugment, images = RandAugment(text, size, MEAN), pieces(photograph, size, 8 if INTERPRETED else 16)
    drawn = augment.draws(CHOICE, (len(images), randaugment.layers), size)
    made, plain = forced(lambda device: randaugment(images.to(device, copy=True), drawn))
    assert torch.equal(made, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("probability", [0.0, 0.6])
def test_normalisation_and_erasing(probability, memory_format, photograph, forced):
    """Bit for bit, but for the noise, whose logarithm and cosine are each library's own."""
    images = pieces(photograph, 41, 12)
    data = DataConfig(image_size=41, mean=list(MEAN), std=[0.229, 0.224, 0.225])
    recipe = RecipeConfig(random_erasing=probability)
    drawn = augment.draws(augment.ERASING, (len(images),), 3) if probability else None
    boxes = augment.erasing_boxes(drawn, 41, probability) if probability else np.zeros((12, 4), int)
    erased = torch.zeros(12, 41, 41, dtype=torch.bool)
    for image, (top, left, height, width) in zip(erased, boxes, strict=True):
        image[top : top + height, left : left + width] = True

    def made(device):
        last = augment.NormalizeAndErase(data, recipe, 0, device, memory_format)
        return last(images, drawn)

    fast, plain = forced(made)
    assert fast.is_contiguous(memory_format=memory_format)
    assert torch.equal(fast.permute(0, 2, 3, 1)[~erased], plain.permute(0, 2, 3, 1)[~erased])
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=NOISE)
    assert bool(probability) == bool(erased.any())


@pytest.mark.gpu
def test_all_parts_in_their_order(photograph, forced):
    """The paper's augmentation of pieces of photographs, as a run makes it."""
    data = DataConfig(image_size=32, hflip=0.5, mean=list(MEAN), std=[0.229, 0.224, 0.225])
    recipe = RecipeConfig(randaugment="rand-m9-mstd0.5-inc1", random_erasing=0.25, crop_scale=[0.08, 1.0])
    sizes = np.random.default_rng(0).integers(24, 64, (2, 12))
    starts = np.concatenate([[0], np.cumsum(sizes.prod(0))[:-1]])
    pixels = torch.from_numpy(photograph.reshape(-1, 3)[: sizes.prod(0).sum()])

    def made(device):
        augmentation = Augmentation(data, recipe, 0, augment.NormalizeAndErase(data, recipe, 0, device))
        pictures = Pictures(pixels.to(device), torch.zeros(12), starts, *sizes)
        return augmentation(pictures, np.arange(12), augmentation.draw(1, 12))

    fast, plain = forced(made)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=NOISE)
    assert (fast == plain).float().mean() > 0.9


def test_where_triton_does_not_work_the_plain_code_does(monkeypatch, caplog):
    def fails(*_, **named):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(fused, "launch", fails)
    assert not fused._works.__wrapped__(torch.device("cpu"))
    assert "no C compiler" in caplog.text


@pytest.mark.skipif(INTERPRETED, reason="compiles")
def test_compiled_kernels_round_every_product(monkeypatch, tmp_path):
    """For a Hopper GPU, none needed: the instructions of all that is launched, but for libdevice's logarithm and cosine."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launched = {}
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fused, "usable", lambda tensor: True)
    monkeypatch.setattr(fused, "launch", lambda name, _, *arguments, **named: launched.setdefault(name, (arguments, named)))
    data = DataConfig(image_size=32, hflip=0.5, mean=list(MEAN), std=[0.229, 0.224, 0.225])
    recipe = RecipeConfig(randaugment="rand-m9-mstd0.5-inc1", random_erasing=0, crop_scale=[0.08, 1.0])
    augmentation = Augmentation(data, recipe, 0, augment.NormalizeAndErase(data, recipe, 0, torch.device("cpu")))
    sides = np.full(64, 40)
    pictures = Pictures(torch.zeros(1600, 3, dtype=torch.uint8), torch.zeros(64), 0 * sides, sides, sides)
    augmentation(pictures, np.arange(64), augmentation.draw(0, 64))
    assert len(launched) == 8
    types = {torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64", torch.float32: "*fp32", torch.float64: "*fp64"}
    for name, (arguments, named) in launched.items():
        function = getattr(fused.kernels(), name)
        kinds = [types[value.dtype] if isinstance(value, torch.Tensor) else "i32" for value in arguments]
        signature = dict(zip(function.arg_names, [*kinds, *["constexpr"] * len(named)], strict=True))
        constants = {(function.arg_names.index(key),): value for key, value in named.items()}
        source = ASTSource(function, signature, constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=fused.OPTIONS).asm["ptx"]
        floats = set(re.findall(r"\b(\w+)\.(\S*)f(?:32|64)\s", made))
        assert not {operation for operation, _ in floats} & {"fma", "mad"}, name
        assert all("rn" in rounding for operation, rounding in floats if operation in ("add", "sub", "mul", "div")), name


def test_the_kernels_move_a_thirtieth_of_the_plain_codes_bytes_at_most():
    script = runpy.run_path(str(Path(__file__).parent.parent / "experiments" / "performance" / "bytes.py"))
    data = DataConfig(image_size=128, hflip=0.5, mean=list(MEAN), std=[0.229, 0.224, 0.225])
    recipe = RecipeConfig(randaugment="rand-m9-mstd0.5-inc1", random_erasing=0.25, crop_scale=[0.08, 1.0])
    plain, kernels = (script["augmentation"](data, recipe, 128, which) for which in (False, True))
    assert kernels.operators < 20 < 800 < plain.operators
    assert kernels.bytes < plain.bytes / 30
