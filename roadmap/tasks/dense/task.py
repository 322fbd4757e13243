"""What detection and segmentation have in common: a head on a backbone, trained on pictures whose targets have their shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from roadmap.config.schema import Head, HeadConfig, ModelConfig, RecipeConfig
from roadmap.model.cost import Cost
from roadmap.model.start import Fill
from roadmap.tasks.dense.backbone import PREFIX, Build, backbone_network, dense_backbone
from roadmap.tasks.dense.cost import dense_cost

UNBOUNDED = 2**16  # pixels, of a longer side that nothing bounds


@dataclass
class DenseTask:
    """See `Task`."""

    head: HeadConfig
    recipe: RecipeConfig
    classes: Sequence[str]
    memory_format: torch.memory_format = torch.channels_last
    mean: Sequence[float] = (0.0, 0.0, 0.0)  # by which images were normalised
    std: Sequence[float] = (1.0, 1.0, 1.0)
    longest: int | None = None  # pixels, of the longer side of images
    heads: ClassVar[dict[Head, Build]]

    def network(self, model: ModelConfig, reference: str | None, image_size: int) -> nn.Module:
        """See `Task.network`: the head on the four maps of the backbone, for images of any size."""
        backbone = backbone_network(model, reference, self.recipe.initialisation)
        return self.heads[self.head.name](dense_backbone(backbone, self.head), self.head, len(self.classes))

    def fill(self, network: nn.Module) -> Fill:
        """See `Task.fill`: the backbone, from a classifier or from another head's backbone; norms and head start anew."""
        return Fill(cast(nn.Module, network.backbone), within=PREFIX, spare=("head", "fc", "norm"))

    def picture(self, image: Tensor, size: tuple[int, int]) -> Image.Image:
        """An image (3, h, w) as people see it, at this height and width."""
        mean, std = (torch.tensor(level).view(3, 1, 1) for level in (self.mean, self.std))
        pixels = ((image.cpu() * std + mean).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)

    def cost(self, model: ModelConfig, reference: str | None, image_size: int) -> Cost:
        """See `Task.cost`: backbone and head, for a picture of this height and width."""
        size = image_size, image_size
        return dense_cost(self.heads[self.head.name], model, reference, self.head, len(self.classes), size).cost
