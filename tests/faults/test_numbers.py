"""Numbers that are not finite and memory that is not there: said, never mended in silence."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import QUICK
from runs import executed, find_room, prepared, train

from roadmap.base.errors import Diverged, OutOfMemory
from roadmap.config.compose import compose
from roadmap.record.folder import RunFolder
from roadmap.train import checkpoint
from roadmap.train.loop import Trainer


def made(folder, step, *overrides):
    return prepared(compose([f"+step={step}", *QUICK, "recipe.batch_size=64", *overrides, f"output={folder}"]))


def test_a_running_statistic_that_is_not_finite_is_divergence_though_loss_and_gradient_are_finite(tmp_path):
    """LayerNorm recovers from one bad batch and BatchNorm's running variance never does: it would falsify the comparison."""
    run = made(tmp_path, "gelu", "runtime.checkpoint_seconds=0")
    poison = iter([False, False, True])

    def hook(module, arguments, output):
        if next(poison, False):
            module.running_var.data[0] = float("inf")

    norm = next(module for module in run.network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.register_forward_hook(hook)
    with pytest.raises(Diverged, match=r"BatchNorm's running statistics is .* in step gelu, epoch 1, update 3"):
        train(run)
    state, said = checkpoint.load_newest(run.state.folder.checkpoints)
    assert said == []
    assert state["update"] == 2
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_a_diverged_run_is_a_result_and_its_last_state_is_finite(tmp_path, monkeypatch):
    experiment = compose(
        ["+step=gelu", *QUICK, "recipe.batch_size=64", "runtime.checkpoint_seconds=0", f"output={tmp_path}", "recipe.epochs=3"]
    )
    whole, calls = Trainer._step, []

    def spoilt(self, batches):
        calls.append(self.state.update)
        numbers = whole(self, batches)
        return numbers * float("nan") if len(calls) == 20 else numbers

    monkeypatch.setattr(Trainer, "_step", spoilt)
    result = executed(experiment)
    folder = RunFolder.of(experiment, "0" * 16)
    assert (result.status, result.score) == ("diverged", None)
    assert folder.result() == result
    state, said = checkpoint.load_newest(folder.checkpoints)
    assert said == []
    assert all(t.isfinite().all() for t in state["network"].values())
    assert executed(experiment) == result  # not tried again
    assert len(calls) == 20


def test_memory_that_is_not_enough_is_said_with_what_would_fit(tmp_path, monkeypatch):
    """The room is for 20 images; of the divisors of 64 the next is 16."""
    run = made(tmp_path, "resnet", "recipe.epochs=1")
    tried, fault = find_room(monkeypatch, run, 20)
    assert re.search("recipe.batch_size=64: .* 16 fit: recipe.micro_batch=16 .*BatchNorm", str(fault)) and fault.exit_code == 1
    assert tried == [64, 32, 16]
    assert run.recipe.batch_size == 64


@pytest.mark.gpu
def test_a_gpu_without_enough_memory_really(tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        line = ["+step=resnet", *QUICK, "data.image_size=224", "recipe.batch_size=1024", "model.width=64", f"output={tmp_path}"]
        experiment = compose(line)
        with pytest.raises(OutOfMemory, match=r"recipe.batch_size=1024: .* fit: recipe.micro_batch="):
            executed(experiment)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
