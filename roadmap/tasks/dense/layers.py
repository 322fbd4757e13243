"""Layers that the heads of detection and segmentation share."""

from __future__ import annotations

from torch import nn


def conv_norm(channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution at the same resolution, BatchNorm, ReLU; weights normal by fan-out (He et al., 1502.01852)."""
    conv = nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
