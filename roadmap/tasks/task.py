"""What training needs of a task, whatever it is: batches, network, loss, score and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn

from roadmap.config.schema import ModelConfig
from roadmap.data.batches import Batch, InputPipeline
from roadmap.data.images.inventory import Inventory
from roadmap.model.cost import Cost
from roadmap.model.start import Fill
from roadmap.record.result import Metric
from roadmap.tasks.dense.gallery import Gallery


class Processes(Protocol):
    """The processes that share an evaluation; `train.ranks.Ranks` is them."""

    def total_(self, values: Tensor) -> Tensor:
        """Replace values, on this run's device, by their sum over the processes."""

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in their order."""


class Scorer(Protocol):
    """The scores of one evaluation, from the share of it that this process sees."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in what the network put out for a batch's images, and the batch's targets."""

    def compute(self, processes: Processes) -> dict[str, float]:
        """The scores over what all processes saw, in the order in which people read them; the metric's is among them."""


class Breakdown(Scorer, Protocol):
    """A scorer that keeps what lies behind its scores; `compute` ends it."""

    def write(self, folder: Path) -> list[Path]:
        """Tables and pictures, into a folder that is there; returns their files."""


class Task(Protocol):
    """A task: what is learnt from which targets, and how it is scored. It is made by `tasks.choose.choose_task`, which gives it
    the experiment's recipe and data and the names of the classes.

    `loss` and `Scorer.update` are given the batches of the task's own pipeline, so their `images` and `targets` may be
    anything: tensors, or lists of them. Training calls both under the autocast of its precision and knows no more of them.
    """

    @property
    def metric(self) -> Metric:
        """The score by which runs are compared."""

    def batches(self, seed: int, inventory: Inventory, device: torch.device, rank: int = 0, world: int = 1) -> InputPipeline:
        """The batches of process `rank` among `world`, made for `device`."""

    def network(self, model: ModelConfig, reference: str | None) -> nn.Module:
        """The network at these coordinates, or timm's `reference`, freshly initialised."""

    def fill(self, network: nn.Module) -> Fill:
        """What of `network` weights given from elsewhere fill, and its layers for the task's own targets."""

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a micro-batch, a scalar."""

    def outputs(self, network: nn.Module, images: Any) -> Any:
        """What a network in evaluation puts out for a batch's images, or a tensor of them, as the scorer takes it."""

    def scorer(self, device: torch.device) -> Scorer:
        """An empty scorer for one evaluation."""

    def gallery(self) -> Gallery | None:
        """What keeps examples of an evaluation, to look at; None where a task has nothing to draw."""

    def breakdown(self, device: torch.device) -> Breakdown:
        """As `scorer`, with the same scores."""

    def shown(self, picture: Image) -> Tensor:
        """A picture as it is scored, before its colours are normalised: (3, h, w) uint8."""

    def answers(self, picture: Image, output: Any, most: int) -> list[dict[str, Any]]:
        """What one of the `outputs` says of its picture in words and numbers, the surest first: rows of a table, so many."""

    def found(self, picture: Image, output: Any, most: int) -> Image | None:
        """The picture with the same drawn on it; None where a task has nothing to draw."""

    def cost(self, model: ModelConfig, reference: str | None) -> Cost:
        """What the same network costs for one image of `data.image_size` pixels."""

    def dummy_batch(self, images: int, device: torch.device) -> Batch:
        """A batch of so many blank images, to find out by trial how many fit in memory."""
