"""Every setting as its reader is told of it: key, values, default and meaning, read from `roadmap/config/schema.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from textwrap import TextWrapper
from typing import Any, NamedTuple, get_args, get_type_hints

from omegaconf import MISSING

from roadmap.config.checks import LIMITS
from roadmap.config.overrides import OF_FILES, group_options
from roadmap.config.schema import FOUND_OUT, Experiment, default_of

COMMENT = re.compile(r"^    (\w+)(?::| =)[^#\n]*#\s*(.*)$", re.MULTILINE)
GROUPS = ("step", "scale", "task", "head", "data", "recipe", "engine", "study")


class Setting(NamedTuple):
    """One line of a table of settings."""

    key: str
    values: Sequence[tuple[str, str]]  # each choice with its comment, or a type with its range and none
    default: str  # empty: from a file of conf/
    meaning: str


def sections() -> list[tuple[str, Any]]:
    """The parts of an `Experiment` by their prefix, after what it holds itself."""
    parts = [(f"{name}.", kind) for name, kind in get_type_hints(Experiment).items() if dataclasses.is_dataclass(kind)]
    return [("", Experiment), *parts]


def settings(prefix: str, kind: Any) -> Iterator[Setting]:
    """The settings of one part."""
    hints, comments = get_type_hints(kind), _comments(kind)
    for field in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(hints[field.name]) and f"{prefix}{field.name}" not in FOUND_OUT:
            values = _values(hints[field.name], field)
            yield Setting(f"{prefix}{field.name}", values, _default(field), comments.get(field.name, ""))


def help_text(config_dirs: Sequence[Path] = ()) -> str:
    """What `python -m roadmap.run --help` says."""
    wrapped = TextWrapper(120, initial_indent="  ", subsequent_indent="      ").wrap
    lines = [
        "usage: python -m roadmap.run +step=NAME [GROUP=OPTION ...] [KEY=VALUE ...]    one run; -m KEY=a,b,c: several",
        "       python -m roadmap.run reference=TIMM_NAME ...                          a model of timm's in place of a step",
        "--config-dir FOLDER adds steps and studies of your own; --cfg job prints the configuration; --hydra-help helps more.",
        "",
        "Groups, each a folder of conf/; step and study with a plus: +step=NAME",
    ]
    for group in GROUPS:
        lines += wrapped(f"{group}: {', '.join(group_options(group, config_dirs))}")
    lines += ["", "Keys, with what they may be and their default:"]
    for prefix, kind in sections():
        for setting in (one for one in settings(prefix, kind) if not OF_FILES.fullmatch(one.key)):
            values = " | ".join(value for value, _ in setting.values)
            meaning = f"; {setting.meaning}" * bool(setting.meaning)
            lines += wrapped(f"{setting.key}: {values} ({setting.default or 'from conf/'}){meaning}")
    return "\n".join(lines)


def _values(hint: Any, field: dataclasses.Field[Any]) -> list[tuple[str, str]]:
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    kind = field.metadata.get("names") or (inner[0] if inner else hint)
    if issubclass(kind, StrEnum):
        comments = _comments(kind)
        return [(choice.value, comments.get(choice, "")) for choice in kind]
    optional = type(None) in get_args(hint)
    name = f"list of {kind.__name__}" if inner and not optional else kind.__name__
    limits = [f"{LIMITS[key][1]} {limit}" for key, limit in field.metadata.get("limits", {}).items()]
    return [(", ".join([name, *limits, *(["or null"] if optional else [])]), "")]


def _default(field: dataclasses.Field[Any]) -> str:
    value = default_of(field)
    if value == MISSING:
        return ""
    words = {"None": "null", "True": "true", "False": "false", "": "''"}
    return words.get(str(value), str(value))


def _comments(kind: Any) -> dict[str, str]:
    """What stands beside each name in the source of a class."""
    return {match[1]: match[2] for match in COMMENT.finditer(inspect.getsource(kind))}
