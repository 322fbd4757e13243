"""A run that is killed again and again ends with the bits of the run that nobody touched."""

from __future__ import annotations

import random
import signal
import time

import pytest
import torch
from conftest import QUICK
from killing import killed_after, one_run, server
from runs import images_of
from safetensors.torch import load_file

from roadmap.base.errors import EXIT_STOPPED
from roadmap.config.compose import compose
from roadmap.config.steps import known_steps
from roadmap.data.images import sources
from roadmap.record.folder import RunFolder

# Everything that draws chance or holds state: shuffling, loader processes, RandAugment, erasing, mixup, cutmix,
# stochastic depth, the moving average.
EVERYTHING = [
    *QUICK,
    "recipe.epochs=3",
    "recipe.batch_size=36",
    "recipe.ema=0.9",
    "recipe.mixup=0.8",
    "recipe.cutmix=1.0",
    "recipe.randaugment=rand-m9-mstd0.5-inc1",
    "recipe.random_erasing=0.25",
    "model.drop_path=0.2",
    "data.workers=2",
    "runtime.checkpoint_seconds=0.15",
    "runtime.keep_state=true",
]


def record(folder):
    """Everything that must come out equal."""
    timeless = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in folder.history()]
    result = {k: v for k, v in vars(folder.result()).items() if k not in ("seconds", "images_per_second", "git")}
    state = torch.load(folder.path / "state.pt", weights_only=True)  # no map_location: a machine without a GPU reads it too
    tensors = {key: state[key] for key in ("network", "average", "optimizer", "epoch", "update")}
    weights = load_file(folder.path / "weights.safetensors")
    return timeless, result, (folder.path / "updates.csv").read_text(), flat(tensors) | flat({"weights": weights})


def flat(node, name=""):
    if isinstance(node, dict):
        return {key: value for k, v in node.items() for key, value in flat(v, f"{name}.{k}").items()}
    return {name: node.numpy().tobytes() if isinstance(node, torch.Tensor) else node}


def overrides(step, folder):
    return [f"+step={step}", *EVERYTHING, f"output={folder}"]


def folder_of(lines):
    experiment = compose(lines)
    return RunFolder.of(experiment, sources.fingerprint(experiment.data, images_of(experiment)))


def undisturbed(lines):
    process = server().Process(target=one_run, args=(lines,))
    started = time.monotonic()
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return record(folder_of(lines)), time.monotonic() - started


def disturbed(lines, kills, draw):
    """Start and kill `kills` times, then let it end; each time with other loader processes.

    A kill comes some moments after a checkpoint that is newer than those of the attempt before: were it by the clock, a busy
    machine might never come further.
    """
    folder, seen, done = folder_of(lines), "", 0
    while True:
        process = server().Process(target=one_run, args=([*lines, f"data.workers={draw.choice([0, 2, 3])}"],))
        process.start()
        if done < kills:
            while process.is_alive() and newest(folder) <= seen:
                time.sleep(0.005)
        if not killed_after(process, draw.uniform(0.0, 0.3) if done < kills else 300):
            assert process.exitcode == 0
            return done
        seen, done = newest(folder), done + 1


def newest(folder):
    return max((path.name for path in folder.checkpoints.glob("*.pt")), default="")


DENSE = [  # two epochs, the second one a part
    "scale=atto", "model.width=8", "model.depths=[1,1,1,1]", "model.drop_path=0.2", "recipe.batch_size=36", "recipe.updates=14",
    "recipe.ema=0.9", "data.image_size=32", "data.held_out=0.03", "data.hflip=0.5", "data.workers=2", "head.channels=16",
    "runtime.threads=1", "runtime.progress=false", "runtime.checkpoint_seconds=0.15", "runtime.keep_state=true",
]  # fmt: skip


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_kills_change_no_bit_of_a_dense_task(tmp_path, task, storm, figure):
    """What is drawn there: shuffling, views, mirroring, sampled regions, dropout, stochastic depth."""
    draw = random.Random(task)
    lines = ["+step=gelu", f"task={task}", *DENSE]
    if task == "segmentation":
        lines += ["recipe.jitter=[0.5,2]", "recipe.class_share=0.9", "recipe.photometric=true"]
    whole, seconds = undisturbed([*lines, f"output={tmp_path / 'whole'}"])
    killed = [*lines, f"output={tmp_path / 'killed'}"]
    kills = disturbed(killed, 10 if storm else 2, draw)
    assert record(folder_of(killed)) == whole
    assert [line["epoch"] for line in whole[0]] == [0, 1]
    assert len(whole[2].splitlines()) == 1 + 14
    figure(f"{kills} kills, 0 different bits, {seconds:.0f} s undisturbed")


