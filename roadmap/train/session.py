"""One training run in memory: network, optimizer, schedule, data, and where they are.

Everything random is a function of (seed, epoch, update) or (seed, epoch, index), so two runs on a CPU are equal bit
for bit and a stopped run goes on exactly where it was.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.data.pipeline import loaders, seed_all
from roadmap.data.sources import Inventory
from roadmap.errors import Diverged, Refused, Stopped
from roadmap.model.build import build_network
from roadmap.record import RunFolder
from roadmap.schema import Device, Experiment, Precision
from roadmap.train import checkpoint, recipe
from roadmap.train.progress import Bar

BUILDING = 2**31  # seeds the initial weights, where an epoch's number seeds its updates


@dataclass
class Scores:
    """Evaluation over every image of `val`, in percent."""

    top1: float
    top5: float
    loss: float


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
    epoch: int = 0
    update: int = 0  # of the epoch
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0  # in training and evaluation, over all sittings
    speeds: list[float] = field(default_factory=list)  # images per second of each update in this sitting

    def __post_init__(self) -> None:
        experiment = self.experiment
        self.device = pick_device(experiment.runtime.device)
        if experiment.runtime.threads is not None:
            torch.set_num_threads(experiment.runtime.threads)
        torch.backends.cudnn.benchmark = True
        self.precision = pick_precision(experiment.recipe.precision, self.device)
        self.layout = torch.channels_last if experiment.runtime.channels_last else torch.contiguous_format
        classes = len(self.found.classes)
        self._seed(BUILDING)
        self.network = build_network(experiment.model, classes).to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.loaders = loaders(experiment, self.found)
        self.updates_per_epoch = len(self.loaders.train_batches)
        self.optimizer = recipe.optimizer(experiment, self.network)
        self.schedule = recipe.schedule(experiment, self.optimizer, self.updates_per_epoch)
        self.mixing = recipe.mixing(experiment.recipe, classes)
        self.criterion = recipe.criterion(experiment.recipe)
        self.saved_at = time.monotonic()

    # The loop: one order, always the same.

    def train(self, bar: Bar, stop: Stop) -> Iterator[dict[str, Any]]:
        """Train from where the session is to its last epoch; yields each epoch's line of history.

        Raises:
            Diverged: at the first loss that is not finite, before it reaches the weights.
            Stopped: after a signal, once the state is saved.

        """
        while self.epoch < self.experiment.recipe.epochs:
            started = time.monotonic() - self.totals.seconds
            self._train_epoch(bar, stop, started)
            scores = self.evaluate(stop)
            seconds = time.monotonic() - started
            self.seconds += seconds
            bar.top1 = scores.top1
            line = self._line(scores, seconds)
            self.epoch, self.update, self.totals = self.epoch + 1, 0, Totals()
            yield line
            if time.monotonic() - self.saved_at > self.experiment.runtime.checkpoint_seconds:
                self.save()

    def _train_epoch(self, bar: Bar, stop: Stop, started: float) -> None:
        self.network.train()
        before = time.monotonic()
        for images, targets in self.loaders.epoch(self.epoch, self.update):
            loss = self._step(images, targets)
            now = time.monotonic()
            self.speeds.append(len(images) / max(now - before, 1e-9))
            before = now
            self.update += 1
            self.totals.loss += loss * len(images)
            self.totals.images += len(images)
            self.totals.seconds = now - started
            bar.step(self.epoch, loss, self.speeds[-1])
            self._obey(stop)
            if now - self.saved_at > self.experiment.runtime.checkpoint_seconds:
                self.save()

    def _obey(self, stop: Stop) -> None:
        """Save and leave, if a signal asked for it."""
        if stop.asked:
            self.save()
            raise Stopped(f"stopped by {stop.asked}; the same command goes on from epoch {self.epoch + 1}")

    def _step(self, images: Tensor, targets: Tensor) -> float:
        """One update; returns the loss."""
        number = self.epoch * self.updates_per_epoch + self.update
        self._seed(self.epoch, self.update)
        self.schedule.step_update(number)
        images = images.to(self.device, non_blocking=True, memory_format=self.layout)
        targets = targets.to(self.device, non_blocking=True)
        if self.mixing is not None:
            images, targets = self.mixing(images, targets)
        with self._autocast():
            loss = self.criterion(self.network(images), targets)
        value = float(loss.detach())
        self._require_finite(math.isfinite(value), f"the loss is {value}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self._require_finite(math.isfinite(norm), f"the norm of the gradient is {norm}")
        self.optimizer.step()
        return value

    def _require_finite(self, finite: bool, what: str) -> None:
        if not finite:
            raise Diverged(f"{what} in epoch {self.epoch + 1}, update {self.update + 1}: the run diverged")

    @torch.inference_mode()
    def evaluate(self, stop: Stop) -> Scores:
        """Top-1, top-5 and mean cross-entropy over every image of `val`, each counted once.

        Raises:
            Diverged: where the network puts out numbers that are not finite; chance accuracy would hide them.

        """
        self.network.eval()
        classes = len(self.found.classes)
        first = five = images_seen = 0
        loss = 0.0
        for images, targets in self.loaders.evaluation():
            self._obey(stop)
            images = images.to(self.device, memory_format=self.layout)
            targets = targets.to(self.device)
            with self._autocast():
                logits = self.network(images).float()
            ranked = logits.topk(min(5, classes)).indices == targets[:, None]
            first += int(ranked[:, 0].sum())
            five += int(ranked.sum())
            loss += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
            images_seen += len(targets)
        self._require_finite(math.isfinite(loss), f"the evaluation's loss is {loss}")
        return Scores(100 * first / images_seen, 100 * five / images_seen, loss / images_seen)

    # State.

    def save(self) -> None:
        """Write a checkpoint of everything that the rest of the run depends on."""
        state = {
            "run": self.folder.path.name,
            "precision": self.precision.value,
            "epoch": self.epoch,
            "update": self.update,
            "totals": vars(self.totals),
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(self.folder.checkpoints, self.epoch, self.update, state)
        self.saved_at = time.monotonic()

    def resume(self) -> list[str]:
        """Take up the newest whole checkpoint, if there is one; returns what was wrong with newer ones."""
        state, faults = checkpoint.load_newest(self.folder.checkpoints)
        if state is not None:
            if state["run"] != self.folder.path.name:
                raise Refused(f"{self.folder.checkpoints} holds the state of another run, {state['run']}")
            if state["precision"] != self.precision.value:
                raise Refused(f"{self.folder.path} was trained in {state['precision']} and would go on in {self.precision}")
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.update = state["epoch"], state["update"]
            self.totals, self.seconds = Totals(**state["totals"]), state["seconds"]
        return faults

    @property
    def images_per_second(self) -> float | None:
        """Median over this sitting's updates, the first few left out; None after no update."""
        settled = self.speeds[min(3, len(self.speeds) // 2) :]
        return statistics.median(settled) if settled else None

    def _line(self, scores: Scores, seconds: float) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "train_loss": self.totals.loss / max(self.totals.images, 1),
            "val_loss": scores.loss,
            "top1": scores.top1,
            "top5": scores.top5,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": self.images_per_second,
            "seconds": seconds,
        }

    def _autocast(self) -> torch.autocast:
        reduced = self.precision == Precision.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced)

    def _seed(self, *key: int) -> None:
        seed_all(self.experiment.seed, *key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(torch.initial_seed())


def pick_device(wanted: Device) -> torch.device:
    """The device that `auto` means here; a GPU that is asked for and missing is refused."""
    if wanted == Device.cuda and not torch.cuda.is_available():
        raise Refused("runtime.device=cuda: torch finds no GPU here; allowed: auto, cpu")
    if wanted == Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def pick_precision(wanted: Precision, device: torch.device) -> Precision:
    """bfloat16 on a GPU and float32 on a CPU, unless the recipe says."""
    if wanted != Precision.auto:
        return wanted
    return Precision.bfloat16 if device.type == "cuda" else Precision.float32


class Stop:
    """Whether a signal asked the run to stop, and which; a second one of the same kind acts at once."""

    asked: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Inside, SIGINT, SIGTERM and SIGUSR1 only leave a note; the loop reads it after each update."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = signal.Signals(number).name
        signal.signal(number, before[signal.Signals(number)])

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
