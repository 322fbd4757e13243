"""Studies as data: which networks answer a question, and which of their differences are the answer. No torch here.

A study is a list of *variants* (a step with toggles on top, each compared with another variant) and a list of *effects*
(weighted sums of the variants' accuracies: a difference to the parent, a Shapley value, an interaction). `study.kind`
names a rule that writes both from the roadmap's steps; `study.rows` lists variants of one's own.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

from roadmap.base.errors import Refused, nearest
from roadmap.config.identity import plain
from roadmap.config.schema import ModelConfig, RowConfig, StudyConfig, StudyKind
from roadmap.config.steps import Step
from roadmap.record.study import Effect, Variant

ALL = "all"  # of study.steps: every step of the roadmap, without what stands before it and beyond it
Toggles = Mapping[str, Any]
ModelOf = Callable[[str], ModelConfig]  # the model of a step under the study's settings


@dataclass(frozen=True)
class Design:
    """What a study trains and what it asks of the results."""

    variants: tuple[Variant, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Change:
    """What one step does to the toggles, taken out of its place in the roadmap.

    A toggle that several steps set belongs to the last of them, from its first value to its last: kernel 3 to 7 is one
    change, and at scale base the width grows from 64 to 128 in `increase_width`.
    """

    step: Step
    off: dict[str, Any] = field(default_factory=dict)
    on: dict[str, Any] = field(default_factory=dict)


def design(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> Design:
    """The variants and effects of a study.

    Raises:
        Refused: for names that are no steps, and rows that contradict each other.

    """
    if study.rows:
        return _with_references(_compared(_rows(study.rows, steps)), study.references)
    rules = {
        StudyKind.roadmap: _roadmap,
        StudyKind.leave_one_out: _leave_one_out,
        StudyKind.add_one_in: _add_one_in,
        StudyKind.orderings: _orderings,
        StudyKind.interactions: _interactions,
        StudyKind.equal_flops: _roadmap,  # its widths are found in roadmap.sweep.equal_cost, which needs the networks
    }
    return _with_references(rules[study.kind](study, steps, model_of), study.references)


def _with_references(study: Design, names: Sequence[str]) -> Design:
    """The same effects; the references follow the study's own rows."""
    twice = sorted({name for name in names if [*names, *(variant.name for variant in study.variants)].count(name) > 1})
    if twice:
        raise Refused(f"study.references={list(names)}: {', '.join(twice)}: each row must have a name of its own")
    references = [Variant(name, f"{name} (reference)", "", adopted=False, reference=True) for name in names]
    return Design((*study.variants, *references), study.effects)


