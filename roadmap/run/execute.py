"""One run from a checked experiment to its record: the same code for `roadmap.run` and for every engine of a sweep."""

from __future__ import annotations

import logging
import shutil
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch

from roadmap.base import processes
from roadmap.base.errors import Diverged, StorageFault
from roadmap.base.redaction import Redacting
from roadmap.base.signals import Stop, stop_on_signals
from roadmap.config.checks import check_processes, study_folder
from roadmap.config.identity import decisive, start_of
from roadmap.config.parts import load
from roadmap.config.schema import Experiment
from roadmap.data.images.inventory import Inventory
from roadmap.record.alarms import alarms, at_chance
from roadmap.record.folder import RunFolder
from roadmap.record.provenance import provenance
from roadmap.record.result import RunResult
from roadmap.record.weights import WEIGHTS
from roadmap.run.prepare import prepare
from roadmap.tracking.tracker import Tracker, open_tracker
from roadmap.train import checkpoint
from roadmap.train.loop import Trainer
from roadmap.train.progress import Bar
from roadmap.train.ranks import Ranks, process_group
from roadmap.train.state import State

log = logging.getLogger("roadmap")
SLOW = 3.0  # times as long
WHY_SLOW = (
    "other processes may use the same cores or the same GPU; a run that is begun anew beside them, and goes on from its "
    "checkpoint, lets its threads wait asleep (GOMP_SPINCOUNT=0)"
)


def execute(experiment: Experiment, inventory: Inventory, fingerprint: str) -> RunResult:
    """Train, evaluate and write down one run; a run that is done is read, not repeated.

    Raises:
        Held, OutOfMemory, Refused, StorageFault, Stopped: see `roadmap.base.errors`. A run that diverges is a result, no error.

    """
    processes.collect_as_usual()
    load(experiment.parts)
    folder = RunFolder.of(experiment, fingerprint)
    done = folder.result()
    if done is not None:
        return done
    check_processes(experiment, processes.world_size())
    with (
        folder.claimed() if processes.rank() == 0 else nullcontext(folder) as claimed,
        process_group(experiment.runtime.device) as ranks,
    ):
        done = ranks.gather(claimed.result() if ranks.first else None)[0]  # it may have been written just before the claim
        if done is not None:
            return done
        if ranks.first:
            return ranks.gather(_write(experiment, inventory, claimed, ranks, fingerprint))[0]
        _follow(prepare(experiment, inventory, claimed, ranks))
        return ranks.gather(None)[0]


def _follow(trainer: Trainer) -> None:
    """Train along with the process that writes."""
    with stop_on_signals() as stop, Bar(1, 0, "", show=False) as bar, suppress(Diverged):
        trainer.state.resume()
        for _ in trainer.train(bar, stop):
            pass


def _write(experiment: Experiment, inventory: Inventory, folder: RunFolder, ranks: Ranks, fingerprint: str) -> RunResult:
    """Train as the process that writes, with a log in the run's folder."""
    folder.write_config(experiment)
    handler = _log_to(folder)
    try:
        with stop_on_signals() as stop:
            trainer = prepare(experiment, inventory, folder, ranks)
            return _train(experiment, trainer, inventory, fingerprint, stop)
    finally:
        log.removeHandler(handler)
        handler.close()


def _train(experiment: Experiment, trainer: Trainer, inventory: Inventory, fingerprint: str, stop: Stop) -> RunResult:
    """Train to the end, and write the result last."""
    state, folder = trainer.state, trainer.state.folder
    for unusable in state.resume():
        log.warning(unusable)
    folder.forget_epochs(state.epoch)
    _check_room(trainer)
    result = _begun(experiment, trainer, inventory, fingerprint)
    with closing(open_tracker(experiment, folder)) as tracker:
        try:
            _follow_epochs(trainer, tracker, stop, f"{experiment.row} seed {experiment.seed}")
            result = _ended(trainer, result)
            if at_chance(result):
                result = replace(result, score_by_batch=trainer.score_by_batch())
            for alarm in alarms(result):
                log.warning(alarm)
        except Diverged as error:
            log.error("%s", error)
            result = replace(result, status="diverged", reason=str(error))
        fault = _keep(state) if result.done else None
        folder.write_result(result)
    if result.done:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # those of a diverged run show what it was before it diverged
    if fault is not None:
        raise fault
    return result


