"""Pictures of an evaluation to look at: the first few, the worst and the best, what is labelled beside what was found."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

KEPT = 3  # pictures of each kind
WIDTH = 720  # pixels of a sheet
QUALITY = 80  # of its JPEG


class Example(NamedTuple):
    """One picture of an evaluation."""

    score: float | None  # 0 to 1, to tell good from bad; None where there is nothing to judge by
    image: Tensor  # (3, h, w), as the network was given it
    target: Any
    output: Any


@dataclass
class Gallery:
    """Examples of one evaluation: `update` takes in batches, `sheets` draws those that were kept."""

    score: Callable[[Any, Any], float | None]  # of a picture's target and output
    draw: Callable[[Example], Image.Image]
    first: list[Example] = field(default_factory=list)
    worst: list[Example] = field(default_factory=list)
    best: list[Example] = field(default_factory=list)

    def update(self, images: Iterable[Tensor], targets: Iterable[Any], outputs: Iterable[Any]) -> None:
        """Keep what belongs among the first, the worst or the best."""
        for image, target, output in zip(images, targets, outputs, strict=True):
            example = Example(self.score(target, output), image, target, output)
            if len(self.first) < KEPT:
                self.first.append(example)
            if example.score is not None:
                self.worst = _least([*self.worst, example], 1)
                self.best = _least([*self.best, example], -1)

    def sheets(self) -> dict[str, bytes]:
        """A JPEG of each kind that has examples: `first`, `worst`, `best`."""
        kinds = {"first": self.first, "worst": self.worst, "best": self.best}
        return {kind: sheet([self.draw(example) for example in examples]) for kind, examples in kinds.items() if examples}


def _least(examples: Sequence[Example], sign: int) -> list[Example]:
    """In order, so that equal ones stay those that came first."""
    return sorted(examples, key=lambda example: sign * (example.score or 0.0))[:KEPT]


def sheet(pictures: Sequence[Image.Image]) -> bytes:
    """The pictures below each other, all as wide, as a JPEG."""
    scaled = [picture.resize((WIDTH, round(picture.height * WIDTH / picture.width))) for picture in pictures]
    canvas = Image.new("RGB", (WIDTH, sum(picture.height for picture in scaled)), "white")
    top = 0
    for picture in scaled:
        canvas.paste(picture, (0, top))
        top += picture.height
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
