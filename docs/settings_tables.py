"""The tables of docs/settings.md, read from `roadmap/config/schema.py`: fields, ranges, and the comments beside them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from enum import StrEnum
from html import escape
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING

from roadmap.config.schema import Experiment

RANGE = {"above": "above {}", "least": "at least {}", "below": "below {}", "most": "at most {}"}
COMMENT = re.compile(r"^    (\w+)(?::| =)[^#\n]*#\s*(.*)$", re.MULTILINE)


def settings_tables() -> str:
    """A section for each part of an `Experiment`, after one for what it holds itself."""
    parts = [(f"{name}.", kind) for name, kind in get_type_hints(Experiment).items() if dataclasses.is_dataclass(kind)]
    return "\n".join(_section(prefix, kind) for prefix, kind in [("", Experiment), *parts])


def _section(prefix: str, kind: Any) -> str:
    hints, comments = get_type_hints(kind), _comments(kind)
    rows = [
        f"| `{prefix}{field.name}` | {_values(hints[field.name], field)} | {_default(field)} | {comments.get(field.name, '')} |"
        for field in dataclasses.fields(kind)
        if not dataclasses.is_dataclass(hints[field.name])
    ]
    about = f"```{{py:class}} {kind.__module__}.{kind.__qualname__}\n:no-contents-entry:\n\n{kind.__doc__}\n```"
    table = ["| setting | values | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {prefix[:-1] or 'The run itself'}", "", about, "", *table, ""])


def _values(hint: Any, field: dataclasses.Field[Any]) -> str:
    """The choices of an enumeration, each with its comment, or a type with its range."""
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    kind = inner[0] if inner else hint
    if issubclass(kind, StrEnum):
        comments = _comments(kind)
        return "<br>".join(f"`{choice}`" + (f": {comments[choice]}" if choice in comments else "") for choice in kind)
    optional = type(None) in get_args(hint)
    name = f"list of {kind.__name__}" if inner and not optional else kind.__name__
    limits = [RANGE[key].format(limit) for key, limit in field.metadata.get("limits", {}).items()]
    return ", ".join([name, *limits, *(["or null"] if optional else [])])


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value == MISSING:
        return "from `conf/`"
    words = {"None": "null", "True": "true", "False": "false", "": "''"}
    return f"`{words.get(str(value), str(value))}`"


def _comments(kind: Any) -> dict[str, str]:
    """What stands beside each name in the source of a class."""
    return {match[1]: escape(match[2].replace("|", "\\|"), quote=False) for match in COMMENT.finditer(inspect.getsource(kind))}
