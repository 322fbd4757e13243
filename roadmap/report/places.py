"""Where words stand in a picture without covering others."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, bottom, right, top; with y downwards left, top, right, bottom


def free_place(spots: Sequence[Box], taken: Sequence[Box], inside: Box) -> tuple[int, float]:
    """Which of some boxes covers least of what is `taken`, the first of these, and how much that is.

    What lies outside of `inside` counts as covered.
    """
    covered = [sum(shared(spot, box) for box in taken) + shared(spot, spot) - shared(spot, inside) for spot in spots]
    least = min(range(len(spots)), key=lambda i: round(covered[i], 3))
    return least, covered[least]


def shared(one: Box, other: Box) -> float:
    """The area that two boxes share; of a box with itself its own."""
    across, up = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)
