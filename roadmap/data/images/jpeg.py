"""JPEGs decoded as far as the rows that are asked for, to the same bits as Pillow decodes the whole. No torch here.

A decoder works from top to bottom and ends after as many rows as the header says. So the header is told the last row that is
needed, and nothing below it is computed. simplejpeg decodes (libjpeg-turbo, as in Pillow, but into three bytes a pixel
where Pillow fills four and copies); what it does not take, Pillow does.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from roadmap.data.images.examine import LARGEST

try:
    import simplejpeg
except ImportError:  # a machine that it has no wheel for
    simplejpeg = None

Array = np.ndarray[Any, Any]

SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # markers of a frame, Huffman-coded; others are rare
END = b"\xff\xd9"
BELOW = 4  # rows under the last: two of the colours at half the height, which the row above them is interpolated with


class Frame(NamedTuple):
    """What the header of a JPEG says."""

    marker: int
    at: int  # where in the file the height is written
    height: int
    width: int


def frame(content: bytes) -> Frame | None:
    """The header of a whole JPEG in grey or three colours with eight bits each; None for anything else."""
    is_whole = content.startswith(b"\xff\xd8\xff") and content.endswith(END)
    return _header(content) if is_whole and _is_exact() else None


def _header(content: bytes) -> Frame | None:
    at = 2
    while content[at : at + 1] == b"\xff" and at + 10 < len(content):
        marker = content[at + 1]
        if marker in (*SEQUENTIAL, PROGRESSIVE):
            bits, components = content[at + 4], content[at + 9]
            height, width = (int.from_bytes(content[start : start + 2], "big") for start in (at + 5, at + 7))
            usual = bits == 8 and components in (1, 3) and 0 < height * width <= LARGEST
            return Frame(marker, at + 5, height, width) if usual else None
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def first_rows(content: bytes, header: Frame, end: int) -> Array | None:
    """At least the first `end` rows, (end or more, width, 3) uint8; None where Pillow should be asked."""
    if header.marker in SEQUENTIAL:  # a progressive one is smoothed by what is below, where it is not complete
        shorter = bytearray(content)
        shorter[header.at : header.at + 2] = min(header.height, end + BELOW).to_bytes(2, "big")
        content = bytes(shorter)
    try:
        # Not strict: what follows the last row is left over, which a decoder warns of.
        return simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=False)
    except ValueError:
        return None


@cache
def _is_exact() -> bool:
    """Whether both decoders of this machine give the same bits: they may be built from unlike libraries."""
    if simplejpeg is None:
        return False
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for subsampling in (0, 1, 2):  # 4:4:4, 4:2:2, 4:2:0
        file = BytesIO()
        Image.fromarray(noise).save(file, "JPEG", subsampling=subsampling)
        header, whole = _header(file.getvalue()), np.asarray(Image.open(file))
        for end in (15, 16, len(noise)):
            rows = None if header is None else first_rows(file.getvalue(), header, end)
            if rows is None or not np.array_equal(rows[:end], whole[:end]):
                return False
    return True
