"""The roadmap's steps and their order, read from `conf/step/*.yaml`.

A step's file names its parent in its defaults list; the chain of parents is the order, and nothing else is.
The longest chain is the roadmap; a step off it is a side branch (`kernel_9`, `kernel_11`), tried and not adopted.

One step may stand before the roadmap (`step.before`): it has the first step's file for its own, changes the recipe back, and is
what the first step is compared with. It is a row where it is asked for, and no network of its own.

Others may stand beyond its end (`step.beyond`), with all that builds on them: rows where they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from roadmap.base.errors import Refused
from roadmap.base.paths import CONF


@dataclass(frozen=True)
class Step:
    """One named change of the roadmap."""

    name: str
    parent: str | None
    label: str
    group: str
    adopted: bool = True  # False: a side branch
    before: str | None = None  # of the step that stands before the roadmap: the roadmap's first
    beyond: bool = False  # it stands beyond the roadmap's end

    @property
    def on_roadmap(self) -> bool:
        """Whether it is a step of the roadmap itself."""
        return self.before is None and not self.beyond


def order(steps: Iterable[Step]) -> list[Step]:
    """Parents before children, side branches before the step that goes on, and `adopted` set on each."""
    children: dict[str | None, list[Step]] = {}
    for step in steps:
        children.setdefault(step.parent, []).append(step)

    def length(step: Step) -> int:
        return 1 + max(map(length, children.get(step.name, [])), default=0)

    def walk(step: Step, adopted: bool) -> Iterator[Step]:
        yield replace(step, adopted=adopted)
        following = sorted(children.get(step.name, []), key=lambda s: (length(s), _natural(s.name)))
        for child in following:
            # Leaves that nothing builds on are side branches when a sibling goes on, or when a sibling leaf came first.
            yield from walk(child, adopted and child is _continuation(following, length))

    listed = {step.name for kind in children.values() for step in kind}
    roots = [step for parent, kind in children.items() if parent not in listed for step in kind]
    return [step for root in sorted(roots, key=lambda s: (-length(s), s.name)) for step in walk(root, True)]


def _continuation(siblings: list[Step], length: Any) -> Step:
    """The sibling that most is built on; among equals the first by name."""
    return max(siblings, key=lambda s: (length(s), [-ord(c) for c in s.name]))


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@lru_cache
def known_steps(*config_dirs: Path) -> dict[str, Step]:
    """Every step of the roadmap in the project's own `conf/` and in `config_dirs`, by name, in its order."""
    return {name: step for name, step in all_steps(*config_dirs).items() if step.on_roadmap}


@lru_cache
def networks(*config_dirs: Path) -> dict[str, Step]:
    """The same with the steps beyond the roadmap: every step that has a network of its own."""
    return {name: step for name, step in all_steps(*config_dirs).items() if step.before is None}


@lru_cache
def all_steps(*config_dirs: Path) -> dict[str, Step]:
    """The same with what stands before the roadmap and beyond it: everything that `+step=` takes."""
    return _steps(*config_dirs)[0]


def check_whole(names: Iterable[str], config_dirs: Sequence[Path] = ()) -> None:
    """Refuse steps whose files are broken, where they are asked for: by name, or by `all`."""
    for name, fault in broken_steps(*config_dirs).items():
        if not {name, "all"}.isdisjoint(names):
            raise Refused(fault)


def broken_steps(*config_dirs: Path) -> dict[str, str]:
    """What is wrong with the files of one's own that are no steps, by name; they are no hindrance to who asks for others."""
    return _steps(*config_dirs)[1]


@lru_cache
def _steps(*config_dirs: Path) -> tuple[dict[str, Step], dict[str, str]]:
    files: dict[str, Path] = {}
    for folder in (CONF, *config_dirs):
        for file in sorted(path for path in (folder / "step").glob("*.yaml") if path.is_file()):
            if file.stem in files:
                raise Refused(f"{file}: the name {file.stem!r} is taken by {files[file.stem]}; give the step another")
            files[file.stem] = file
    found, broken = dict[str, Step](), dict[str, str]()
    for name, file in files.items():
        try:
            found[name] = _read(file)
        except Refused as fault:
            broken[name] = str(fault)
    while orphans := [step for step in found.values() if step.parent is not None and step.parent not in found]:
        for step in orphans:
            why = broken.get(str(step.parent)) or f"no step among {', '.join(found)}"
            broken[step.name] = f"{files[step.name]}: its parent {step.parent!r} is {'broken: ' * (step.parent in broken)}{why}"
            del found[step.name]
    steps = list(found.values())
    beyond = _beyond(steps)
    roadmap = order(_with_the_first([step for step in steps if step.name not in beyond]))
    ordered = {step.name: step for step in (*roadmap, *order(beyond.values()))}
    lost = sorted(found.keys() - ordered.keys())
    for name in lost:
        why = f"{', '.join(lost)} are each other's parents: a step's chain must reach one without parent"
        broken[name] = f"{files[name]}: steps {why}"
    return ordered, broken


def _beyond(steps: list[Step]) -> dict[str, Step]:
    """The steps beyond the roadmap by name: those that say so, and all that build on them."""
    found: dict[str, Step] = {}
    while more := [step for step in steps if step.name not in found and (step.beyond or step.parent in found)]:
        found |= {step.name: replace(step, beyond=True) for step in more}
    return found


def _with_the_first(steps: list[Step]) -> list[Step]:
    """The steps with the one that stands before the roadmap as the parent of the roadmap's first.

    Raises:
        Refused: where that is not the first, or has one before it already.

    """
    by_name = {step.name: step for step in steps}
    for step in [step for step in steps if step.before is not None]:
        first = by_name.get(str(step.before))
        if first is None or first.parent is not None or step.parent != first.name:
            firsts = ", ".join(other.name for other in steps if other.parent is None)
            raise Refused(f"step {step.name!r}: before={step.before}: must be its parent, a step without parent; now {firsts}")
        by_name |= {step.name: replace(step, parent=None), first.name: replace(first, parent=step.name)}
    return list(by_name.values())


def _read(file: Path) -> Step:
    """The step of a file.

    Raises:
        Refused: with the file's path, and the line where that is known.

    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Refused(f"{file}{line}: not readable as YAML: {error.problem}") from error
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: not readable as YAML: {str(error).splitlines()[0]}") from error
    content = content if isinstance(content, dict) else {}
    listed, about = content.get("defaults") or [], content.get("step") or {}
    if not isinstance(listed, list) or not isinstance(about, dict):
        raise Refused(f"{file}: must have the form defaults: [PARENT, _self_] and step: {{label: TEXT, group: TEXT}}")
    parents = [Path(entry).name for entry in listed if isinstance(entry, str) and entry != "_self_"]
    if len(parents) > 1:
        raise Refused(f"{file}: a step has one parent, its defaults list names {', '.join(parents)}")
    label, group = about.get("label", file.stem.replace("_", " ")), about.get("group", "")
    parent = parents[0] if parents else None
    return Step(file.stem, parent, str(label), str(group or ""), before=about.get("before"), beyond=about.get("beyond") is True)
