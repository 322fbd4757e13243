"""The names of timm's models, read from its sources: an unknown one is refused without an import that takes seconds."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from roadmap.base.errors import Refused
from roadmap.config.checks import TIMM

MODEL = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


def check_name(name: str, said: str | None = None) -> None:
    """Refuse a name that timm's sources hold neither as a model nor, in quotes, as an old name of one.

    `said` is how it was named.
    """
    names = _names()
    if names and name not in names and not (name and re.search(rf"[\"']{re.escape(name)}[\"']", _sources())):
        raise unknown_model(name, names, said or f"reference={name}")


def check_weights(said: str, about: str | None = None) -> str:
    """The name, tag included, of `timm:NAME`, checked as `check_name` does; `about` is how it was said, where that is longer."""
    name = said.removeprefix(TIMM)
    check_name(name.split(".")[0], about or said)
    return name


def unknown_model(name: str, names: list[str], said: str) -> Refused:
    """What to say of a name that is none of timm's: the nearest ones first; `said` is how it was named."""
    close = get_close_matches(name, names, n=5, cutoff=0.4) or sorted(names)[:5]
    return Refused(
        f"{said}: timm {version('timm')} has no such model; it has {', '.join(close)} and "
        f"{len(names) - len(close)} others, timm.list_models()"
    )


@lru_cache
def _names() -> list[str]:
    return MODEL.findall(_sources())


@lru_cache
def _sources() -> str:
    """Of the modules that hold timm's models, one behind the other; empty where they cannot be found."""
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec else None
    return "\n".join(file.read_text(encoding="utf-8") for folder in folders or () for file in Path(folder).glob("models/*.py"))
