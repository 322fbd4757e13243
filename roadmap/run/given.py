"""The weights that a run starts from, in its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from roadmap.base.errors import Refused
from roadmap.config.schema import Experiment
from roadmap.model.saved import as_safetensors, read_weights
from roadmap.model.start import check_fits, load_start, start_shapes, start_weights
from roadmap.record.weights import finished_run, hash_of, weights_file
from roadmap.tasks.choose import choose_task
from roadmap.tasks.task import Task


def try_given(experiment: Experiment, classes: Sequence[str]) -> None:
    """Refuse what `load_given` would, in a network that is thrown away."""
    load_given(experiment, classes, *_network(experiment, classes))


def try_follow(experiment: Experiment, before: Experiment, classes: Sequence[str], said: str) -> None:
    """Refuse a run whose network does not take the weights that a run like `before` will have."""
    (task, network), (_, theirs) = (_network(run, classes) for run in (experiment, before))
    load_start(task.fill(network), theirs.state_dict(), said)


def try_outline(experiment: Experiment) -> None:
    """Refuse weights of timm's whose names or shapes are not those of the run's network, before they are fetched."""
    with torch.device("meta"):
        task, network = _network(experiment, ("one", "other"))  # a classifier may be of other classes
    init = str(experiment.init)
    check_fits(task.fill(network), start_shapes(init, experiment.built_at), f"init={init}", same_targets=False)


def _network(experiment: Experiment, classes: Sequence[str]) -> tuple[Task, nn.Module]:
    task = choose_task(experiment, classes)
    return task, task.network(experiment.model, experiment.reference)


def load_given(experiment: Experiment, classes: Sequence[str], task: Task, network: nn.Module) -> list[str]:
    """Fill a network, in place, with the weights that its run is to start from, if any; see `model.start.load_start`."""
    if experiment.init is None and experiment.after is None:
        return []
    weights, said, place = _given(experiment)
    theirs = finished_run(place).class_names if place.is_dir() else None
    return load_start(task.fill(network), weights, said, theirs is None or list(theirs) == list(classes))


def _given(experiment: Experiment) -> tuple[Mapping[str, Tensor], str, Path]:
    """The start weights, how they were named, and where they are."""
    if experiment.after is not None:
        place = Path(experiment.after)
        return read_weights(weights_file(place)), f"after={place}", place
    init = str(experiment.init)
    weights = start_weights(init, experiment.built_at)
    if hash_of(as_safetensors(weights), f"init={init}") != experiment.init_hash:
        raise Refused(f"init={init}: its weights are no longer those that the run was planned with")
    return weights, f"init={init}", Path(init).expanduser()
