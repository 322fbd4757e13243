"""Runs in this process: prepared, trained, and what they see."""

from __future__ import annotations

import pytest
import torch

from roadmap.base.errors import OutOfMemory, Stopped
from roadmap.base.signals import Stop
from roadmap.data.images import sources
from roadmap.record.folder import RunFolder
from roadmap.run.execute import execute
from roadmap.run.prepare import prepare
from roadmap.train.progress import Bar
from roadmap.train.ranks import Ranks

ALONE = Ranks(torch.device("cpu"))


def images_of(experiment):
    return sources.checked_images(experiment.data, experiment.recipe.batch_size, experiment.task.name.target)


def prepared(experiment, ranks=ALONE):
    return prepare(experiment, images_of(experiment), RunFolder.of(experiment, "0" * 16), ranks)


def executed(experiment, fingerprint="0" * 16):
    return execute(experiment, images_of(experiment), fingerprint)


def trained(experiment):
    """The folder of a run that is trained, known by its images."""
    fingerprint = sources.fingerprint(experiment.data, images_of(experiment))
    executed(experiment, fingerprint)
    return RunFolder.of(experiment, fingerprint).path


class StopAfter(Stop):
    """Asked after so many updates."""

    def __init__(self, updates):
        self.left = updates

    @property
    def asked(self):
        self.left -= 1
        return None if self.left > 0 else "SIGTERM"


def train(run, stop=None):
    with Bar(1, 0, "", show=False) as bar:
        return list(run.train(bar, stop or Stop()))


def stopped(run, updates):
    """The epochs of a run that is stopped after so many updates."""
    lines = []
    with pytest.raises(Stopped), Bar(1, 0, "", show=False) as bar:
        lines.extend(iter(run.train(bar, StopAfter(updates))))
    return lines


def weights(run):
    return {name: tensor.clone() for name, tensor in run.network.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def find_room(monkeypatch, run, most):
    """Train where there is room for so many images; how many were tried, and what was said."""
    loss, tried = run.step.loss, []

    def small(network, batch):
        tried.append(len(batch.images))
        if len(batch.images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return loss(network, batch)

    monkeypatch.setattr(run.step, "loss", small)
    try:
        train(run)
    except OutOfMemory as fault:
        return tried, fault
