"""The weights that a run starts from, found and checked before it; torch is imported where a run has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from roadmap.base.errors import Refused, nearest, placed
from roadmap.config.checks import TIMM, check, study_folder
from roadmap.config.identity import decisive, differences
from roadmap.config.schema import Experiment
from roadmap.model.names import check_weights
from roadmap.record.study import read_plan
from roadmap.record.weights import finished_run, located, weights_file

OF_RECIPE = ("drop_path",)  # of the model, in which a run may differ from the one that it starts from


def resolved(experiment: Experiment) -> Experiment:
    """The same with what its identity holds of its start: the hash of `init`'s weights, or the run that `study.start` has of it.

    Raises:
        Refused: where there is none.

    """
    return begun(hashed(experiment), experiment.row)


def begun(experiment: Experiment, row: str) -> Experiment:
    """The same, started from the run of this row and of its seed in the study that `study.start` names, if it names one.

    Raises:
        Refused: where that study planned no such run.

    """
    start = experiment.study.start
    if start is None or experiment.after is not None:
        return experiment
    folder = study_folder(start)
    with placed(f"study.start={start}"):
        plan = read_plan(folder)
    rows = [variant.name for variant in plan.variants]
    if row not in rows:
        raise Refused(f"study.start={start}: has no row {row!r}; {nearest(row, rows)}")
    runs = dict(zip(plan.seeds, plan.row(row).runs, strict=False))
    if experiment.seed not in runs:
        raise Refused(f"study.start={start}: has no seed {experiment.seed}; its seeds are {', '.join(map(str, runs))}")
    return following(experiment, folder / "runs" / runs[experiment.seed])


def following(experiment: Experiment, run: Path) -> Experiment:
    """The same, started from the weights of the run in this folder."""
    after = replace(experiment, after=str(run))
    check(after)
    return after


def hashed(experiment: Experiment) -> Experiment:
    """The same with the hash of the weights that `init` names, which the run's identity holds.

    Raises:
        Refused: where there are none, or they cannot be read.

    """
    init = experiment.init
    if init is None:
        return experiment
    of_timm = init.startswith(TIMM)
    if of_timm:
        check_weights(init, f"init={init}")
    modified = 0 if of_timm else located(init).stat().st_mtime_ns
    from roadmap.model.start import start_hash  # torch
    from roadmap.run.given import try_outline

    if of_timm:
        try_outline(experiment)
    return replace(experiment, init_hash=start_hash(init, experiment.built_at, modified))


def check_start(experiment: Experiment, classes: Sequence[str]) -> None:
    """Refuse start weights that are not those of the run's network, or a run of `study.start` that had another one."""
    if experiment.study.start is not None and experiment.after is not None:
        _check_kin(experiment, Path(experiment.after))
    if experiment.init is not None or experiment.after is not None:
        from roadmap.run.given import try_given  # torch

        try_given(experiment, classes)


def _check_kin(experiment: Experiment, run: Path) -> None:
    """Refuse a start whose record is of another network, which weights of equal shapes do not show, or that kept no weights."""
    said = f"study.start={experiment.study.start}"
    result, own = finished_run(run), decisive(experiment, "")["model"]
    weights_file(run)
    if result.scale != experiment.scale.name:
        raise Refused(f"{said}: {run.name} is of scale {result.scale}; this run is of scale {experiment.scale.name}")
    kept, ours = ({key: value for key, value in model.items() if key not in OF_RECIPE} for model in (result.model, own))
    if unequal := differences(kept, ours, "model"):
        raise Refused(f"{said}: {run.name} is of another network, there / here: {'; '.join(unequal)}")
