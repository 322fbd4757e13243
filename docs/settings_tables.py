"""The tables of docs/settings.md: `roadmap.config.settings` in Markdown."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from html import escape
from typing import Any, get_args, get_type_hints

from roadmap.config.settings import Setting, sections, settings


def settings_tables() -> str:
    """A section for each part of an `Experiment`, after one for what it holds itself."""
    return "\n".join(_section(prefix, kind) for prefix, kind in sections())


def _section(prefix: str, kind: Any) -> str:
    named = {field.name for field in fields(kind) if "names" in field.metadata}
    choices = {f"{prefix}{name}" for name, hint in get_type_hints(kind).items() if name in named or _is_enumeration(hint)}
    rows = [_row(setting, setting.key in choices) for setting in settings(prefix, kind)]
    about = f"```{{py:class}} {kind.__module__}.{kind.__qualname__}\n:no-contents-entry:\n\n{kind.__doc__}\n```"
    table = ["| setting | values | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {prefix[:-1] or 'The run itself'}", "", about, "", *table, ""])


def _is_enumeration(hint: Any) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, StrEnum) for kind in (hint, *get_args(hint)))


def _row(setting: Setting, choices: bool) -> str:
    quoted = "`{}`" if choices else "{}"
    values = "<br>".join(quoted.format(value) + (f": {_cell(about)}" if about else "") for value, about in setting.values)
    default = f"`{setting.default}`" if setting.default else "from `conf/`"
    return f"| `{setting.key}` | {values} | {default} | {_cell(setting.meaning)} |"


def _cell(text: str) -> str:
    return escape(text.replace("|", "\\|"), quote=False)