def _follow_epochs(trainer: Trainer, tracker: Tracker, stop: Stop, title: str) -> None:
    """Write each epoch into the record as it ends."""
    state, metric, updates = trainer.state, trainer.task.metric, trainer.data.updates
    said, done = False, state.epoch * updates + state.update
    with Bar(trainer.recipe.length(updates), done, title, state.runtime.progress) as bar:
        for line in trainer.train(bar, stop):
            state.updates.flush()
            state.folder.add_epoch(line)
            tracker.update()
            if trainer.slower > SLOW and not said:
                said = True
                log.warning("updates take %.0f times as long as at first: %s", trainer.slower, WHY_SLOW)
            score = metric.text(line[metric.key]) if metric.key in line else "not evaluated"
            log.info("epoch %d  loss %.4f  %s", line["epoch"] + 1, line["train_loss"], score)


def _check_room(trainer: Trainer) -> None:
    """Warn before training where the disk has no room for the run's checkpoints."""
    path = trainer.state.folder.path
    copies = 3 if trainer.state.average is None else 4  # weights, AdamW's two moments, the averaged weights
    needed = (checkpoint.KEPT + 1) * copies * sum(weight.nbytes for weight in trainer.network.parameters())
    free = shutil.disk_usage(path).free
    if free < needed:
        log.warning("%s: %.0f MB are free, the run's checkpoints need %.0f MB", path, free / 1e6, needed / 1e6)


def _keep(state: State) -> StorageFault | None:
    """Write the trained weights and state; a disk that has no room for them must not cost the result."""
    state.folder.check_claim()
    try:
        if state.runtime.keep_weights:
            checkpoint.write_weights(state.folder.path / WEIGHTS, state.scored.state_dict())
        if state.runtime.keep_state:
            checkpoint.write(state.folder.path / "state.pt", state.dump())
    except StorageFault as fault:
        log.error("%s", fault)
        return fault
    return None


def _log_to(folder: RunFolder) -> logging.Handler:
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setFormatter(Redacting("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return handler


# --- what a run writes down of itself ---------------------------------------------------------------------------------


def _begun(experiment: Experiment, trainer: Trainer, inventory: Inventory, fingerprint: str) -> RunResult:
    """What the run is; the outcome is filled in at the end."""
    settings, device = decisive(experiment, fingerprint), trainer.ranks.device
    cost = trainer.task.cost(experiment.model, experiment.reference)
    counts = {"classes": len(inventory.classes), "train": inventory.train.size, "val": inventory.val.size}
    return RunResult(
        run=trainer.state.folder.path.name,
        study=experiment.study.name,
        step=experiment.step,
        scale=experiment.scale.name,
        seed=experiment.seed,
        metric=trainer.task.metric,
        gmacs=cost.conv_linear / 1e9,
        gmacs_backbone=None if cost.backbone is None else cost.backbone / 1e9,
        gmacs_total=None if experiment.reference else cost.total / 1e9,  # of a reference norms are not counted
        params_m=cost.params / 1e6,
        activations_m=cost.activations / 1e6,
        seconds=trainer.state.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        instructions=torch.backends.cpu.get_cpu_capability(),
        processes=trainer.ranks.world,
        precision=trainer.step.precision.value,
        pipeline=trainer.data.name.value,
        compiled=trainer.compiled.value,
        threads=torch.get_num_threads(),
        recipe_name=experiment.recipe.name,
        head=settings.get("head"),
        model=settings["model"],
        data={**settings["data"], **counts},
        recipe=settings["recipe"],
        init=_start(experiment),
        class_names=list(inventory.classes),
        **provenance(),
    )


def _start(experiment: Experiment) -> dict[str, str] | None:
    if experiment.after is None:
        return start_of(experiment) or None
    of = experiment.study.start
    return {"run": Path(experiment.after).name} | ({} if of is None else {"study": study_folder(of).resolve().name})


def _ended(trainer: Trainer, described: RunResult) -> RunResult:
    """The final epoch, as declared before training; never the best one.

    Raises:
        StorageFault: where the record lacks it.

    """
    folder = trainer.state.folder
    history = folder.history()
    if not history or history[-1]["epoch"] != trainer.epochs - 1:
        raise StorageFault(f"{folder.history_file}: the last epoch is not in it; delete the run's folder to train again")
    last = history[-1]
    beside = ("epoch", "train_loss", "lr", "images_per_second", "seconds")
    return replace(
        described,
        status="done",
        scores={key: value for key, value in last.items() if key not in beside},
        train_loss=last["train_loss"],
        images_per_second=last["images_per_second"],
        seconds=trainer.state.seconds,
    )
