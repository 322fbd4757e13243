"""Two studies side by side as people read them: `python -m roadmap.report A --against B`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from roadmap.base.claims import claim
from roadmap.base.console import printable
from roadmap.base.errors import writing
from roadmap.base.files import write_atomic
from roadmap.base.tables import Column, as_csv, as_markdown, as_table, markdown_with_notes
from roadmap.config.checks import NAME
from roadmap.config.identity import differences
from roadmap.report.against import Comparison, Difference, repeated
from roadmap.report.recipe import cpu_words
from roadmap.report.records import Study
from roadmap.report.statistics import written_p
from roadmap.report.write import WAIT_SECONDS


def write_comparison(comparison: Comparison) -> str:
    """Write both studies' effects and their difference beside the first one's tables.

    Returns:
        The comparison and the names of its files, for a terminal.

    Raises:
        StorageFault: where the first one's folder cannot be written.

    """
    columns, said, lines = _columns(comparison), notes(comparison), [_line(found) for found in comparison.differences]
    rows = [{"label": found.effect.label, "found": found} for found in comparison.differences]
    home, folder = comparison.one.study.folder, comparison.other.study.folder
    name = comparison.other.study.name
    stem = f"against-{name if NAME.fullmatch(name) else 'another'}"
    files = {
        f"{stem}.md": markdown_with_notes([as_markdown(rows, columns)], said),
        f"{stem}.csv": as_csv(lines, [Column(key, key) for key in lines[0]]),
    }
    with writing(f"{home}: the comparison"), claim(home / "claim", wait=WAIT_SECONDS):
        for file, content in files.items():
            write_atomic(home / file, content)
    title = f"{home} against {folder}"
    return "\n".join([as_table(rows, columns, title), *map(printable, said), f"{home}: {', '.join(files)}"])


def _line(difference: Difference) -> dict[str, Any]:
    line: dict[str, Any] = {"effect": difference.effect.name, "label": difference.effect.label}
    for which, side in (("first", difference.first), ("second", difference.second)):
        numbers = {"value": side.value, **side.tested}
        line |= {f"{which}_{key}": numbers[key] for key in ("value", "low", "high", "resolved")}
    tested = {key: value for key, value in difference.tested.items() if key != "resolved"}
    return {**line, "difference": difference.value, **tested, "came_back": difference.came_back}


def _columns(comparison: Comparison) -> list[Column]:
    one, other = comparison.one.study, comparison.other.study
    return [
        Column("label", "effect"),
        Column("first", f"{one.name}: points [95 % interval]", lambda row: row["found"].first.words),
        Column("second", f"{other.name}: points [95 % interval]", lambda row: row["found"].second.words),
        Column("difference", "difference [95 % interval]", lambda row: row["found"].with_interval),
        Column("p", "p (Holm)", lambda row: written_p(row["found"].p_holm)),
        Column("came_back", "of what one resolved", lambda row: row["found"].came_back),
    ]


# --- notes -----------------------------------------------------------------------------------------------------------


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the table."""
    one, other = comparison.one.study, comparison.other.study
    unequal, same = what_differs(one, other), repeated(one, other)
    lines = [f"The studies differ in {'; '.join(unequal)}." if unequal else "The studies' records name nothing that differs."]
    if same:
        lines.append(f"{len(same)} of {len(one.results)} runs are the same in both: for their rows this is no other draw.")
    lines.append(_came_back(comparison))
    lines.append(
        "Difference: the first study's effect less the second's, in points. The variances that the effect has in both add up to "
        "that of its 95 % interval (Satterthwaite); p is corrected by Holm's procedure over the "
        f"{len(comparison.differences)}. An interval that holds 0 is no proof that the effects are equal: it says how far apart "
        "they may be."
    )
    return [*lines, _heterogeneity(comparison)]


def _came_back(comparison: Comparison) -> str:
    resolved = [difference for difference in comparison.differences if difference.first.resolved]
    if not resolved:
        return f"No effect is resolved in {comparison.one.study.name}: there is nothing to come back."
    kinds = [difference.came_back for difference in resolved]
    there, wrong = kinds.count("resolved in both"), kinds.count("other sign")
    only = sum(bool(d.second.resolved and not d.first.resolved) for d in comparison.differences)
    other = comparison.other.study.name
    return (
        f"{comparison.one.study.name} resolves {len(resolved)} of {len(comparison.differences)} effects. In {other}, "
        f"{len(resolved) - wrong} of these have the same sign, {there} are resolved too, and {wrong} have the other sign; it "
        f"resolves {only} more."
    )


def _heterogeneity(comparison: Comparison) -> str:
    found = comparison.heterogeneity
    if found is None:
        return "Heterogeneity is not tested: it needs two rows with two runs or more in both studies."
    return (
        f"Heterogeneity: Cochran's Q over {found.rows} rows is {found.q:.1f} with {found.freedom} degrees of freedom (I² "
        f"{found.i_squared:.0f} %), p {'' if found.p < 0.001 else '= '}{written_p(found.p)} by Welch's F. It asks whether the "
        "rows differ among themselves alike in both studies; what shifts all of them, as other data may, does not count. Its "
        "limits: with a few seeds the variances are hardly known, which Welch's F allows for and Q and I² do not; I² is no size "
        "of a difference, and grows with the seeds."
    )


def what_differs(one: Study, other: Study) -> list[str]:
    """Everything beside the runs' numbers in which the studies differ, as `what: first / second`."""
    seeds = [f"seeds: {_listed(one.plan.seeds)} / {_listed(other.plan.seeds)}"] * (one.plan.seeds != other.plan.seeds)
    return seeds + differences(settings_of(one), settings_of(other))


def settings_of(study: Study) -> dict[str, str]:
    """Every value that the runs of a study have of a setting."""
    runs = list(study.results.values())
    values: dict[str, list[object]] = {}
    for group in ("head", "data", "recipe", "start"):
        settings = [run.settings(group) for run in runs]
        values |= {key: [one.get(key) for one in settings] for key in sorted({key for one in settings for key in one})}
    values |= {key: [getattr(run, key) for run in runs] for key in ("scale", "precision", "pipeline", "device")}
    values |= {"CPU": [cpu_words(run) for run in runs], "torch": [run.versions.get("torch") for run in runs]}
    return {key: _listed(dict.fromkeys(map(str, found))) for key, found in values.items()}


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
