"""Secrets stay out of every file: text and records are cleaned on their way to the disk and to W&B. No torch here.

A secret is the value of a variable or a setting whose name says so, the password of a URL, or text of a well-known
shape (keys of cloud providers, private keys). A commit or a fingerprint is none, and neither is a name of the project's own.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

REDACTED = "[redacted]"
PUBLIC: set[str] = set()
"""The project's own names (steps, recipes, toggles), which `roadmap.config` adds: a bad password that equals one must not spoil
the records."""
SHORTEST = 8  # characters: a shorter value is taken for no secret

_WORDS = r"api_?keys?|keys?|tokens?|secrets?|pass(?:word|wd|phrase)s?|pwd|credentials?|creds|auth|authorization"
_NAME = re.compile(rf"(?:^|[_.\-])(?:{_WORDS})(?:$|[_.\-])|(?:key|token|secret|password|passwd|credentials?)$", re.I)
_ASSIGNED = re.compile(r"[+~-]*([\w.\-]+)=(.*)", re.S)
_SHAPES = re.compile(
    r"""
    -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | (?<![A-Za-z0-9]) (?:
        (?:AKIA|ASIA)[A-Z0-9]{16}                                   # AWS
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,}             # GitHub
      | glpat-[\w-]{20,}                                            # GitLab
      | hf_[A-Za-z0-9]{20,}                                         # Hugging Face
      | sk-[A-Za-z0-9_-]{20,}                                       # OpenAI, Anthropic
      | xox[abeoprs]-[A-Za-z0-9-]{10,}                              # Slack
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                             # JWT
      | AIza[\w-]{35}                                               # Google
      | local-[0-9a-f]{40} | wandb_v\d_\w{30,}                      # W&B
    )
    | (?<=://) [^\s/@:]* : [^\s/@]+ (?=@)                           # user:password of a URL
    | (?i: (?<=key)|(?<=token)|(?<=secret)|(?<=password) ) (?: ["'\s]* [:=] ["'\s]* | \s+ ) [0-9a-f]{40} (?![0-9a-f])  # W&B's key
    """,
    re.X | re.S,
)


def redact_text(text: str) -> str:
    """The text with every secret replaced by `[redacted]`."""
    return _cleaned(text, _known_here())


def redact_record(node: Any) -> Any:
    """A nested record with every secret in its texts replaced; what stands under a name that says secret is one."""
    known = _known_here()

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {clean(key): REDACTED if _is_secret(key, value) else clean(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [clean(item) for item in node]
        return _cleaned(node, known) if isinstance(node, str) else node

    return clean(node)


def redact_file(path: Path) -> None:
    """Clean a file of text that another program wrote; one that is not there stays away."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if (clean := redact_text(text)) != text:
        path.write_text(clean, encoding="utf-8")


class Redacting(logging.Formatter):
    """A log's format whose messages and tracebacks hold no secret."""

    def format(self, record: logging.LogRecord) -> str:
        """Format, then clean the whole of it."""
        return redact_text(super().format(record))


class _Clean(io.TextIOBase):
    """A stream in front of another; each piece that is written is cleaned."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what is left of the text without its secrets."""
        self._stream.write(redact_text(text))
        return len(text)

    def __getattribute__(self, name: str) -> Any:
        if name in ("_stream", "write", "writelines", "__class__"):
            return super().__getattribute__(name)
        return getattr(self._stream, name)


def redact_streams() -> None:
    """From here on what Python prints in this process, tracebacks too, holds no secret: for output that becomes a log."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Clean):
            setattr(sys, name, _Clean(stream))


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable or a setting says that its value is secret."""
    return _NAME.search(name) is not None


def _cleaned(text: str, known: re.Pattern[str] | None) -> str:
    return _SHAPES.sub(_hidden, known.sub(REDACTED, text) if known else text)


def _known_here() -> re.Pattern[str] | None:
    return _pattern(tuple(os.environ.items()), tuple(sys.argv))


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, str) and is_secret_name(key) and _may_be_secret(value)


def _hidden(match: re.Match[str]) -> str:
    """A key that follows its name keeps what stands between them."""
    between = re.match(r"""["'\s:=]*""", match[0])
    return (between[0] if between else "") + REDACTED


@lru_cache(maxsize=4)
def _pattern(environment: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> re.Pattern[str] | None:
    """All secrets that are known here as one expression, the longest first; None where there are none."""
    named = [value for name, value in (*environment, *_arguments(words)) if is_secret_name(name)]
    lines = [line for value in named for line in (value, *value.splitlines()) if _may_be_secret(line)]
    forms = {form for value in lines for form in _forms(value)}
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None


def _arguments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values on a command line: `NAME=VALUE`, `--NAME=VALUE` and `--NAME VALUE`."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if match := _ASSIGNED.fullmatch(word):
            yield match[1], match[2].strip("'\"")
        elif word.startswith("--"):
            yield word[2:], following


def _forms(value: str) -> Iterable[str]:
    """A value as it stands, and as it is written in JSON, in Python and in a URL."""
    return value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="")


def _may_be_secret(value: str) -> bool:
    return len(value) >= SHORTEST and value not in PUBLIC and value != REDACTED and not _is_path(value)


def _is_path(value: str) -> bool:
    """A variable such as `SSH_AUTH_SOCK` names a file: a path is no secret, and must stay readable."""
    try:
        return "/" in value and Path(value).exists()
    except (OSError, ValueError):
        return False
