"""The training loop: step, log, evaluate, save, stop, always in this order.

Everything random is a function of (seed, epoch, update, micro-batch) or (seed, epoch, index), so two runs on a CPU are
equal bit for bit, a stopped run resumes exactly where it was, and several devices compute what one would.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from roadmap.base.errors import Diverged, OutOfMemory, Stopped
from roadmap.base.signals import Stop
from roadmap.config.schema import Compile
from roadmap.data.batches import Batch, InputPipeline
from roadmap.tasks.dense.gallery import Gallery
from roadmap.train import memory
from roadmap.train.diagnose import layer_at_fault
from roadmap.train.evaluate import batch_statistics, evaluate
from roadmap.train.progress import Bar
from roadmap.train.readings import Readings
from roadmap.train.state import State, Totals

NUMBERS = ("the loss", "the norm of the gradient", "the norm of BatchNorm's running statistics")  # of an update, in its order

FEW = 10  # updates whose median speed is compared


class Requests(NamedTuple):
    """How many processes of the run ask to stop, and to save."""

    stop: float = 0.0
    save: float = 0.0


@dataclass
class Trainer:
    """One run in memory, put together by `run.prepare`."""

    state: State
    data: InputPipeline
    schedule: Scheduler
    compiled: Compile  # what of the network is, for the record
    seed: int
    name: str  # of the step
    speeds: list[float] = field(default_factory=list)  # images per second of each update of this attempt

    def __post_init__(self) -> None:
        self.recipe, self.step = self.state.recipe, self.state.step
        self.network, self.task, self.ranks = self.step.network, self.step.task, self.step.ranks
        self.readings = Readings(self.ranks.device)

    @property
    def epochs(self) -> int:
        """Of the whole training."""
        return self.recipe.epochs_of(self.data.updates)

    @property
    def updates(self) -> int:
        """Of this epoch; the last one may be a part."""
        before = self.state.epoch * self.data.updates
        return min(self.data.updates, self.recipe.length(self.data.updates) - before)

    def train(self, bar: Bar, stop: Stop) -> Iterator[dict[str, Any]]:
        """Train from where the run is to its last epoch; yields each epoch's line of history.

        Raises:
            Diverged: at the first loss, gradient or running statistic that is not finite; it does not reach the weights.
            OutOfMemory: with the number of images that would fit.
            Stopped: after a signal, once the state is saved.

        """
        try:
            yield from self._train(bar, stop)
        except RuntimeError as error:
            if not memory.ran_out(error):
                raise
        else:
            return
        raise self._out_of_memory()  # not inside the handler, whose traceback keeps the tensors of the failed update

    def _train(self, bar: Bar, stop: Stop) -> Iterator[dict[str, Any]]:
        """One turn is one update, or the evaluation that ends an epoch."""
        state, batches = self.state, None
        while state.epoch < self.epochs:
            if batches is None:
                batches = self._begin_epoch()
            if state.update < self.updates:
                numbers = self._step(batches)
                asked = self._log(numbers, stop, bar)
            else:
                batches = None
                yield self._end_epoch(stop, bar)
                asked = Requests(save=state.due)
            if asked.save or asked.stop:
                state.save()
            if asked.stop:
                self._stop(stop)

    def _begin_epoch(self) -> Iterator[Batch]:
        self.network.train()
        now = time.monotonic()
        self.epoch_began = now - self.state.totals.seconds  # as if it had not been interrupted
        self.update_began = None if self.readings.lag else now
        return self.data.epoch(self.state.epoch, self.state.update)

    # Step.

    def _step(self, batches: Iterator[Batch]) -> Tensor:
        """One update: learning rate, weights, averaged weights. Returns what `Update` returns."""
        state = self.state
        self.schedule.step_update(state.epoch * self.data.updates + state.update)
        numbers = self.step(islice(batches, self.step.micro_batches), partial(self._seed, state.update))
        if state.average is not None:
            state.average.update(self.network)
        state.update += 1
        return numbers

    def _seed(self, update: int, micro_batch: int) -> None:
        self.ranks.seed(self.seed, self.state.epoch, update, micro_batch + 1)  # with a 0 it would be the seed of picture `update`

    # Log.

    def _log(self, numbers: Tensor, stop: Stop, bar: Bar) -> Requests:
        """Note the numbers of this update, or on a GPU those of one before it; returns what the processes asked for then.

        Before a checkpoint and at the end of an epoch the numbers of all updates under way are waited for.
        """
        reading = self._read(numbers, stop)
        now = time.monotonic()
        self.state.totals.seconds = now - self.epoch_began
        asked = Requests()
        if reading is not None:
            asked = self._note(reading, bar)
            if self.update_began is not None:
                self.speeds.append(self.recipe.batch_size / max(now - self.update_began, 1e-9))
            self.update_began = now
        if any(asked) or self.state.update == self.updates:
            for late in self.readings.drain():
                asked = Requests(*map(max, asked, self._note(late, bar)))
        return asked

    def _read(self, numbers: Tensor, stop: Stop) -> list[float] | None:
        """Send the numbers of this update on their way with what the processes ask for; returns those that arrive."""
        asked = [float(stop.asked is not None), float(self.ranks.first and self.state.due)]
        if self.ranks.world == 1:
            return self.readings.push(numbers, asked)
        shared = self.ranks.total_(torch.stack([numbers.new_full((), request) for request in asked]))
        return self.readings.push(torch.cat([numbers, shared]))

    def _note(self, reading: list[float], bar: Bar) -> Requests:
        """Write down the numbers of one update, if they are finite."""
        state, batch_size = self.state, self.recipe.batch_size
        number = state.totals.images // batch_size
        for name, value in zip(NUMBERS, reading, strict=False):
            if not math.isfinite(value):
                raise self._diverged(f"{name} is {value}", number)
        loss, norm, _, *asked = reading
        state.updates.add(state.epoch, number, loss, norm)
        state.totals.loss += loss * batch_size
        state.totals.images += batch_size
        bar.step(state.epoch, loss, self.speeds[-1] if self.speeds else None)
        return Requests(*asked)

    # Evaluate.

    def _end_epoch(self, stop: Stop, bar: Bar) -> dict[str, Any]:
        """Evaluate where it is time to; returns the epoch's line of history, which has no scores where it is not."""
        state = self.state
        due = (state.epoch + 1) % state.runtime.evaluate_every == 0 or state.epoch + 1 == self.epochs
        line = {
            "epoch": state.epoch,
            "train_loss": state.totals.loss / max(state.totals.images, 1),
            **(self._evaluate(stop, bar) if due else {}),
            "lr": max(group["lr"] for group in self.step.optimizer.param_groups),
            "images_per_second": self._images_per_second(),
            "seconds": time.monotonic() - self.epoch_began,
        }
        state.epoch, state.update, state.totals = state.epoch + 1, 0, Totals()
        state.seconds += line["seconds"]
        return line

    def _evaluate(self, stop: Stop, bar: Bar) -> dict[str, float | None]:
        """The scores of the weights as they are, and the metric without averaging, None where they are not averaged."""
        state, metric = self.state, self.task.metric
        gallery = self.task.gallery() if self.ranks.first else None
        scores = self.evaluate(state.scored, stop, gallery)
        if gallery is not None:
            state.folder.write_pictures(state.epoch, gallery.sheets())
        without_ema = None if state.average is None else self.evaluate(self.network, stop)[metric.key]
        bar.score = metric.text(scores[metric.key])
        return {**scores, f"{metric.key}_without_ema": without_ema}

    def evaluate(self, network: nn.Module, stop: Stop, gallery: Gallery | None = None) -> dict[str, float]:
        """The task's scores over every image of `val`, each counted once.

        Raises:
            Diverged: where a score is not finite; chance accuracy would hide it.
            Stopped: after a signal, once the state is saved, where no other process has to be waited for.

        """

        def between() -> None:
            if stop.asked and self.ranks.world == 1:
                self.state.save()
                self._stop(stop)

        scores = evaluate(network, self.task, self.data.evaluation(), self.step.precision, self.ranks, between, gallery=gallery)
        for key, value in scores.items():
            if not math.isfinite(value):
                name = key.removeprefix("val_")
                raise Diverged(f"the evaluation's {name} is {value} after {self._where(self.state.update)}: the run diverged")
        return scores

    def score_by_batch(self) -> float | None:
        """The score with BatchNorm's statistics of each batch in place of the running ones; None where that cannot be said."""
        network = self.state.scored
        with batch_statistics(network) as any_norms, suppress(ValueError):  # a batch of one image has no statistics
            if any_norms and self.ranks.world == 1:
                scores = evaluate(network, self.task, self.data.evaluation(), self.step.precision, self.ranks)
                return scores[self.task.metric.key]
        return None

    def _images_per_second(self) -> float | None:
        """Median over the updates of this attempt but the first few; without any, the mean over the epoch before it."""
        totals, settled = self.state.totals, self.speeds[min(3, len(self.speeds) // 2) :]
        if not settled and totals.seconds:
            return totals.images / totals.seconds
        return statistics.median(settled) if settled else None

    @property
    def slower(self) -> float:
        """How many times as long as the first updates of this attempt the last ones take; 1 after few updates."""
        settled = self.speeds[3:]  # the very first make ready what the others find
        if len(settled) < 2 * FEW:
            return 1.0
        return statistics.median(settled[:FEW]) / statistics.median(settled[-FEW:])

    # Stop.

    def _stop(self, stop: Stop) -> None:
        """Leave; torchrun ends all processes with the first that leaves, so all wait until the checkpoint is written."""
        self.ranks.gather(None)
        why = stop.asked or "a signal to another of its processes"
        raise Stopped(f"stopped by {why}; the same command goes on from epoch {self.state.epoch + 1}")

    # What to say of an update that failed.

    def _diverged(self, what: str, update: int) -> Diverged:
        """Names the layer at fault, by repeating the update; the weights are still those before it."""

        def losses() -> Iterator[Callable[[], Tensor]]:
            batches = self.data.epoch(self.state.epoch, update)
            for k, batch in enumerate(islice(batches, self.step.micro_batches)):
                self._seed(update, self.ranks.rank + k * self.ranks.world)
                yield partial(self.step.loss, self.network, batch)

        layer = layer_at_fault(self.network, losses, self.ranks)
        return Diverged(f"{what} in {self._where(update + 1)}; {layer}: the run diverged")

    def _out_of_memory(self) -> OutOfMemory:
        """Names a number of images that would fit, found by trial."""

        def loss(images: int) -> Tensor:
            return self.step.loss(self.network, self.task.dummy_batch(images, self.ranks.device))

        where, batch_norm = self._where(self.state.update + 1), bool(self.step.statistics.running)
        return memory.out_of_memory(self.network, loss, self.recipe, batch_norm, where, self.ranks.device)

    def _where(self, update: int) -> str:
        return f"step {self.name}, epoch {self.state.epoch + 1}, update {update}"
