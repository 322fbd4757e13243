"""UPerNet (Xiao et al., 1807.10221) on any backbone, as ConvNeXt's appendix A.3 sets it: pooled pyramid, feature pyramid, fusion.

All resizing is bilinear with the corners of pixels, not their centres, aligned to the picture's (`align_corners=False`). On a GPU
its gradient has a fixed order of sums only under `torch.use_deterministic_algorithms`, where torch takes a slower way. The pools
are matrix products, as torch's own have no such way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roadmap.base.errors import Refused
from roadmap.config.schema import HeadConfig
from roadmap.tasks.dense.backbone import DenseNetwork
from roadmap.tasks.dense.layers import Pool, conv_norm, resized

AUX_MAP = 2  # the third stage's


class UPerNet(DenseNetwork):
    """Images (N, 3, H, W) to logits (N, classes, H, W); in training to those and the auxiliary head's, None where it has none.

    Refused in training on one image, whose map pooled to one cell leaves BatchNorm a single value, unless several processes
    share its statistics.
    """

    def __init__(self, network: nn.Module, head: HeadConfig, classes: int) -> None:
        super().__init__(network, head)
        width = head.channels
        self.decoder = Decoder(self.channels, width, head.pools)
        self.classifier = _classifier(width, classes, head.dropout)
        self.auxiliary = None
        if head.aux_weight:
            inner = head.aux_channels
            self.auxiliary = nn.Sequential(conv_norm(self.channels[AUX_MAP], inner, 3), _classifier(inner, classes, head.dropout))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """See the class."""
        if self.training and len(images) == 1:
            self._check_alone()
        maps, size = self.maps(images), images.shape[-2:]
        logits = resized(self.classifier(self.decoder(maps)), size)
        if not self.training:
            return logits
        return logits, None if self.auxiliary is None else resized(self.auxiliary(maps[AUX_MAP]), size)

    def run_head(self, maps: list[Tensor]) -> None:
        """See `DenseNetwork.run_head`."""
        self.classifier(self.decoder(maps))

    def _check_alone(self) -> None:
        shared = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        if self.decoder.alone and not (shared and isinstance(self.decoder.fuse[1], nn.SyncBatchNorm)):
            raise Refused(
                "a micro-batch of one image: head=upernet pools its last map to one cell, a single value for BatchNorm; "
                "recipe.micro_batch must be at least 2, or several GPUs share the statistics"
            )


class Decoder(nn.Module):
    """Four maps to one at the finest's resolution, (N, width, H / 4, W / 4)."""

    def __init__(self, channels: list[int], width: int, pools: list[int]) -> None:
        super().__init__()
        self.alone = 1 in pools
        self.pools = nn.ModuleList(nn.Sequential(Pool(cells), conv_norm(channels[-1], width, 1)) for cells in pools)
        self.top = conv_norm(channels[-1] + len(pools) * width, width, 3)
        self.laterals = nn.ModuleList(conv_norm(n, width, 1) for n in channels[:-1])
        self.smooth = nn.ModuleList(conv_norm(width, width, 3) for _ in channels[:-1])
        self.fuse = conv_norm(len(channels) * width, width, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """See the class."""
        *finer, last = maps
        pooled = [last, *(resized(pool(last), last.shape[-2:]) for pool in self.pools)]
        levels = [self.top(torch.cat(pooled, 1))]
        for features, lateral in zip(reversed(finer), reversed(self.laterals), strict=True):  # type: ignore[call-overload]
            levels.insert(0, lateral(features) + resized(levels[0], features.shape[-2:]))
        smooth = [*(conv(level) for conv, level in zip(self.smooth, levels, strict=False)), levels[-1]]
        return self.fuse(torch.cat([resized(level, maps[0].shape[-2:]) for level in smooth], 1))


def _classifier(channels: int, classes: int, dropout: float) -> nn.Sequential:
    """A class for each position, behind dropout of whole channels."""
    conv = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout2d(dropout), conv)
