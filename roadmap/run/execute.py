"""One run from a checked experiment to its record: the same code for `roadmap.run` and for every engine of a sweep."""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext, suppress
from dataclasses import replace

from roadmap.base import processes
from roadmap.base.errors import Diverged, StorageFault
from roadmap.base.redaction import Redacting
from roadmap.base.signals import Stop, stop_on_signals
from roadmap.config.checks import check_processes
from roadmap.config.schema import Experiment
from roadmap.data.images.inventory import Inventory
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.run.describe import describe, outcome
from roadmap.tracking.tracker import tracking
from roadmap.train import checkpoint
from roadmap.train.loop import Session
from roadmap.train.progress import Bar
from roadmap.train.ranks import Ranks, process_group

log = logging.getLogger("roadmap")


def execute(experiment: Experiment, found: Inventory, fingerprint: str) -> RunResult:
    """Train, evaluate and write down one run; a run that is done is read, not repeated.

    Raises:
        Held, OutOfMemory, Refused, StorageFault, Stopped: see `roadmap.errors`. A run that diverges is a result, no error.

    """
    folder = RunFolder.of(experiment, fingerprint)
    done = folder.result()
    if done is not None:
        return done
    check_processes(experiment, processes.world_size())
    with (
        folder.claimed() if processes.rank() == 0 else nullcontext(folder) as mine,
        process_group(experiment.runtime.device) as ranks,
    ):
        done = ranks.gather(mine.result() if ranks.first else None)[0]  # it may have been written just before the claim
        if done is not None:
            return done
        if ranks.first:
            return ranks.gather(_write(experiment, found, mine, ranks, fingerprint))[0]
        _follow(Session(experiment, found, mine, ranks))
        return ranks.gather(None)[0]


def _follow(session: Session) -> None:
    """Train along with the process that writes."""
    with stop_on_signals() as stop, Bar(1, 0, "", show=False) as bar, suppress(Diverged):
        session.resume()
        for _ in session.train(bar, stop):
            pass


def _write(experiment: Experiment, found: Inventory, folder: RunFolder, ranks: Ranks, fingerprint: str) -> RunResult:
    folder.write_config(experiment)
    handler = _log_to(folder)
    try:
        with stop_on_signals() as stop:
            return _train(Session(experiment, found, folder, ranks), fingerprint, stop)
    finally:
        log.removeHandler(handler)
        handler.close()


def _train(session: Session, fingerprint: str, stop: Stop) -> RunResult:
    experiment, folder = session.experiment, session.folder
    for said in session.resume():
        log.warning(said)
    folder.forget_epochs(session.epoch)
    _look_for_room(session)
    total = experiment.recipe.epochs * session.updates_per_epoch
    done = session.epoch * session.updates_per_epoch + session.update
    result = describe(session, fingerprint)
    title = f"{experiment.step.name} seed {experiment.seed}"
    with tracking(experiment, folder) as tracker:
        try:
            with Bar(total, done, title, experiment.runtime.progress) as bar:
                for line in session.train(bar, stop):
                    session.losses.flush()
                    folder.add_epoch(line)
                    tracker.update()
                    log.info("epoch %(epoch)d  loss %(train_loss).4f  top-1 %(top1).2f %%", {**line, "epoch": line["epoch"] + 1})
            result = outcome(session, result)
        except Diverged as error:
            log.error("%s", error)
            result = replace(result, status="diverged", reason=str(error))
        fault = _keep(session) if result.done else None
        folder.write_result(result)
    if result.done:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # those of a diverged run show what it was before it diverged
    if fault is not None:
        raise fault
    return result


def _look_for_room(session: Session) -> None:
    """Warn before training where the disk has no room for the run's checkpoints."""
    copies = 3 if session.average is None else 4  # weights, AdamW's two moments, the averaged weights
    needed = (checkpoint.KEPT + 1) * copies * sum(weight.nbytes for weight in session.network.parameters())
    free = shutil.disk_usage(session.folder.path).free
    if free < needed:
        log.warning("%s: %.0f MB are free, the run's checkpoints need %.0f MB", session.folder.path, free / 1e6, needed / 1e6)


def _keep(session: Session) -> StorageFault | None:
    """Write the trained weights and state; a disk that has no room for them must not cost the result."""
    runtime, folder = session.experiment.runtime, session.folder
    folder.check_claim()
    try:
        if runtime.keep_weights:
            checkpoint.write(folder.path / "weights.pt", session.scored.state_dict())
        if runtime.keep_state:
            checkpoint.write(folder.path / "state.pt", session.state())
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