def _roadmap(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> Design:
    """Every step on top of all before it, side branches included; compared with the nearest before it that is chosen too."""
    chosen = _chosen(study, steps)
    names = {step.name for step in chosen}

    def before(step: Step) -> str | None:
        parent = step.parent
        while parent is not None and parent not in names:
            parent = steps[parent].parent
        return parent

    return _compared(
        Variant(
            step.name,
            step.label,
            step.name,
            before(step),
            step.group if before(step) or not _follows_another_recipe(step, steps) else "",
            step.adopted,
        )
        for step in chosen
    )


def _follows_another_recipe(step: Step, steps: Mapping[str, Step]) -> bool:
    """Whether this is the roadmap's first step: it belongs to a group only beside the one that stands before it."""
    return step.parent is not None and steps[step.parent].before == step.name


def _leave_one_out(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> Design:
    """The roadmap's end, and the end without each change."""
    end = _main(steps)[-1]
    without = [_variant(end, change, "without", change.off) for change in changes(study, steps, model_of)]
    return _compared([Variant(end.name, "the whole network", end.name), *without])


def _add_one_in(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> Design:
    """The roadmap's start, and the start with each change alone."""
    start = _main(steps)[0]
    alone = [_variant(start, change, "only", change.on) for change in changes(study, steps, model_of)]
    return _compared([Variant(start.name, start.label, start.name), *alone])


def _variant(step: Step, change: Change, word: str, toggles: Toggles) -> Variant:
    name, label = f"{word}_{change.step.name}", f"{word} {change.step.label}"
    return Variant(name, label, step.name, step.name, change.step.group, True, _overrides(toggles))


def _orderings(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> Design:
    """Each change's worth averaged over orders in which it may come: a Shapley value, from sampled orders.

    Orders come in pairs, one and its reverse, which cancels what the place in the order does. A set of changes that
    several orders pass through is one variant, trained once.
    """
    changed = changes(study, steps, model_of)
    start = _main(steps)[0]
    variants: dict[frozenset[str], Variant] = {}
    parts: dict[str, list[dict[str, float]]] = {change.step.name: [] for change in changed}
    for number, order in enumerate(orders(list(parts), study.orders)):
        sets = [frozenset(order[:size]) for size in range(len(order) + 1)]
        for members in sets:
            variants.setdefault(members, _set_variant(start, changed, members))
        for name, (before, after) in zip(order, pairwise(sets), strict=True):
            if number % 2 == 0:
                parts[name].append({})
            _add(parts[name][-1], {variants[before].name: -0.5, variants[after].name: 0.5})
    effects = [
        Effect(change.step.name, change.step.label, _mean(parts[change.step.name]), parts[change.step.name]) for change in changed
    ]
    ordered = sorted(variants.items(), key=lambda item: (len(item[0]), item[1].name))
    return Design(tuple(variant for _, variant in ordered), tuple(effects))


def _add(weights: dict[str, float], more: Mapping[str, float]) -> None:
    for row, weight in more.items():
        weights[row] = weights.get(row, 0.0) + weight


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        _add(total, {row: weight / len(parts) for row, weight in part.items()})
    return total


def orders(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """`count` orders of the names (an even number), drawn once and for all, each followed by its reverse."""
    draw, drawn = random.Random(0), list[tuple[str, ...]]()
    while len(drawn) < count:
        order = draw.sample(list(names), len(names))
        drawn += [tuple(order), tuple(reversed(order))]
    return drawn


def _interactions(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> Design:
    """The start with every change alone and every pair of them: what two do together beyond what each does alone."""
    changed = changes(study, steps, model_of)
    start = _main(steps)[0]
    sets = [frozenset(names) for size in (0, 1, 2) for names in combinations([change.step.name for change in changed], size)]
    variants = {members: _set_variant(start, changed, members) for members in sets}
    label = {change.step.name: change.step.label for change in changed}

    def effect(members: frozenset[str]) -> Effect:
        first, *second = [name for name in label if name in members]
        weights = {variants[members].name: 1.0}
        for part in [frozenset(c) for size in range(len(members)) for c in combinations(sorted(members), size)]:
            weights[variants[part].name] = (-1.0) ** (len(members) - len(part))
        return Effect("*".join([first, *second]), " x ".join(label[name] for name in (first, *second)), weights)

    return Design(tuple(variants.values()), tuple(effect(members) for members in sets if members))


def _set_variant(start: Step, changed: Sequence[Change], members: frozenset[str]) -> Variant:
    """The start with a set of changes."""
    members_in_order = [change for change in changed if change.step.name in members]
    toggles = {key: value for change in members_in_order for key, value in change.on.items()}
    name = "+".join(change.step.name for change in members_in_order) or start.name
    label = " + ".join(change.step.label for change in members_in_order) or start.label
    return Variant(name, label, start.name, None, "", True, _overrides(toggles))


def changes(study: StudyConfig, steps: Mapping[str, Step], model_of: ModelOf) -> list[Change]:
    """The chosen steps as changes of toggles of their own, in the roadmap's order."""
    chain = _main(steps)
    first: dict[str, Any] = {}
    owner: dict[str, tuple[Step, Any]] = {}
    for before, step in pairwise(chain):
        for key, (old, new) in set_between(model_of(before.name), model_of(step.name)).items():
            first.setdefault(key, old)
            owner[key] = (step, new)
    changed = []
    for step in chain[1:]:
        toggles = {key: new for key, (last, new) in owner.items() if last.name == step.name and new != first[key]}
        if toggles:
            changed.append(Change(step, {key: first[key] for key in toggles}, toggles))
    chosen = {step.name for step in _chosen(study, steps)}
    kept = [change for change in changed if change.step.name in chosen]
    if not kept:
        names = ", ".join(change.step.name for change in changed)
        raise Refused(f"study.steps={study.steps}: none of them changes a toggle for good; allowed: {names}")
    return kept


def _rows(rows: Sequence[RowConfig], steps: Mapping[str, Step]) -> list[Variant]:
    """Variants of the user's own."""
    names = [row.name for row in rows]
    for row in rows:
        if row.step not in steps:
            raise Refused(f"study.rows: {row.name}: there is no step {row.step!r}; {nearest(row.step, list(steps))}")
        if row.compare is not None and row.compare not in names:
            raise Refused(
                f"study.rows: {row.name}: there is no row {row.compare!r} to compare with; {nearest(row.compare, names)}"
            )
        foreign = [line for line in row.set if not line.startswith("model.") or "=" not in line]
        if foreign:
            raise Refused(f"study.rows: {row.name}: set={foreign}: allowed: toggles, model.<name>=<value>")
    if len(set(names)) < len(names):
        raise Refused(f"study.rows: names={names}: each must be there once")
    return [Variant(row.name, row.label or row.name, row.step, row.compare, row.group, True, tuple(row.set)) for row in rows]


def _compared(variants: Iterable[Variant]) -> Design:
    """Each variant against its parent."""
    listed = tuple(variants)
    effects = [Effect(v.name, v.label, {v.name: 1.0, v.parent: -1.0}) for v in listed if v.parent is not None]
    return Design(listed, tuple(effects))


def _chosen(study: StudyConfig, steps: Mapping[str, Step]) -> list[Step]:
    roadmap = [name for name, step in steps.items() if step.on_roadmap]
    names = [name for entry in study.steps for name in (roadmap if entry == ALL else [entry])]
    for name in names:
        if name not in steps:
            raise Refused(f"study.steps: there is no step {name!r}; {nearest(name, list(steps))}")
    if not names or len(set(names)) < len(names):
        raise Refused(f"study.steps={names}: must name at least one, and none twice")
    return [step for step in steps.values() if step.name in names]


def _main(steps: Mapping[str, Step]) -> list[Step]:
    """The roadmap without its side branches, what stands before it and what stands beyond it."""
    return [step for step in steps.values() if step.adopted and step.on_roadmap]


def set_between(before: ModelConfig, after: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """The toggles that differ, with both values."""
    return {
        entry.name: (getattr(before, entry.name), getattr(after, entry.name))
        for entry in dataclasses.fields(ModelConfig)
        if getattr(before, entry.name) != getattr(after, entry.name)
    }


def _overrides(toggles: Toggles) -> tuple[str, ...]:
    return tuple(f"model.{key}={_text(value)}" for key, value in toggles.items())


def _text(value: Any) -> str:
    value = plain(value)
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
