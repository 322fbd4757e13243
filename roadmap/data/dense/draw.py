"""Boxes, masks and maps drawn on a picture. No torch here: pages and trackers draw too."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roadmap.data.images.inventory import IGNORED

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]

SHOWN_SIDE = 480  # pixels: smaller pictures are enlarged by a whole factor, so that text beside a small object can be read
FEW = 10  # objects of a picture that all get their text; among more, those that are not much narrower than it
OPACITY = 0.45  # of masks and maps
GOLDEN = 0.618034  # of the circle of hues: neighbours in number are far apart in colour
LEGEND = 12  # classes, at most


def colour_of(number: int) -> Colour:
    """A bright colour for a class, always the same."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + number * GOLDEN) % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_objects(
    picture: Image.Image,
    boxes: Array,
    labels: Sequence[int],
    names: Sequence[str],
    masks: Array | None = None,
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """The picture, enlarged where it is small, with its objects on it; the first object is drawn on top.

    Args:
        picture: RGB, (H, W).
        boxes: Left, top, right, bottom in its pixels (n, 4).
        labels: The class of each (n,).
        names: Of all classes.
        masks: (n, H, W), not 0 where the object is; None: boxes only.
        scores: 0 to 1, (n,); None: objects that are known.

    """
    pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    for mask, label in [] if masks is None else reversed(list(zip(masks, labels, strict=True))):
        pixels = _tinted(pixels, mask > 0, colour_of(int(label)))
    canvas, factor = _enlarged(pixels)
    draw = ImageDraw.Draw(canvas)
    for number in reversed(range(len(labels))):
        words = [names[int(labels[number])]] if len(names) > 1 else []
        words += [f"{scores[number]:.2f}"] if scores is not None else []
        box = [float(side) * factor for side in boxes[number]]
        _draw_box(draw, canvas.size, box, colour_of(int(labels[number])), " ".join(words), len(labels) > FEW)
    return canvas


def draw_map(picture: Image.Image, classes: Array, names: Sequence[str]) -> Image.Image:
    """The picture, enlarged where it is small, tinted by the class of each pixel (H, W), and its largest classes below it."""
    pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    counts = np.bincount(classes.ravel(), minlength=IGNORED + 1)[:IGNORED]
    for number in np.flatnonzero(counts):
        pixels = _tinted(pixels, classes == number, colour_of(int(number)))
    canvas, _ = _enlarged(pixels)
    largest = [int(number) for number in np.argsort(-counts, kind="stable")[:LEGEND] if counts[number]]
    return _with_legend(canvas, [(names[number], colour_of(number)) for number in largest])


def side_by_side(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures next to each other, each under its caption."""
    font, gap = ImageFont.load_default(16), 8
    head = 16 + gap
    width = sum(picture.width for _, picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(picture.height for _, picture in pictures) + head), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for caption, picture in pictures:
        draw.text((left + 2, 2), caption, "black", font)
        canvas.paste(picture, (left, head))
        left += picture.width + gap
    return canvas


def _tinted(pixels: Array, where: Array, colour: Colour) -> Array:
    pixels[where] += OPACITY * (np.array(colour, np.float32) - pixels[where])
    return pixels


def _enlarged(pixels: Array) -> tuple[Image.Image, int]:
    image = Image.fromarray(pixels.round().astype(np.uint8))
    factor = max(1, round(SHOWN_SIDE / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), factor


def _draw_box(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], box: Sequence[float], colour: Colour, text: str, crowded: bool
) -> None:
    left, top, right, bottom = box
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
    font = ImageFont.load_default(12)
    _, _, wide, tall = draw.textbbox((0, 0), text, font)
    if not text or (crowded and wide > 1.5 * (right - left)):
        return
    at = min(left, size[0] - wide - 3), top - tall - 2 if top >= tall + 2 else min(bottom, size[1] - tall - 2)
    at = max(0, at[0]), max(0, at[1])
    draw.rectangle((*at, at[0] + wide + 3, at[1] + tall + 1), fill=colour)
    draw.text((at[0] + 2, at[1]), text, "black", font)


def _with_legend(canvas: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    font, line = ImageFont.load_default(12), 18
    rows: list[list[tuple[int, str, Colour]]] = [[]]
    left = 4
    for name, colour in entries:
        wide = 22 + round(font.getlength(name))
        if rows[-1] and left + wide > canvas.width:
            rows, left = [*rows, []], 4
        rows[-1].append((left, name, colour))
        left += wide + 8
    whole = Image.new("RGB", (canvas.width, canvas.height + line * len(rows) + 4), "white")
    whole.paste(canvas)
    draw = ImageDraw.Draw(whole)
    for number, row in enumerate(rows):
        top = canvas.height + 4 + line * number
        for left, name, colour in row:
            draw.rectangle((left, top, left + 12, top + 12), fill=colour)
            draw.text((left + 17, top - 1), name, "black", font)
    return whole
