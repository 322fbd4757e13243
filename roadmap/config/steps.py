"""The roadmap's steps and their order, read from `conf/step/*.yaml`.

A step's file names its parent in its defaults list; the chain of parents is the order, and nothing else is.
The longest chain is the roadmap; a step off it is a side branch (`kernel_9`, `kernel_11`), tried and not adopted.

One step may stand before the roadmap (`step.before`): it has the first step's file for its own, changes the recipe back, and is
what the first step is compared with. It is a row where it is asked for, and no network of its own.

Other roadmaps may begin at any step: theirs are the steps with that `step.roadmap`, or built on one. Where a step's file begins
with another than the step it follows, `step.parent` names this: the techniques of `training` each take back what comes later.
One of these roadmaps has networks of its own: `beyond`, what builds on the end of the paper's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from roadmap.base.errors import Refused, first_line
from roadmap.base.paths import CONF
from roadmap.config.kept import kept

BEYOND = "beyond"  # the roadmap of what builds on the paper's end


@dataclass(frozen=True)
class Step:
    """One named change of the roadmap."""

    name: str
    parent: str | None
    label: str
    group: str
    adopted: bool = True  # False: a side branch
    before: str | None = None  # of the step that stands before the roadmap: the roadmap's first
    roadmap: str = ""  # that it is part of; empty: the paper's
    base: str | None = None  # the step that its file begins with: its parent, but where `before` or `step.parent` says another

    @property
    def on_roadmap(self) -> bool:
        """Whether it is a step of the paper's roadmap itself."""
        return self.before is None and not self.roadmap


def order(steps: Iterable[Step]) -> list[Step]:
    """Parents before children, side branches before the step that goes on, and `adopted` set on each; steps of one roadmap."""
    listed = list(steps)
    names = {step.name for step in listed}
    children: dict[str | None, list[Step]] = {}
    for step in listed:
        children.setdefault(step.parent if step.parent in names else None, []).append(step)

    def length(step: Step) -> int:
        return 1 + max(map(length, children.get(step.name, [])), default=0)

    def walk(step: Step, adopted: bool) -> Iterator[Step]:
        yield replace(step, adopted=adopted)
        following = sorted(children.get(step.name, []), key=lambda s: (length(s), _natural(s.name)))
        # The one that most is built on, among equals the first by name; its siblings are side branches.
        goes_on = max(following, key=lambda s: (length(s), [-ord(c) for c in s.name]), default=None)
        for child in following:
            yield from walk(child, adopted and child is goes_on)

    roots = children.get(None, [])
    return [step for root in sorted(roots, key=lambda s: (-length(s), s.name)) for step in walk(root, True)]


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@kept
def known_steps(*config_dirs: Path) -> dict[str, Step]:
    """Every step of the paper's roadmap in our own `conf/` and in `config_dirs`, by name, in its order."""
    return {name: step for name, step in all_steps(*config_dirs).items() if step.on_roadmap}


@kept
def networks(*config_dirs: Path) -> dict[str, Step]:
    """The same with the steps beyond the roadmap: every step that has a network of its own."""
    return {name: step for name, step in all_steps(*config_dirs).items() if step.on_roadmap or step.roadmap == BEYOND}


@kept
def all_steps(*config_dirs: Path) -> dict[str, Step]:
    """The same with the step that stands before the roadmap and the other roadmaps: everything that `+step=` takes."""
    return _steps(*config_dirs)[0]


def check_whole(names: Iterable[str], config_dirs: Sequence[Path] = ()) -> None:
    """Refuse steps whose files are broken, where they are asked for: by name, or by `all`."""
    for name, fault in broken_steps(*config_dirs).items():
        if not {name, "all"}.isdisjoint(names):
            raise Refused(fault)


def broken_steps(*config_dirs: Path) -> dict[str, str]:
    """What is wrong with the files of one's own that are no steps, by name; they are no hindrance to who asks for others."""
    return _steps(*config_dirs)[1]


