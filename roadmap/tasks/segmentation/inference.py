"""How the classes of a whole picture come from a network that learnt from crops: sliding windows, several scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from roadmap.tasks.dense.layers import resized

Network = Callable[[Tensor], Tensor]  # pictures (N, 3, h, w) to scores (N, classes, h, w)

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's


def slide(network: Network, image: Tensor, window: int, stride: int) -> Tensor:
    """Scores (classes, h, w) of a picture (3, h, w): the mean over all windows that a pixel lies in.

    Windows are `stride` pixels apart, and the last of a row or column ends with the picture (512 and 341 in the paper). A
    picture that is smaller than a window is padded with zeros, the mean colour.
    """
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, (0, max(0, window - width), 0, max(0, window - height)))
    total = counts = None
    for rows in _spans(padded.shape[1], window, stride):
        for columns in _spans(padded.shape[2], window, stride):
            scores = network(padded[None, :, rows, columns])[0].float()
            if total is None or counts is None:
                total, counts = scores.new_zeros(len(scores), *padded.shape[1:]), scores.new_zeros(padded.shape[1:])
            total[:, rows, columns] += scores
            counts[rows, columns] += 1
    assert total is not None and counts is not None
    return (total / counts)[:, :height, :width]


def _spans(length: int, window: int, stride: int) -> Iterator[slice]:
    for number in range(-(-max(length - window, 0) // stride) + 1):
        start = min(number * stride, length - window)
        yield slice(start, start + window)


def at_scales(scores_of: Callable[[Tensor], Tensor], image: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
    """Mean probabilities (classes, h, w) of a picture (3, h, w), normalised, over scales of its sides and mirror images.

    `scores_of` a picture are for example those of `slide` with its network and window.
    """
    height, width = image.shape[1:]
    total: Tensor | None = None
    for scale in scales:
        size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        scaled = resized(image[None], size)[0]
        for mirrored in (False, True):
            scores = scores_of(scaled.flip(2) if mirrored else scaled)
            scores = resized((scores.flip(2) if mirrored else scores)[None].float(), (height, width))[0].softmax(0)
            total = scores if total is None else total + scores
    assert total is not None
    return total / (2 * len(scales))
