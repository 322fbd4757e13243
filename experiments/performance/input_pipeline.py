"""What a picture costs the CPU: python experiments/performance/input_pipeline.py FOLDER [--as-they-are]

FOLDER holds photographs (*.jpg, in folders or not), which are made 500 x 375 or 375 x 500 pixels, as most of ImageNet's are.
One core then makes the paper's training pictures of them in three ways, in turn: timm's transforms, all of them; what
`data.pipeline=stream` leaves to the CPU when a GPU does the rest (read, draw boxes, decode, copy to the buffer that is
sent); and that from a packed store. Then the rates of the whole loader with 1, 2, ... processes. About two minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.io import decode_jpeg

from roadmap.base.processes import cores
from roadmap.base.tables import Column, as_markdown
from roadmap.config.compose import compose
from roadmap.config.schema import DataConfig, Experiment
from roadmap.data.batches import BatchPlan
from roadmap.data.images import jpeg, sources
from roadmap.data.images.packing import Form, pack_images
from roadmap.data.loader import read
from roadmap.data.stream import CropReader, Request, Stream

WIDTH, HEIGHT, QUALITY = 500, 375, 97  # some 110 kB, as in ImageNet
PAPER = ["data.image_size=224", "recipe=paper", "recipe.batch_size=32", "recipe.micro_batch=32", "data.pipeline=stream"]
SIDE = 256
COPIES = 500  # the least number of pictures, for epochs that are long enough
COLUMNS = (
    Column("way", "way"),
    Column("cost", "CPU, ms a picture: median (least to most)"),
    Column("share", "timm's / it, round by round: median (least to most)"),
)
RATES = (
    Column("workers", "loader processes"),
    Column("rate", "pictures a second: median (least to most)"),
    Column("cost", "CPU of all processes, ms a picture"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--as-they-are", action="store_true", help="the photographs' own files")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        photographs, packed = Path(place) / "photographs", Path(place) / "packed"
        files = prepare(arguments.folder, photographs, arguments.as_they_are)
        plain = experiment(photographs)
        list(pack_images(plain.data, packed, Form(SIDE, 90, 4096)))
        small = experiment(packed)
        ways = {"timm's transforms": timms(plain), "stream": streamed(plain), f"stream, packed at {SIDE}": streamed(small)}
        ways["stream, each picture decoded whole"] = whole(streamed(plain))
        ways |= {f"read and decode whole, {name}": decoded(plain, decode) for name, decode in DECODERS.items()}
        print(f"{len(files)} photographs, {statistics.mean(path.stat().st_size for path in files) / 1000:.0f} kB each\n")
        print(as_markdown(list(rows(in_turn(ways, arguments.rounds))), COLUMNS, ""))
        for name, one in (("stream", plain), (f"stream, packed at {SIDE}", small)):
            print(f"\n{name}\n\n{as_markdown(list(rates(one, len(cores()), arguments.rounds)), RATES, '')}")


def prepare(folder: Path, root: Path, as_they_are: bool) -> list[Path]:
    """Two classes of the photographs, many times over; the files of the first time."""
    written = []
    paths = sorted(folder.rglob("*.jpg"))
    for split, copies in (("train", -(-COPIES // len(paths))), ("val", 1)):
        for number in range(copies * len(paths)):
            place = root / split / "ab"[number % 2] / f"{number:04}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            path = paths[number % len(paths)]
            if as_they_are:
                place.write_bytes(path.read_bytes())
            elif number < len(paths):
                resized(path).save(place, quality=QUALITY)
            else:
                place.write_bytes(written[number % len(paths)].read_bytes())
            written.append(place)
    return written[: len(paths)]


def resized(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    size = (WIDTH, HEIGHT) if image.width >= image.height else (HEIGHT, WIDTH)
    return ImageOps.fit(image, size)


def experiment(root: Path, *overrides: str) -> Experiment:
    accept = "data.accept=[duplicate]"
    return compose(["+step=gelu", "data=imagenet", f"data.path={root}", accept, *PAPER, *overrides])


# --- the ways: each makes a whole epoch of training pictures -----------------------------------------------------------


def timms(plain: Experiment) -> Callable[[int], int]:
    data, recipe = plain.data, plain.recipe
    found = sources.list_images(data)
    transform = create_transform(
        data.image_size,
        is_training=True,
        auto_augment=recipe.randaugment,
        interpolation="bicubic",
        re_prob=recipe.random_erasing,
        re_mode="pixel",
    )

    def epoch(number: int) -> int:
        for path, _ in found.train.files:
            with Image.open(path) as image:
                transform(image.convert("RGB"))
        return found.train.size

    return epoch


def decoded(plain: Experiment, decode: Callable[[bytes], object]) -> Callable[[int], int]:
    found = sources.list_images(plain.data)

    def epoch(number: int) -> int:
        for path, _ in found.train.files:
            decode(path.read_bytes())
        return found.train.size

    return epoch


DECODERS: dict[str, Callable[[bytes], object]] = {
    "Pillow": lambda content: np.asarray(Image.open(io.BytesIO(content))),
    "torchvision": lambda content: decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)),
    "simplejpeg": lambda content: simplejpeg.decode_jpeg(content, fastdct=False, fastupsample=False),
}


def streamed(plain: Experiment) -> Callable[[int], int]:
    stream = pipeline(plain, 0)
    crops = stream.train.dataset
    assert isinstance(crops, CropReader)
    sent = torch.empty(0, 3, dtype=torch.uint8)

    def epoch(number: int) -> int:
        nonlocal sent
        pictures = 0
        for request in requests(stream, number):
            made = crops[request]
            if len(made.pixels) > len(sent):
                sent = torch.empty_like(made.pixels)
            sent[: len(made.pixels)] = made.pixels
            pictures += len(request.indices)
        return pictures

    return epoch


def whole(epoch: Callable[[int], int]) -> Callable[[int], int]:
    """The same, with so many rows below each box that no JPEG is shortened."""

    def without(number: int) -> int:
        kept, jpeg.BELOW = jpeg.BELOW, 2**16
        try:
            return epoch(number)
        finally:
            jpeg.BELOW = kept

    return without


def requests(stream: Stream, epoch: int) -> Iterator[Request]:
    stream.train_batches.epoch = epoch
    stream.requests.draws = stream.augmentation.draw(epoch, stream.train_batches.size)
    return iter(stream.requests)


def pipeline(plain: Experiment, workers: int) -> Stream:
    chosen = experiment(Path(plain.data.path), f"data.workers={workers}")
    found = sources.checked_images(chosen.data, chosen.recipe.batch_size)
    return Stream(BatchPlan(chosen.data, chosen.recipe, 0, found, torch.device("cpu")))


# --- measuring ---------------------------------------------------------------------------------------------------------


def in_turn(ways: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds a picture of each way in each round, after one that does not count, on one core."""
    everywhere = cores()
    os.sched_setaffinity(0, everywhere[-1:])
    costs: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, epoch in ways.items():
            before = time.process_time()
            pictures = epoch(number)
            costs[way].append((time.process_time() - before) / pictures)
    os.sched_setaffinity(0, everywhere)
    return {way: cost[1:] for way, cost in costs.items()}


