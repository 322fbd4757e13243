"""Studies as data: which networks answer a question, and which of their differences are the answer. No torch here.

A study is a list of *variants* (a step with settings on top, each compared with another variant) and a list of *effects*
(weighted sums of the variants' accuracies: a difference to the parent, a Shapley value, an interaction). `study.kind`
names a rule that writes both from a roadmap's steps, whether they change network, recipe or data; `study.rows` lists variants
of one's own.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, permutations
from typing import Any

from roadmap.base.errors import Refused, nearest
from roadmap.config.checks import NAME, NAMED
from roadmap.config.identity import plain
from roadmap.config.schema import ROOMS, Experiment, RowConfig, StudyConfig, StudyKind
from roadmap.config.steps import Step
from roadmap.record.study import Effect, Variant, differences_to_parents, summed

ALL = "all"  # of study.steps: every step of the paper's roadmap, without what stands before it
SAME_RESULT = ("recipe.name", "data.path", "data.accept", "data.download", "data.workers")
OTHER_IMAGES = ("data.source", "data.held_out", "data.classes")
Settings = Mapping[str, Any]  # by their dotted names, model.kernel_size
ExperimentOf = Callable[..., Experiment]  # of a step, under the study's settings, and those of a recipe if one is named


@dataclass(frozen=True)
class Design:
    """What a study trains and what it asks of the results."""

    variants: tuple[Variant, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Change:
    """What one step does to the settings of network, recipe and data, taken out of its place in the roadmap.

    A setting that several steps change belongs to the last of them, from its first value to its last: kernel 3 to 7 is one
    change, and at scale base the width grows from 64 to 128 in `increase_width`.
    """

    step: Step
    off: dict[str, Any] = field(default_factory=dict)
    on: dict[str, Any] = field(default_factory=dict)


def design(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """The variants and effects of a study.

    Raises:
        Refused: for names that are no steps, and rows that contradict each other.

    """
    if study.recipes and (study.rows or study.kind != StudyKind.steps_x_recipes):
        raise Refused(f"study.recipes={study.recipes}: only study.kind=steps_x_recipes has several recipes")
    if study.rows:
        return _with_references(_compared(_rows(study.rows, steps)), study.references)
    rules = {
        StudyKind.roadmap: _roadmap,
        StudyKind.leave_one_out: _leave_one_out,
        StudyKind.add_one_in: _add_one_in,
        StudyKind.orderings: _orderings,
        StudyKind.interactions: _interactions,
        StudyKind.steps_x_recipes: _steps_x_recipes,
        StudyKind.equal_flops: _roadmap,  # its widths are found in roadmap.sweep.equal_cost, which needs the networks
    }
    return _with_references(rules[study.kind](study, steps, experiment_of), study.references)


def _with_references(study: Design, names: Sequence[str]) -> Design:
    """The same effects; the references follow the study's own rows."""
    twice = sorted({name for name in names if [*names, *(variant.name for variant in study.variants)].count(name) > 1})
    if twice:
        raise Refused(f"study.references={list(names)}: {', '.join(twice)}: each row must have a name of its own")
    references = [Variant(name, f"{name} (reference)", "", adopted=False, reference=True) for name in names]
    return Design((*study.variants, *references), study.effects)