@kept
def _steps(*config_dirs: Path) -> tuple[dict[str, Step], dict[str, str]]:
    files: dict[str, Path] = {}
    for folder in (CONF, *config_dirs):
        for file in sorted(path for path in (folder / "step").glob("*.yaml") if path.is_file()):
            if file.stem in files:
                raise Refused(f"{file}: the name {file.stem!r} is taken by {files[file.stem]}; give the step another")
            files[file.stem] = file
    read, broken = _readable(files)
    steps = _with_the_first([replace(step, roadmap=_roadmap_of(step, read)) for step in read.values()])
    roadmaps = sorted({step.roadmap for step in steps})  # the paper's, which has no name, first
    if taken := sorted(set(roadmaps) & files.keys()):
        raise Refused(f"step.roadmap={taken[0]}: a step has that name, {files[taken[0]]}; give the roadmap another")
    ordered = {step.name: step for roadmap in roadmaps for step in order(s for s in steps if s.roadmap == roadmap)}
    lost = sorted(read.keys() - ordered.keys())
    for name in lost:
        why = f"{', '.join(lost)} are each other's parents: a step's chain must reach one without parent"
        broken[name] = f"{files[name]}: steps {why}"
    return ordered, broken


def _readable(files: Mapping[str, Path]) -> tuple[dict[str, Step], dict[str, str]]:
    """The steps of these files whose parents are steps too, and what is wrong with the others."""
    read, broken = dict[str, Step](), dict[str, str]()
    for name, file in files.items():
        try:
            read[name] = _read(file)
        except Refused as fault:
            broken[name] = str(fault)
    while orphans := [
        (step, parent) for step in read.values() for parent in (step.base, step.parent) if parent not in {None, *read}
    ]:
        for step, parent in orphans:
            why = broken.get(str(parent)) or f"no step among {', '.join(read)}"
            broken[step.name] = f"{files[step.name]}: its parent {parent!r} is {'broken: ' * (parent in broken)}{why}"
            read.pop(step.name, None)
    return read, broken


def _with_the_first(steps: list[Step]) -> list[Step]:
    """The steps with the one that stands before the roadmap as the parent of the roadmap's first.

    Refused where that is not the first, or has one before it already.
    """
    by_name = {step.name: step for step in steps}
    for step in [step for step in steps if step.before is not None]:
        first = by_name.get(str(step.before))
        if first is None or first.parent is not None or step.parent != first.name:
            firsts = ", ".join(other.name for other in steps if other.parent is None)
            raise Refused(f"step {step.name!r}: before={step.before}: must be its parent, a step without parent; now {firsts}")
        by_name |= {step.name: replace(step, parent=None), first.name: replace(first, parent=step.name)}
    return list(by_name.values())


def _roadmap_of(step: Step, steps: Mapping[str, Step]) -> str:
    """The roadmap that a step's file names, or the nearest of those that it begins with."""
    return next((other.roadmap for other in files_of(step, steps) if other.roadmap), "")


def files_of(step: Step, steps: Mapping[str, Step]) -> Iterator[Step]:
    """The steps whose files make up a step's settings: itself, the one that its file begins with, and so on."""
    seen: set[str] = set()
    at: Step | None = step
    while at is not None and at.name not in seen:
        seen.add(at.name)
        yield at
        at = steps.get(at.base or "")


def _read(file: Path) -> Step:
    """The step of a file; Refused with the file's path, and the line where that is known."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Refused(f"{file}{line}: not readable as YAML: {error.problem}") from error
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: not readable as YAML: {first_line(error)}") from error
    content = content if isinstance(content, dict) else {}
    listed, about = content.get("defaults") or [], content.get("step") or {}
    if not isinstance(listed, list) or not isinstance(about, dict):
        raise Refused(f"{file}: must have the form defaults: [PARENT, _self_] and step: {{label: TEXT, group: TEXT}}")
    parents = [Path(entry).name for entry in listed if isinstance(entry, str) and entry != "_self_"]
    if len(parents) > 1:
        raise Refused(f"{file}: a step has one parent, its defaults list names {', '.join(parents)}")
    base = parents[0] if parents else None
    label, group = about.get("label", file.stem.replace("_", " ")), str(about.get("group") or "")
    parent, roadmap = about.get("parent", base), str(about.get("roadmap") or "")
    return Step(file.stem, parent, str(label), group, before=about.get("before"), roadmap=roadmap, base=base)
