"""Weights that a run keeps, and weights that a run starts from."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import QUICK
from safetensors.torch import load_file

import roadmap.timm
from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.data.images import sources
from roadmap.record.folder import RunFolder
from roadmap.record.result import dump_result, load_result
from roadmap.record.weights import weights_file
from roadmap.run.execute import execute

SHORT = [*QUICK, "data.image_size=32", "recipe.epochs=1", "recipe.warmup_epochs=0"]


def trained(folder, *overrides):
    """A run, trained in this process; its folder and its result."""
    experiment = compose(["+step=gelu", *SHORT, f"output={folder}", *overrides])
    result = execute(experiment, sources.checked_images(experiment.data, experiment.recipe.batch_size), "0" * 16)
    return RunFolder.of(experiment, "0" * 16).path, result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, _ = trained(tmp_path_factory.mktemp("run"), "recipe.ema=0.9")
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """The same run in a folder that a test may spoil."""
    return shutil.copytree(run, tmp_path / "study" / "runs" / run.name)


# What a run keeps.


def test_a_run_keeps_the_weights_that_were_scored_as_safetensors(run):
    kept, network = load_file(run / "weights.safetensors"), roadmap.timm.load_trained(run)
    assert not (run / "weights.pt").exists()
    assert kept.keys() == network.state_dict().keys()
    assert all(torch.equal(weight, kept[name]) for name, weight in network.state_dict().items())
    assert not any(name.startswith("module") for name in kept)


def test_weights_of_an_earlier_version_still_load(copy):
    weights = load_file(copy / "weights.safetensors")
    torch.save(weights, copy / "weights.pt")
    (copy / "weights.safetensors").unlink()
    network = roadmap.timm.load_trained(copy)
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())


def test_a_record_names_its_classes_and_one_without_reads_as_it_was_written(run):
    written = json.loads((run / "result.json").read_text())
    assert written["class_names"] == [str(digit) for digit in range(10)]
    older = {key: value for key, value in written.items() if key != "class_names"}
    assert load_result(older, run).class_names is None
    assert dump_result(load_result(older, run)) == older


def test_weights_of_a_copied_record_are_those_of_the_run_itself(copy, tmp_path):
    copied = tmp_path / "other" / "runs" / copy.name
    copied.mkdir(parents=True)
    RunFolder(copied).copy_record(RunFolder(copy))  # their `study` is "single", the folder that the run was trained in
    with pytest.raises(Refused, match="keep_weights"):
        weights_file(copied)
    copy.parent.parent.rename(tmp_path / "single")
    assert weights_file(copied) == tmp_path / "single" / "runs" / copy.name / "weights.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "cannot be read"),
        (lambda file: file.write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda file: file.unlink(), "keep_weights=true"),
        (lambda file: (file.parent / "result.json").unlink(), "no finished run"),
    ],
)
def test_weights_that_are_not_whole_are_refused(copy, spoil, message):
    spoil(copy / "weights.safetensors")
    with pytest.raises(Refused, match=message):
        roadmap.timm.load_trained(copy)
