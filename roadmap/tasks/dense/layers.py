"""Layers that the heads of detection and segmentation share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, C, h, w) at another size (H, W), bilinear."""
    return x if x.shape[-2:] == size else functional.interpolate(x, size, mode="bilinear", align_corners=False)


def conv_norm(channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution at the same resolution, BatchNorm, ReLU; weights normal by fan-out (He et al., 1502.01852)."""
    conv = nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Pool(nn.Module):
    """Averages over `cells` x `cells` parts of (N, C, H, W), which overlap where sides do not divide: `AdaptiveAvgPool2d`."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, cells, cells)."""
        rows, columns = (averages(size, self.cells, x.device).to(x.dtype) for size in x.shape[-2:])
        return rows @ x @ columns.T


def averages(size: int, cells: int, device: torch.device | None = None) -> Tensor:
    """(cells, size): the share of each pixel of a line in the average of each part of it. Made there: a GPU waits for copies."""
    cell, pixel = torch.arange(cells, device=device)[:, None], torch.arange(size, device=device)
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = ((first <= pixel) & (pixel < end)).float()
    return inside / inside.sum(1, keepdim=True)
