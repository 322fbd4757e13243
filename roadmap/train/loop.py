"""One training run in memory: network, optimizer, schedule, data, and where they are.

Everything random is a function of (seed, epoch, update, micro-batch) or (seed, epoch, index), so two runs on a CPU are
equal bit for bit, a stopped run goes on exactly where it was, and several devices compute what one would.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.base.errors import Diverged, OutOfMemory, Refused, Stopped
from roadmap.base.signals import Stop
from roadmap.config.checks import smaller_micro_batches
from roadmap.config.identity import differences, plain
from roadmap.config.schema import Experiment
from roadmap.data.batches import seed_all
from roadmap.data.images.inventory import Inventory
from roadmap.data.pipeline import input_pipeline
from roadmap.model.build import network_of
from roadmap.record.folder import RunFolder
from roadmap.record.updates import UpdateLog
from roadmap.tasks.classification import Scores, criterion, mixing, score
from roadmap.train import checkpoint, memory, recipe
from roadmap.train.compiling import compile_network
from roadmap.train.determinism import repeat_bits
from roadmap.train.diagnose import backward_fault, forward_fault
from roadmap.train.progress import Bar
from roadmap.train.ranks import Ranks
from roadmap.train.readings import Readings
from roadmap.train.update import Update, pick_precision, tf32

BUILDING = 2**31  # seeds the initial weights, where an epoch's number seeds its updates


@dataclass
class Totals:
    """Sums over the epoch so far; they travel with a checkpoint."""

    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0


@dataclass
class Session:
    """A run that can be trained, saved and taken up again."""

    experiment: Experiment
    found: Inventory
    folder: RunFolder
    ranks: Ranks
    epoch: int = 0
    update: int = 0  # of the epoch
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0  # in training and evaluation, over all sittings
    speeds: list[float] = field(default_factory=list)  # images per second of each update in this sitting

    def __post_init__(self) -> None:
        experiment, ranks = self.experiment, self.ranks
        if experiment.runtime.threads is not None:
            torch.set_num_threads(experiment.runtime.threads)
        repeat_bits(experiment.runtime.deterministic)
        tf32(False)
        memory.keep_freed(ranks.device)
        self.precision = pick_precision(experiment.recipe.precision, ranks.device)
        self.layout = torch.channels_last if experiment.runtime.channels_last else torch.contiguous_format
        self._seed(BUILDING)
        self.network = self._build()
        self.average = recipe.average(experiment.recipe, self.network)
        self.compiled = compile_network(experiment, self.network, self.found, ranks.device)
        self.data = input_pipeline(experiment, self.found, ranks.device, ranks.rank, ranks.world)
        self.updates_per_epoch = self.data.updates
        self.optimizer = recipe.optimizer(experiment, self.network)
        self.schedule = recipe.schedule(experiment, self.optimizer, self.updates_per_epoch)
        self.step = Update(
            self.network,
            self.optimizer,
            criterion(experiment.recipe),
            mixing(experiment.recipe, len(self.found.classes)),
            self.precision,
            ranks,
            experiment.recipe.batch_size // experiment.recipe.images_at_once // ranks.world,
            self.layout,
        )
        self.readings = Readings(ranks.device)
        self.losses = UpdateLog(self.folder.path / "updates.csv")
        self.saved_at = time.monotonic()

    def _build(self) -> nn.Module:
        network = network_of(self.experiment, len(self.found.classes))
        if self.experiment.recipe.sync_batchnorm and self.ranks.world > 1:
            if self.ranks.device.type == "cpu":
                raise Refused("recipe.sync_batchnorm=true: torch has it for GPUs only; on CPUs it must be false")
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return network.to(self.ranks.device, memory_format=self.layout)  # type: ignore[call-overload]

    @property
    def scored(self) -> nn.Module:
        """The network whose accuracy counts: the averaged one where the recipe averages."""
        return self.network if self.average is None else self.average.module

    # The loop: one order, always the same.

    def train(self, bar: Bar, stop: Stop) -> Iterator[dict[str, Any]]:
        """Train from where the session is to its last epoch; yields each epoch's line of history.

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
        while self.epoch < self.experiment.recipe.epochs:
            started = time.monotonic() - self.totals.seconds
            self._train_epoch(bar, stop, started)
            line = self._scores(stop)
            seconds = time.monotonic() - started
            self.seconds += seconds
            bar.top1 = line["top1"]
            line = self._line(line, seconds)
            self.epoch, self.update, self.totals = self.epoch + 1, 0, Totals()
            yield line
            if self._due():
                self.save()

    def _train_epoch(self, bar: Bar, stop: Stop, started: float) -> None:
        self.network.train()
        batches = self.data.epoch(self.epoch, self.update)
        before = None if self.readings.lag else time.monotonic()
        for update in range(self.update, self.updates_per_epoch):
            numbers = self._take_step(batches, update)
            self.update += 1
            asked = self._push(numbers, stop)
            now = time.monotonic()
            self.totals.seconds = now - started
            if asked is not None:
                self._note(asked, bar)
                if before is not None:
                    self.speeds.append(self.experiment.recipe.batch_size / max(now - before, 1e-9))
                before = now
                self._obey(asked[3:], stop, bar)
        self._obey(self._settle(bar), stop, bar)

    def _take_step(self, batches: Iterator[tuple[Tensor, Tensor]], update: int) -> Tensor:
        self.schedule.step_update(self.epoch * self.updates_per_epoch + update)
        share = islice(batches, self.step.micro_batches)
        numbers = self.step(share, partial(self._seed_update, update))
        if self.average is not None:
            self.average.update(self.network)
        return numbers

    def _push(self, numbers: Tensor, stop: Stop) -> list[float] | None:
        """Loss and norm, and how many processes want to stop or to save: read late, at the same update everywhere."""
        requests = [float(stop.asked is not None), float(self.ranks.first and self._due())]
        if self.ranks.world == 1:
            return self.readings.push(numbers, requests)
        shared = torch.stack([numbers.new_full((), request) for request in requests])
        return self.readings.push(torch.cat([numbers, self.ranks.total_(shared)]))

    def _note(self, reading: list[float], bar: Bar) -> None:
        """Take in the numbers of one update."""
        loss, norm, statistics = reading[:3]
        number = self.totals.images // self.experiment.recipe.batch_size
        if not math.isfinite(loss):
            self._diverge(f"the loss is {loss}", number)
        if not math.isfinite(norm):
            self._diverge(f"the norm of the gradient is {norm}", number)
        if not math.isfinite(statistics):
            self._diverge(f"the norm of BatchNorm's running statistics is {statistics}", number)
        self.losses.add(self.epoch, number, loss, norm)
        self.totals.loss += loss * self.experiment.recipe.batch_size
        self.totals.images += self.experiment.recipe.batch_size
        bar.step(self.epoch, loss, self.speeds[-1] if self.speeds else None)

    def _settle(self, bar: Bar) -> list[float]:
        """Take in the numbers of all updates that are still under way; returns what they ask for, to stop or to save."""
        asked = [0.0, 0.0]
        for reading in self.readings.drain():
            self._note(reading, bar)
            asked = [max(pair) for pair in zip(asked, reading[3:], strict=True)]
        return asked

    def _obey(self, asked: list[float], stop: Stop, bar: Bar) -> None:
        """Save, or save and leave, if any process asked for it."""
        wants_stop, wants_save = asked
        if wants_stop or wants_save:
            wants_stop = max(wants_stop, self._settle(bar)[0])
            self.save()
        if wants_stop:
            self.ranks.gather(None)  # torchrun ends all processes with the first that leaves: the writer must be done
            self._leave(stop.asked or "a signal to another of its processes")

    def _leave(self, why: str) -> None:
        raise Stopped(f"stopped by {why}; the same command goes on from epoch {self.epoch + 1}")

    def _scores(self, stop: Stop) -> dict[str, float | None]:
        """Evaluate; a signal meanwhile saves and leaves, where this process is alone."""
        line: dict[str, float | None] = {**vars(self.evaluate(self.scored, stop)), "top1_without_ema": None}
        if self.average is not None:
            line["top1_without_ema"] = self.evaluate(self.network, stop).top1
        return line

    def evaluate(self, network: nn.Module, stop: Stop) -> Scores:
        """Top-1, top-5 and mean cross-entropy over every image of `val`, each counted once.

        Raises:
            Diverged: where the network puts out numbers that are not finite; chance accuracy would hide them.

        """

        def between() -> None:
            if stop.asked and self.ranks.world == 1:
                self.save()
                self._leave(stop.asked)

        scores = score(network, self.data.evaluation(), self.precision, self.layout, self.ranks, between)
        if not math.isfinite(scores.val_loss):
            raise Diverged(f"the evaluation's loss is {scores.val_loss} after {self._place(self.update)}: the run diverged")
        return scores

    def _diverge(self, what: str, update: int) -> None:
        """Say where it began, by repeating the update; the weights are still those before it."""
        self.network.train()
        where = (
            self._first_found(forward_fault, update)
            or self._first_found(backward_fault, update)
            or "the same update repeated layer by layer is finite"
        )
        raise Diverged(f"{what} in {self._place(update + 1)}; {where}: the run diverged")

    def _out_of_memory(self) -> OutOfMemory:
        """What would fit, by trial; nothing is changed."""
        wanted, options = self.experiment.recipe, smaller_micro_batches(self.experiment)
        memory.release(self.ranks.device)
        size = self.experiment.data.image_size
        fits = next((n for n in options if memory.fits(self.step.loss, self.network, n, size, self.ranks.device)), None)
        key, device = ("batch_size" if wanted.micro_batch is None else "micro_batch"), self.ranks.device.type
        return OutOfMemory(
            f"recipe.{key}={wanted.images_at_once}: {device} memory is not enough for this many images at once in "
            f"{self._place(self.update + 1)}; "
            + (f"{fits} fit: recipe.micro_batch={fits} keeps the update of {wanted.batch_size}" if fits else "not even one fits")
            + (", and changes what BatchNorm sees" if self.step.statistics.running else "")
            + ". Nothing was changed"
        )

    def _first_found(self, look: Callable[[nn.Module, Callable[[], Tensor]], str | None], update: int) -> str | None:
        """What the first process with anything to say finds in its micro-batches of an update."""
        faults = []
        for k, (images, targets) in enumerate(islice(self.data.epoch(self.epoch, update), self.step.micro_batches)):
            self._seed_update(update, self.ranks.rank + k * self.ranks.world)
            faults.append(look(self.network, partial(self.step.loss, images, targets, self.network)))
        return next((fault for said in self.ranks.gather(faults) for fault in said if fault is not None), None)

    def _place(self, update: int) -> str:
        return f"step {self.experiment.step.name}, epoch {self.epoch + 1}, update {update}"

    # State.

    def _due(self) -> bool:
        return time.monotonic() - self.saved_at > self.experiment.runtime.checkpoint_seconds

    def save(self) -> None:
        """Write a checkpoint of everything that the rest of the run depends on."""
        if self.ranks.first:
            self.folder.check_claim()
            written = self.losses.flush()
            checkpoint.save(self.folder.checkpoints, self.epoch, self.update, self.state() | {"written": written})
        self.saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: chance is not among it, being a function of where the run is."""
        return {
            "run": self.folder.path.name,
            "experiment": plain(self.experiment),
            "precision": self.precision.value,
            "pipeline": self.data.name.value,
            "processes": self.ranks.world,
            "epoch": self.epoch,
            "update": self.update,
            "totals": vars(self.totals),
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
        }

    def resume(self) -> list[str]:
        """Take up the newest whole checkpoint, if there is one; returns what was wrong with newer ones."""
        state, faults = checkpoint.load_newest(self.folder.checkpoints, self._foreign)
        if state is not None:
            self._take_up(state)
            self.losses.take_up(state["written"], faults)
        places = self.ranks.gather((self.epoch, self.update, self.data.name, self.precision))
        if len({place[2:] for place in places}) > 1:
            raise Refused(
                f"{self.folder.path}: unequal devices differ in what auto means: say data.pipeline and recipe.precision"
            )
        if len(set(places)) > 1:
            raise Refused(
                f"{self.folder.path}: the processes of this run do not see the same checkpoints: put output= on a shared disk"
            )
        return faults

    def _foreign(self, state: dict[str, Any]) -> str | None:
        """What makes a state that of another run."""
        run = state.get("run")
        if run == self.folder.path.name:
            return None
        unequal = differences(state.get("experiment", {}), plain(self.experiment))
        return f"it is the state of another run, {run}; it differs in {', '.join(unequal) or 'its data'}"

    def _take_up(self, state: dict[str, Any]) -> None:
        same: dict[str, Any] = {"precision": self.precision.value, "pipeline": self.data.name.value}
        if self.experiment.recipe.sync_batchnorm:
            same["processes"] = self.ranks.world
        for key, now in same.items():
            if state[key] != now:
                raise Refused(f"{self.folder.path} was trained with {key} {state[key]} and would go on in {now}")
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.epoch, self.update = state["epoch"], state["update"]
        self.totals, self.seconds = Totals(**state["totals"]), state["seconds"]

    @property
    def images_per_second(self) -> float | None:
        """Median over this sitting's updates, the first few left out; None after no update."""
        settled = self.speeds[min(3, len(self.speeds) // 2) :]
        if not settled and self.totals.seconds:
            return self.totals.images / self.totals.seconds
        return statistics.median(settled) if settled else None

    def _line(self, scores: dict[str, float | None], seconds: float) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "train_loss": self.totals.loss / max(self.totals.images, 1),
            **scores,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": self.images_per_second,
            "seconds": seconds,
        }

    def _seed_update(self, update: int, micro_batch: int) -> None:
        self._seed(self.epoch, update, micro_batch + 1)  # with a 0 it would be the seed of picture `update`

    def _seed(self, *key: int) -> None:
        seed_all(self.experiment.seed, *key)
        if self.ranks.device.type == "cuda":
            torch.cuda.manual_seed(torch.initial_seed())
