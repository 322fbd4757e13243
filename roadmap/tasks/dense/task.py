"""What detection and segmentation have in common: a head on a backbone, trained on pictures whose targets have their shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.tv_tensors import Image as Pixels

from roadmap.config.schema import DataConfig, Head, HeadConfig, ModelConfig, RecipeConfig
from roadmap.data.batches import BatchPlan, InputPipeline
from roadmap.data.dense.pipeline import DensePipeline, Kind
from roadmap.data.dense.transforms import show_whole
from roadmap.data.images.inventory import Inventory
from roadmap.model.cost import Cost
from roadmap.model.start import Fill
from roadmap.tasks.dense.backbone import PREFIX, Build, backbone_network
from roadmap.tasks.dense.cost import dense_cost


@dataclass
class DenseTask:
    """See `Task`."""

    recipe: RecipeConfig
    data: DataConfig
    classes: Sequence[str]
    memory_format: torch.memory_format
    head: HeadConfig
    heads: ClassVar[dict[Head, Build]]
    kind: ClassVar[Kind]  # of what is known of a picture

    def batches(self, seed: int, inventory: Inventory, device: torch.device, rank: int = 0, world: int = 1) -> InputPipeline:
        """See `Task.batches`."""
        return DensePipeline(self.kind, BatchPlan(self.data, self.recipe, seed, inventory, device, rank, world))

    def network(self, model: ModelConfig, reference: str | None) -> nn.Module:
        """See `Task.network`: the head on the four maps of the backbone, for images of any size."""
        backbone = backbone_network(model, reference, self.recipe.initialisation)
        return self.heads[self.head.name](backbone, self.head, len(self.classes))

    def fill(self, network: nn.Module) -> Fill:
        """See `Task.fill`: the backbone, from a classifier or from another head's backbone; norms and head start anew."""
        return Fill(cast(nn.Module, network.backbone), within=PREFIX, spare=("head", "fc", "norm"))

    def shown(self, picture: Image.Image) -> Tensor:
        """See `Task.shown`."""
        return show_whole(self.data, Pixels(pil_to_tensor(picture)))

    def picture(self, image: Tensor, size: tuple[int, int]) -> Image.Image:
        """An image (3, h, w) as people see it, at this height and width."""
        mean, std = (torch.tensor(level).view(3, 1, 1) for level in (self.data.mean, self.data.std))
        pixels = ((image.cpu() * std + mean).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)

    def cost(self, model: ModelConfig, reference: str | None) -> Cost:
        """See `Task.cost`: backbone and head, for a picture of this height and width."""
        size = self.data.image_size, self.data.image_size
        return dense_cost(self.heads[self.head.name], model, reference, self.head, len(self.classes), size).cost