def _roadmap(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """Every step on top of all before it, side branches included; compared with the nearest before it that is chosen too."""
    chosen = _chosen(study, steps)
    names = {step.name for step in chosen}

    def before(step: Step) -> str | None:
        parent = step.parent
        while parent is not None and parent not in names:
            parent = steps[parent].parent
        return parent

    def group(step: Step) -> str:
        """Its own; the roadmap's first step has one only beside the step that stands before it."""
        is_first = step.parent is not None and steps[step.parent].before == step.name
        return "" if is_first and before(step) is None else step.group

    return _compared(Variant(step.name, step.label, step.name, before(step), group(step), step.adopted) for step in chosen)


def _leave_one_out(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """The roadmap's end, and the end without each change."""
    end = _chain(study, steps)[-1]
    without = [_variant(end, change, "without", change.off) for change in changes(study, steps, experiment_of)]
    return _compared([Variant(end.name, "the whole network", end.name), *without])


def _add_one_in(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """The roadmap's start, and the start with each change alone."""
    start = _chain(study, steps)[0]
    alone = [_variant(start, change, "only", change.on) for change in changes(study, steps, experiment_of)]
    return _compared([Variant(start.name, start.label, start.name), *alone])


def _variant(step: Step, change: Change, word: str, settings: Settings) -> Variant:
    name, label = f"{word}_{change.step.name}", f"{word} {change.step.label}"
    return Variant(name, label, step.name, step.name, change.step.group, True, _overrides(settings))


def _orderings(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """Each change's worth averaged over orders in which it may come: a Shapley value, from sampled orders or from all.

    Sampled orders come in pairs, one and its reverse, which cancels what the place in the order does. A set of changes that
    several orders pass through is one variant, trained once.
    """
    changed = changes(study, steps, experiment_of)
    start = _chain(study, steps)[0]
    variants: dict[frozenset[str], Variant] = {}
    parts: dict[str, list[dict[str, float]]] = {change.step.name: [] for change in changed}
    every = study.orders >= math.factorial(len(parts)) > 1
    for number, order in enumerate(permutations(parts) if every else orders(list(parts), study.orders)):
        sets = [frozenset(order[:size]) for size in range(len(order) + 1)]
        for members in sets:
            variants.setdefault(members, _set_variant(start, changed, members))
        for name, (before, after) in zip(order, pairwise(sets), strict=True):
            if number % 2 == 0:
                parts[name].append({})
            parts[name][-1] = summed([parts[name][-1], {variants[before].name: -0.5, variants[after].name: 0.5}])
    labels = {change.step.name: change.step.label for change in changed}
    effects = [Effect(name, labels[name], _mean(pairs), [] if every else pairs) for name, pairs in parts.items()]
    ordered = sorted(variants.items(), key=lambda item: (len(item[0]), item[1].name))
    return Design(tuple(variant for _, variant in ordered), tuple(effects))


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return summed({row: weight / len(parts) for row, weight in part.items()} for part in parts)


def orders(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """`count` orders of the names (an even number), drawn once and for all, each followed by its reverse."""
    draw, drawn = random.Random(0), list[tuple[str, ...]]()
    while len(drawn) < count:
        order = draw.sample(list(names), len(names))
        drawn += [tuple(order), tuple(reversed(order))]
    return drawn


def _interactions(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """The start with every change alone and every pair of them: what two do together beyond what each does alone."""
    changed = changes(study, steps, experiment_of)
    if len(changed) < 2:
        raise Refused(f"study.steps={study.steps}: must have two changes or more, for study.kind=interactions is of pairs")
    start = _chain(study, steps)[0]
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


def _steps_x_recipes(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> Design:
    """Every step under each recipe: what it adds under the first, less what it adds under another."""
    plain = _roadmap(study, steps, experiment_of).variants
    recipes = _recipes(study, steps, experiment_of)
    names = {recipe: steps[recipe].label if recipe in steps else recipe for recipe in recipes}

    def under(recipe: str, variant: Variant) -> Variant:
        def name(of: str | None) -> str | None:
            return f"{of}_{recipe}" if of and recipes[recipe] else of

        label, overrides = f"{variant.label}, {names[recipe]}", _overrides(recipes[recipe])
        parent, group = name(variant.parent), names[recipe]
        return dataclasses.replace(
            variant, name=str(name(variant.name)), label=label, parent=parent, group=group, overrides=overrides
        )

    rows = {recipe: [under(recipe, variant) for variant in plain] for recipe in recipes}
    first, *others = recipes
    effects = [
        effect
        for other in others
        for effect in _contrasts(plain, rows[first], rows[other], f" ({names[other]})" * (len(others) > 1), other)
    ]
    return Design(tuple(variant for variants in rows.values() for variant in variants), tuple(effects))


def _contrasts(
    plain: Sequence[Variant], ours: Sequence[Variant], theirs: Sequence[Variant], said: str, recipe: str
) -> Iterator[Effect]:
    """Each step's and all steps' gain under one recipe less that under the other; then the architecture's and recipe's own."""
    pairs = {variant.name: (one.name, other.name) for variant, one, other in zip(plain, ours, theirs, strict=True)}
    start, end = plain[0], [variant for variant in plain if variant.adopted][-1]

    def weights(of: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        return {row: weight for name, both in of.items() for row, weight in zip(pairs[name], both, strict=True)}

    for variant in plain:
        if variant.parent:
            contrast = weights({variant.name: (1, -1), variant.parent: (-1, 1)})
            yield Effect(f"{variant.name}*{recipe}", f"{variant.label}{said}", contrast)
    whole = f"all steps, {start.label} to {end.label}"
    yield Effect(f"all*{recipe}", f"{whole}{said}", weights({end.name: (1, -1), start.name: (-1, 1)}))
    mean = weights({end.name: (0.5, 0.5), start.name: (-0.5, -0.5)})
    yield Effect(f"architecture*{recipe}", f"the architecture: {whole}, mean of both recipes{said}", mean)
    for variant in (start, end):
        yield Effect(f"recipe*{recipe}@{variant.name}", f"the recipe, at {variant.label}{said}", weights({variant.name: (1, -1)}))
    mean = weights({start.name: (0.5, -0.5), end.name: (0.5, -0.5)})
    yield Effect(f"recipe*{recipe}", f"the recipe, mean of both ends{said}", mean)


def _recipes(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> dict[str, dict[str, Any]]:
    """Of each of the study's recipes what it sets otherwise than the one that is chosen; nothing, where it is that one.

    Raises:
        Refused: for less than two, names that are neither recipes nor steps, steps that change the network, and equal recipes.

    """
    first = experiment_of(_chain(study, steps)[0].name)
    found: dict[str, dict[str, Any]] = {}
    for name in study.recipes:
        other = experiment_of(name) if name in steps else experiment_of(first.step.name, name)
        found[name] = {key: new for key, (_, new) in set_between(first, other).items()}
        network = [key for key in found[name] if key.startswith("model.") and key != "model.drop_path"]
        if network:
            raise Refused(f"study.recipes={study.recipes}: {name} changes the network too ({', '.join(network)})")
    if len(study.recipes) < 2 or len({str(settings) for settings in found.values()}) < len(study.recipes):
        raise Refused(f"study.recipes={study.recipes}: must name two that differ, recipes or steps such as original_recipe")
    return found


def _set_variant(start: Step, changed: Sequence[Change], members: frozenset[str]) -> Variant:
    """The start with a set of changes."""
    members_in_order = [change for change in changed if change.step.name in members]
    settings = {key: value for change in members_in_order for key, value in change.on.items()}
    name = "+".join(change.step.name for change in members_in_order) or start.name
    label = " + ".join(change.step.label for change in members_in_order) or start.label
    return Variant(name, label, start.name, None, "", True, _overrides(settings))


def changes(study: StudyConfig, steps: Mapping[str, Step], experiment_of: ExperimentOf) -> list[Change]:
    """The chosen steps as changes of settings of their own, in their roadmap's order."""
    chain = _chain(study, steps)
    first: dict[str, Any] = {}
    owner: dict[str, tuple[Step, Any]] = {}
    chosen = {step.name for step in _chosen(study, steps)}
    for before, step in pairwise(chain):
        between = set_between(experiment_of(before.name), experiment_of(step.name))
        if not between and step.name in chosen:
            raise Refused(f"study.steps={study.steps}: {step.name} changes nothing under these settings; leave it out")
        for key, (old, new) in between.items():
            first.setdefault(key, old)
            owner[key] = (step, new)
    changed = []
    for step in chain[1:]:
        settings = {key: new for key, (last, new) in owner.items() if last.name == step.name and new != first[key]}
        if settings:
            changed.append(Change(step, {key: first[key] for key in settings}, settings))
    kept = [change for change in changed if change.step.name in chosen]
    if not kept:
        names = ", ".join(change.step.name for change in changed)
        raise Refused(f"study.steps={study.steps}: none of them changes a toggle for good; allowed: {names}")
    return kept


def _rows(rows: Sequence[RowConfig], steps: Mapping[str, Step]) -> list[Variant]:
    """Variants of the user's own."""
    names = [row.name for row in rows]
    for row in rows:
        if not NAME.fullmatch(row.name):
            raise Refused(f"study.rows: name={row.name!r}: must be {NAMED}, as it names the runs' folders")
        if row.step not in steps:
            raise Refused(f"study.rows: {row.name}: there is no step {row.step!r}; {nearest(row.step, list(steps))}")
        foreign = [line for line in row.set if not (isinstance(line, str) and _is_setting(line))]  # of YAML a dictionary too
        if foreign:
            raise Refused(
                f"study.rows: {row.name}: set={foreign}: allowed: settings of network, recipe and pictures, "
                "model.<name>=<value>, recipe.<name>=<value>, data.<name>=<value>, without "
                f"{', '.join((*SAME_RESULT, *OTHER_IMAGES))}"
            )
        said = [line.split("=")[0] for line in row.set]
        if len(set(said)) < len(said):
            raise Refused(f"study.rows: {row.name}: set={row.set}: each setting must be there once")
    if len(set(names)) < len(names):
        raise Refused(f"study.rows: names={names}: each must be there once")
    _check_circles({row.name: row.after for row in rows}, "after", "start after")
    _check_circles({row.name: row.compare for row in rows}, "compare", "be compared with")
    return [
        Variant(row.name, row.label or row.name, row.step, row.compare, row.group, True, tuple(row.set), row.after)
        for row in rows
    ]


def _check_circles(other: Mapping[str, str | None], word: str, does: str) -> None:
    """Refuse rows that name a row that there is not, or in a circle themselves."""
    for name, before in other.items():
        if before is not None and before not in other:
            raise Refused(f"study.rows: {name}: there is no row {before!r} to {does}; {nearest(before, list(other))}")
        passed = [name]
        while before is not None:
            if before in passed:
                raise Refused(f"study.rows: {f' {word} '.join([*passed, before])}: a row cannot {does} itself")
            passed.append(before)
            before = other[before]


def in_order(variants: Sequence[Variant]) -> list[Variant]:
    """Each behind the one whose runs it starts from, otherwise as they stand."""
    by_name, ordered = {variant.name: variant for variant in variants}, dict[str, Variant]()

    def add(variant: Variant) -> None:
        if variant.after is not None:
            add(by_name[variant.after])
        ordered.setdefault(variant.name, variant)

    for variant in variants:
        add(variant)
    return list(ordered.values())


def _is_setting(line: str) -> bool:
    """Whether a row may say it: rows have the same images, and differ in what changes their result."""
    key = line.split("=")[0]
    return "=" in line and key.split(".")[0] in ROOMS and key.count(".") == 1 and key not in (*SAME_RESULT, *OTHER_IMAGES)


def _compared(variants: Iterable[Variant]) -> Design:
    """Each variant against its parent."""
    listed = tuple(variants)
    return Design(listed, differences_to_parents(listed))


def _chosen(study: StudyConfig, steps: Mapping[str, Step]) -> list[Step]:
    roadmaps = {step.roadmap or ALL: [other.name for other in _roadmap_with(step, steps)] for step in steps.values()}
    names = [name for entry in study.steps for name in roadmaps.get(entry, [entry])]
    for name in names:
        if name not in steps:
            raise Refused(f"study.steps: there is no step {name!r}; {nearest(name, [*steps, *roadmaps])}")
    if not names or len(set(names)) < len(names):
        raise Refused(f"study.steps={names}: must name at least one, and none twice")
    return [step for step in steps.values() if step.name in names]


def _roadmap_with(step: Step, steps: Mapping[str, Step]) -> list[Step]:
    """The steps of a roadmap, that of this step; one that is not the paper's begins with the step that it is built on."""
    own = [other for other in steps.values() if other.roadmap == step.roadmap and other.before is None]
    return [steps[own[0].parent], *own] if step.roadmap and own[0].parent else own


def _chain(study: StudyConfig, steps: Mapping[str, Step]) -> list[Step]:
    """The roadmap of the chosen steps, without side branches and, if it is the paper's, without what stands before it.

    Raises:
        Refused: where they are of several.

    """
    chosen = _chosen(study, steps)
    own = {step.roadmap: step for step in chosen if step.roadmap} or {"": chosen[0]}
    (first, *others) = own.values()
    whole = [step for step in _roadmap_with(first, steps) if step.adopted]
    if others or not {step.name for step in chosen if step.adopted} <= {step.name for step in whole}:
        names = ", ".join(step.roadmap or ALL for step in (first, *others))
        raise Refused(f"study.steps={study.steps}: must be of one roadmap for study.kind={study.kind}, now {names}")
    return whole


def set_between(before: Experiment, after: Experiment) -> dict[str, tuple[Any, Any]]:
    """What differs of network, recipe and data, by its dotted name, with both values."""
    found = {}
    for room, kind in ROOMS.items():
        one, other = getattr(before, room), getattr(after, room)
        for key in (entry.name for entry in dataclasses.fields(kind)):
            if getattr(one, key) != getattr(other, key) and f"{room}.{key}" not in SAME_RESULT:
                found[f"{room}.{key}"] = (getattr(one, key), getattr(other, key))
    return found


def _overrides(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{key}={_text(value)}" for key, value in settings.items())


def _text(value: Any) -> str:
    value = plain(value)
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