def rows(costs: dict[str, list[float]]) -> Iterator[dict[str, str]]:
    timms = next(iter(costs.values()))
    for way, cost in costs.items():
        shares = [theirs / ours for theirs, ours in zip(timms, cost, strict=True)]
        yield {"way": way, "cost": spread([1000 * second for second in cost], 2), "share": spread(shares, 1)}


def spread(values: Sequence[float], digits: int) -> str:
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(statistics.median(values), min(values), max(values), d=digits)


def rates(one: Experiment, most: int, rounds: int) -> Iterator[dict[str, str]]:
    """What comes out of the loader with 1, 2, ... processes, in turn, and the CPU time of all processes."""
    streams = {workers: pipeline(one, workers) for workers in range(1, most + 1)}
    rates, costs = defaultdict(list), defaultdict(list)
    for number in range(rounds + 1):
        for workers, stream in streams.items():
            requests(stream, number)
            began, before = time.perf_counter(), used(stream)
            pictures = sum(len(crops.targets) for crops in read(stream.train))
            rates[workers].append(pictures / (time.perf_counter() - began))
            costs[workers].append(1000 * (used(stream) - before) / pictures)
    for workers in streams:  # the first round starts the processes
        yield {"workers": str(workers), "rate": spread(rates[workers][1:], 0), "cost": spread(costs[workers][1:], 2)}


def used(stream: Stream) -> float:
    """CPU seconds of this process and of the loader's, in hundredths (Linux)."""
    loader: Any = stream.train._iterator
    processes = [os.getpid(), *(worker.pid for worker in ([] if loader is None else loader._workers))]
    times = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13] for process in processes]
    return sum(int(ticks) for pair in times for ticks in pair) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
