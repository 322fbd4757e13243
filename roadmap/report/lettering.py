"""Words in pictures: how wide they are, and where they are broken into lines."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, get_font

FONT = "DejaVu Sans"
SIZE = 10.0  # points


def width(text: str, size: float = SIZE, bold: bool = False) -> float:
    """Of the widest line of a text, in points."""
    return size * max(sum(_advance(letter, bold) for letter in line) for line in text.split("\n"))


@cache
def _advance(letter: str, bold: bool) -> float:
    """Of a letter in a font of size 1; one that the font has not is drawn as a box."""
    font = get_font(findfont(FontProperties(family=FONT, weight="bold" if bold else "normal")))
    font.set_size(100, 72)
    advance: float = font.load_char(ord(letter) if ord(letter) in font.get_charmap() else ord("W")).linearHoriAdvance
    return advance / 65536 / 100


def broken(text: str, room: float, size: float = SIZE, bold: bool = False) -> str:
    """A text in lines of at most so many points; words that are wider are broken too."""

    def filled(parts: Iterable[str], between: str) -> list[str]:
        lines: list[str] = []
        for part in parts:
            if lines and width(lines[-1] + between + part, size, bold) <= room:
                lines[-1] += between + part
            else:
                lines.append(part)
        return lines

    lines: list[str] = []
    for line in text.split("\n"):
        lines += filled([piece for word in line.split(" ") for piece in filled(word, "") or [""]], " ")
    return "\n".join(lines)