STEPS = list(known_steps())
LONG = pytest.mark.storm
GPU = ("runtime.device=cuda", "runtime.deterministic=true", "runtime.compile=none")


@pytest.mark.parametrize("step", [pytest.param(s, marks=[] if s == "resnet" else LONG) for s in STEPS])
def test_kills_change_no_bit(tmp_path, step, storm, figure):
    draw = random.Random(step)
    whole, _ = undisturbed(overrides(step, tmp_path / "whole"))
    lines = overrides(step, tmp_path / "killed")
    kills = disturbed(lines, 5 if storm else 3, draw)
    assert record(folder_of(lines)) == whole
    assert kills == (5 if storm else 3)
    rows = whole[2].splitlines()  # each update once and in order, though many were done twice
    assert rows[0] == "epoch,update,loss,gradient_norm"
    assert [tuple(map(int, row.split(",")[:2])) for row in rows[1:]] == [(e, u) for e in range(3) for u in range(30)]
    figure(f"{kills} kills, 0 different bits")


@pytest.mark.gpu
@pytest.mark.parametrize("step", ["resnet", "separate_downsampling"])
def test_kills_change_no_bit_on_a_gpu(tmp_path, step):
    whole, _ = undisturbed([*overrides(step, tmp_path / "whole"), *GPU])
    lines = [*overrides(step, tmp_path / "killed"), *GPU]
    assert disturbed(lines, 5, random.Random(step)) == 5
    assert record(folder_of(lines)) == whole


@pytest.mark.gpu
def test_kills_change_no_bit_of_a_segmenter_on_a_gpu(tmp_path):
    lines = ["+step=gelu", "task=segmentation", *DENSE, "recipe.jitter=[0.5,2]", *GPU]
    whole, _ = undisturbed([*lines, f"output={tmp_path / 'whole'}"])
    killed = [*lines, f"output={tmp_path / 'killed'}"]
    disturbed(killed, 5, random.Random("segmentation"))
    assert record(folder_of(killed)) == whole


def test_a_deterministic_run_asks_torch_for_it(tmp_path):
    """On a CPU it must change nothing; another run in the same process is free of it again."""
    from roadmap.train.precision import repeat_bits

    try:
        repeat_bits(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
        lines = [*overrides("gelu", tmp_path / "same"), "runtime.deterministic=true", "recipe.epochs=1", "recipe.warmup_epochs=0"]
        process = server().Process(target=one_run, args=(lines,))
        process.start()
        process.join(120)
        assert process.exitcode == 0
    finally:
        repeat_bits(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=LONG), pytest.param(signal.SIGUSR1, marks=LONG)]
)
def test_a_signal_at_any_time_saves_and_leaves(tmp_path, number, storm, figure):
    """Also while it starts, evaluates or writes its result: 143 and the same bits later, or it was done."""
    draw = random.Random(number)
    whole, seconds = undisturbed(overrides("gelu", tmp_path / "whole"))
    lines = overrides("gelu", tmp_path / "stopped")
    codes, slowest = [], 0.0
    for _ in range(12 if storm else 2):
        process = server().Process(target=one_run, args=(lines,))
        process.start()
        time.sleep(draw.uniform(0.05, 0.4) * seconds)
        asked = time.monotonic()
        killed_after(process, 0, number)
        slowest = max(slowest, time.monotonic() - asked)
        codes.append(process.exitcode)
    assert set(codes) <= {EXIT_STOPPED, 0}
    assert slowest < 30
    assert folder_of(lines).holder() is None
    disturbed(lines, 0, draw)
    assert record(folder_of(lines)) == whole
    figure(f"{len(codes)} times {number.name}: exit codes {sorted(set(codes))}, the slowest after {slowest:.1f} s")
