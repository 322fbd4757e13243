"""Errors of Hydra and OmegaConf as one line: where, what, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from roadmap.base.errors import nearest
from roadmap.config.checks import allowed_of
from roadmap.config.overrides import group_options, nearest_key
from roadmap.config.schema import ROOMS, RowConfig

KIND = re.compile(r"is not Optional|Incompatible value|not a valid input for|not a ListConfig")  # OmegaConf's words for one

UNLOADED = re.compile(r"In '(.+?)': Could not load '(.+)/(.+?)'")
ASSIGNED = re.compile(r"Invalid type assigned: .* is not a subclass of (\w+)\. value: (.*)")
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "RowConfig": "a row, {name: NAME, step: STEP, set: ['model.NAME=VALUE']}",
}


def explain(error: BaseException, config_dirs: Sequence[Path] = (), said: Sequence[str] = ()) -> str:
    """Hydra's and OmegaConf's errors in one line: where, what, and what is allowed; with the path of a file of one's own.

    `said` is the command line, which may hold the value.
    """
    file = re.match(r"In '(.+?)': \w+ raised", str(error))
    own = [path for folder in config_dirs if file and (path := folder / f"{file[1]}.yaml").is_file()]
    place = f"{own[0] if own else f'conf file {file[1]}'}: " if file else ""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = str(cause).splitlines()[1 if file and cause is error else 0 :]
    message = lines[0].strip() if lines else type(cause).__name__
    if composing := _of_composing(message, config_dirs):
        return composing
    in_text = re.search(r"full_key: (\S+)", str(error))
    key = str(getattr(cause, "full_key", None) or "") or (in_text[1] if in_text else "")
    where = place + (f"{key}: " if key and key not in message else "")
    if choice := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", message):
        value, options = choice[1].split(".")[-1], choice[2].split(", ")
        return f"{where}invalid value {value!r}; {nearest(value, options)}"
    if getattr(cause, "object_type", None) is RowConfig or key.startswith("study.rows["):
        return f"{place}study.rows: {_of_row(key.split('.')[-1], message)}"
    if isinstance(cause, MissingMandatoryValue):
        whose = f"a {key.split('.')[0]} file must set it, or begin with defaults: [NAME, _self_] to have the rest from another"
        if key.startswith("model."):
            whose = "a step without a parent must set every toggle"
        return f"{where}has no value; {whose}"
    if key and (isinstance(cause, ConfigKeyError) or re.match(r"Key '.*' (is )?not in", message)):
        return f"{place}there is no setting {key!r}. {_headless(key) or nearest_key(key)}"
    return f"{place}{_of_value(key, message, said)}"


def _of_row(key: str, message: str) -> str:
    """What to say of a row of one's own."""
    if assigned := ASSIGNED.match(message):
        return f"invalid value {assigned[2]}; must be {WORDS['RowConfig']}"
    if "not in 'RowConfig'" in message:
        return f"a row has no {key!r}; {nearest(key, [entry.name for entry in fields(RowConfig)])}"
    if key == "set":
        return "set must be a list of settings, set: ['model.NAME=VALUE']"
    return f"a row's {key} must be text" + (", and be said" if key in ("name", "step") else "")


def _of_composing(message: str, config_dirs: Sequence[Path]) -> str:
    """What to say where Hydra could not put the files and overrides together; empty of other faults."""
    if unloaded := UNLOADED.match(message):
        said_in, group, option = unloaded.groups()
        own = [str(path) for folder in config_dirs if (path := folder / f"{said_in}.yaml").is_file()]
        allowed = nearest(option, group_options(group, config_dirs))
        return f"{own[0] if own else said_in}: its defaults name {group}/{option}, which is not there; {allowed}"
    if again := re.search(r"Multiple values for .*'override (\w+): (.*)'", message):
        return f"{again[1]}={again[2]}: {again[1]} is said twice; name one"
    if "already at" in message:
        item = message.split()[-1].strip(".'")
        return f"{item} is there already: write it without the plus"
    if message.startswith("Ambiguous value"):
        return f"{message}: several values are a sweep; add -m, or write them as a list, [a,b]"
    return ""


def _of_value(key: str, message: str, said: Sequence[str]) -> str:
    """What to say of a value of a wrong kind."""
    allowed, where = allowed_of(key), f"{key}: " * bool(key and key not in message)
    if assigned := ASSIGNED.match(message):
        value = "null" if assigned[2] == "None" else assigned[2]
        return f"{key}: invalid value {value}; must be {WORDS.get(assigned[1], assigned[1])}"
    if allowed and KIND.search(message):
        return f"{_said(key, said) or f'{key}: {message}'}: must be {allowed}"
    if "is not Optional" in message:
        return f"{_said(key, said) or f'{key}: {message}'}: must be text"
    if message.startswith("Cannot convert"):  # a list, where text is wanted
        return f"{_said(key, said) or key}: must be text"
    if "not a ListConfig" in message:
        return f"{where}{message}; write a list, {key}: [...]"
    return f"{where}{message}" + (f"; it must be {allowed}" if allowed else "")


def _said(key: str, words: Sequence[str]) -> str:
    """The last word of a command line that sets this key, empty where none does."""
    return next((word.lstrip("+") for word in reversed(words) if word.lstrip("+").split("=")[0] == key), "")


def _headless(key: str) -> str:
    """What to say where a step's or a study's file lacks its first line, so that Hydra takes all of it for parts of `step`."""
    group, _, rest = key.partition(".")
    inside = {"step": {"step", *ROOMS}, "study": {"study"}}.get(group, set())
    return f"A {group}'s file must begin with the line # @package _global_" if rest.split(".")[0] in inside else ""
