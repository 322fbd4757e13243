"""HTML by construction: a plain string is always escaped, only `Markup` is not. Nothing here knows of studies."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from typing import Any

from roadmap.base.console import printable

EMPTY = {"input", "meta"}  # elements without an end tag
FIGURES = 6  # significant ones of a number that is only drawn


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as text of a page: control characters and direction marks made visible, the rest escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(printable(str(value))))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Several pieces one after another, each escaped unless it is markup."""
    return Markup(between.join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element; `class_` is class, `data_x` is data-x, True a bare attribute, None and False no attribute."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    if name in EMPTY:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    name = "viewBox" if key == "viewBox" else key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'


def percent(share: float) -> str:
    """A place along an axis, 0 to 1, as SVG takes it."""
    return f"{100 * share:.2f}%"


def block(data: object) -> Markup:
    """Data as JSON inside a script element: nothing in it can end the element or start a comment."""
    content = json.dumps(_plain(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    for sign in "<>&":
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(content)


def _plain(value: Any) -> Any:
    """What JSON can say: a number that is none (of a diverged run) becomes null, and strings are made printable."""
    if isinstance(value, dict):
        return {printable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(value) if isinstance(value, str) else value


def rounded(value: object) -> float | None:
    """A number that is only drawn, in six significant figures; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.{FIGURES}g}")
