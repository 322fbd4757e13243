"""Several processes, or one that accumulates: the same update, the same weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import QUICK
from runs import images_of, prepared, trained
from safetensors.torch import load_file

from roadmap.base.errors import Refused
from roadmap.base.processes import check_alone
from roadmap.config.checks import check_processes
from roadmap.config.compose import compose
from roadmap.data.batches import BatchPlan
from roadmap.train.ranks import Ranks
from roadmap.train.update import RunningStatistics

WHOLE = [
    "recipe.epochs=1", "recipe.batch_size=256", "recipe.micro_batch=128", "recipe.mixup=0.8", "recipe.cutmix=1.0",
    "recipe.ema=0.9", "recipe.randaugment=rand-m9-mstd0.5-inc1", "recipe.random_erasing=0.25", "model.drop_path=0.3",
]  # fmt: skip


def run(tmp_path, *overrides, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "roadmap.run", *QUICK, "runtime.device=cpu", f"output={tmp_path}", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)


def record(tmp_path):
    file = next(tmp_path.rglob("result.json"))
    return json.loads(file.read_text()), load_file(file.parent / "weights.safetensors"), file.parent


def test_two_processes_train_the_weights_of_one_that_accumulates(tmp_path):
    step = "resnet"  # BatchNorm, whose statistics are the hard part
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    experiment = compose([f"+step={step}", *QUICK, *WHOLE, "runtime.device=cpu", f"output={tmp_path / 'one'}"])
    trained(experiment)
    shared = run(tmp_path / "two", f"+step={step}", *WHOLE, processes=2)
    assert shared.returncode == 0, shared.stderr
    (one, weights, _), (two, others, folder) = record(tmp_path / "one"), record(tmp_path / "two")
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []  # two summands: no order to round by
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["run"] == two["run"]
    scores = one["scores"], two["scores"]
    assert len({(score["top1"], score["top1_without_ema"]) for score in scores}) == 1
    assert scores[1]["val_loss"] == pytest.approx(scores[0]["val_loss"], rel=1e-6)
    assert shared.stdout.count("top-1") == 1
    assert (folder / "log.txt").read_text().count("epoch 1 ") == 1


def test_the_images_of_an_update_are_shared_out_whole():
    experiment = compose(["+step=gelu", "recipe.batch_size=96", "recipe.micro_batch=8", "scale=atto"])
    found = images_of(experiment)

    def epoch(rank, world, split):
        plan = BatchPlan(experiment.data, experiment.recipe, experiment.seed, found, torch.device("cpu"), rank, world)
        return list(plan.samplers()[split])

    one, four = epoch(0, 1, 0), [epoch(rank, 4, 0) for rank in range(4)]
    dealt = [four[i % 4][i // 4] for i in range(len(one))]
    assert dealt == one
    assert len(one) == 11 * 12
    seen = sorted(index for world in (1, 3) for rank in range(world) for batch in epoch(rank, world, 1) for _, index in batch)
    assert seen == sorted([*range(714)] * 2)


def test_running_statistics_move_once_by_the_mean():
    torch.manual_seed(0)
    norm, images = torch.nn.BatchNorm2d(3), [torch.randn(4, 3, 5, 5) for _ in range(3)]
    statistics = RunningStatistics(norm, Ranks(torch.device("cpu")), 3)
    statistics.begin()
    for image in images:
        norm(image)
        statistics.collect()
    statistics.settle()
    means = torch.stack([image.mean((0, 2, 3)) for image in images])
    variances = torch.stack([image.var((0, 2, 3)) for image in images])
    torch.testing.assert_close(norm.running_mean, 0.1 * means.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variances.mean(0))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("overrides", "processes", "says"),
    [
        ([], 2, r"recipe.micro_batch=null: must be a number with 2 processes.*for example 64"),
        (["recipe.micro_batch=32", "data.download=true"], 2, "data.download=true: must be false with 2 processes"),
        (["recipe.micro_batch=64"], 4, r"recipe.micro_batch=64: must be such that recipe.batch_size=128 gives 4.*for example 32"),
        (["recipe.micro_batch=32"], 3, r"recipe.batch_size=128: must be a multiple of the 3 processes"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(overrides, processes, says):
    experiment = compose(["+step=gelu", *overrides])
    with pytest.raises(Refused, match=says):
        check_processes(experiment, processes)


@pytest.mark.parametrize(
    "overrides", [["recipe.micro_batch=48"], ["recipe.micro_batch=1"], ["recipe.micro_batch=32", "runtime.compile=graphs"]]
)
def test_micro_batches_that_cannot_be_are_refused(overrides):
    with pytest.raises(Refused):
        compose(["+step=resnet", *overrides])


def test_batchnorm_is_not_synchronised_on_cpus(tmp_path):
    experiment = compose(["+step=resnet", *QUICK, "recipe.sync_batchnorm=true", f"output={tmp_path}"])
    with pytest.raises(Refused, match=r"recipe\.sync_batchnorm=true"):
        prepared(experiment, Ranks(torch.device("cpu"), 0, 2))


def test_sweeps_and_benches_start_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("roadmap.sweep", "roadmap.bench"):
        with pytest.raises(Refused, match=f"{command} under torchrun"):
            check_alone(command)


def test_a_refusal_is_said_once(tmp_path):
    done = run(tmp_path, "+step=gelu", processes=2)
    assert done.returncode != 0
    assert done.stderr.count("recipe.micro_batch=null: must be") == 1
    assert not list(tmp_path.rglob("runs"))
