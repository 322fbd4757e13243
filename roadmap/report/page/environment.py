"""The page's templates, in which everything that is written is made harmless before a template can forget to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from roadmap.base.console import printable


def _harmless(value: Any) -> Any:
    """What a template writes, before it's escaped: control characters and direction marks are made visible."""
    return value if isinstance(value, Markup) else printable(str(value))


def _percent(share: float) -> str:
    """A place along an axis, 0 to 1, as SVG takes it."""
    return f"{100 * share:.2f}%"


environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=_harmless,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters["percent"] = _percent
