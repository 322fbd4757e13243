"""The columns of a study's tables, and the tables as text: ours with their noise, the paper's in columns of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from roadmap.base.console import printable
from roadmap.base.errors import Refused, nearest
from roadmap.base.tables import Column, Row, Table, as_csv, as_latex, as_markdown, as_table, latex_text, markdown_with_notes
from roadmap.record.study import StudyPlan
from roadmap.report.frames import PAPER, PUBLISHED, SPEEDS, dictionaries
from roadmap.report.published import beside, published_heading
from roadmap.report.report import Report
from roadmap.report.sides import recipes_of
from roadmap.report.statistics import Estimate, written, written_interval, written_p

ASKED_FOR = {"images_per_second"}  # shown where it is named: it depends on what else the machine did, so tables would differ


def table_columns(plan: StudyPlan, keys: Sequence[str] = ()) -> tuple[Column, ...]:
    """The columns, each labelled with what its numbers were measured on; only those of `keys`, in that order, if any.

    Raises:
        Refused: for a key that no column has.

    """
    every = {column.key: column for column in _every_column(plan)}
    for key in keys:
        if key not in every:
            raise Refused(f"there is no column {key!r}; {nearest(key, every)}")
    return tuple(every[key] for key in keys or every if keys or key not in ASKED_FOR)


def effect_columns(plan: StudyPlan) -> tuple[Column, ...]:
    """The columns of the effects, where they are not those of single rows."""
    points = f"points of {plan.metric.label} [95 % interval]"
    recipes = recipes_of(plan)
    if not recipes:
        return (Column("label", "effect"), *_effect(plan, points, missing="missing"))
    names = (f"under {recipes[0]}, {points}", f"under {recipes[1] if len(recipes) == 2 else 'the other recipe'}")
    under = (Column(key, name, partial(_side, key)) for key, name in zip(("under_first", "under_other"), names, strict=True))
    return (Column("label", "step, or all"), *under, *_effect(plan, "their difference", missing="missing"))


def effects_under(labels: Iterable[str], headings: Sequence[tuple[str, Sequence[Estimate | None]]], title: str) -> Table:
    """A table of effects that several studies have: a row for each label, and under each heading what was found of it."""
    rows = [{"label": label, "found": found} for label, *found in zip(labels, *(found for _, found in headings), strict=True)]
    columns = [Column(heading, heading, partial(_found, place)) for place, (heading, _) in enumerate(headings)]
    return rows, [Column("label", "step"), *columns], title


def csv_columns(report: Report) -> list[Column]:
    """The columns of `table.csv`: full precision, percent and points."""
    hidden = {"at_chance", *PAPER[1:], *(() if beside(report.study.plan) else PUBLISHED)}
    return [Column(key, key) for key in report.table if key not in hidden]


def _every_column(plan: StudyPlan) -> tuple[Column, ...]:
    metric = plan.metric
    return (
        Column("label", "step" if plan.kind == "roadmap" else "row", _label),
        Column(
            metric.key, f"{plan.measured_on}: {metric.heading}", partial(_score, metric.key), metric.heading, f"{metric.key}_mean"
        ),
        Column("seeds", "n", _seeds, source="n"),
        *_effect(plan, f"difference to {_compared_with(plan)} [95 % interval]", "Δ [95 % interval]"),
        Column("gmacs", "multiply-adds, G", "{:.4f}", "MACs, G", "gmacs_conv_linear"),
        Column("gmacs_backbone", "of them the backbone's, G", "{:.4f}", "backbone, G"),
        Column("params_m", "parameters, M", "{:.2f}", "params, M"),
        Column("images_per_second", "training of these runs, img/s", "{:.4g}", "img/s"),
        *(Column(key, heading, form) for key, heading, form in SPEEDS),
        *(_published(plan) if beside(plan) else ()),
    )


def _published(plan: StudyPlan) -> tuple[Column, ...]:
    """The columns of what was published of the rows."""
    score, delta, gmacs = PAPER
    short = "published" if plan.published else "paper, %"
    return (
        Column(score, published_heading(plan), partial(_deviating, score, f"{score}_std"), short),
        Column(delta, "its difference", "{:+.2f}", "its Δ"),
        Column(gmacs, "its multiply-adds, G", "{:.2f}", "its MACs, G"),
    )


def _effect(plan: StudyPlan, heading: str, short: str = "", missing: str = "") -> tuple[Column, ...]:
    """An effect as people read it: its size with the interval, p, and whether it is resolved."""
    source = f"delta_{plan.metric.key}"
    return (
        Column("delta", heading, partial(_interval, source, missing), short, source),
        Column("p", "p (Holm)", lambda row: written_p(row.get("p_holm")), source="p_holm"),
        Column("verdict", "verdict", _verdict, source="resolved"),
    )


def _compared_with(plan: StudyPlan) -> str:
    parents = {variant.parent for variant in plan.variants if variant.parent}
    return plan.row(*parents).variant.label if len(parents) == 1 else "its parent"


# --- cells -----------------------------------------------------------------------------------------------------------


def _label(row: Row) -> str:
    return str(row["label"]) + " (side branch)" * (not row["adopted"] and not row["reference"])


def _score(metric: str, row: Row) -> str:
    """A missing or diverged row is said, never left out; and so are runs that scored no better than guessing."""
    chance = f" ({row['at_chance']} at chance)" if 0 < row["at_chance"] < row["n"] else " (at chance)" * bool(row["at_chance"])
    score = _deviating(f"{metric}_mean", f"{metric}_std", row) or ("diverged" if row["diverged"] else "missing")
    return score + chance


def _deviating(mean: str, std: str, row: Row) -> str:
    deviation = f" ± {row[std]:.2f}" if row[std] is not None else ""
    return "" if row[mean] is None else f"{row[mean]:.2f}{deviation}"


def _seeds(row: Row) -> str:
    return ", ".join([str(row["n"]), *(f"{row[word]} {word}" for word in ("diverged", "missing") if row[word])])


def _interval(source: str, missing: str, row: Row) -> str:
    if row.get(source) is None:
        return missing
    return written_interval(row[source], row["delta_low"], row["delta_high"])


def _side(key: str, row: Row) -> str:
    """A gain with its interval, or a score."""
    value, low = row.get(key), row.get(f"{key}_low")
    return "" if value is None else f"{value:.2f}" if low is None else written_interval(value, low, row[f"{key}_high"])


def _found(place: int, row: Row) -> str:
    return written(row["found"][place])


def _verdict(row: Row) -> str:
    return {True: "resolved", False: "not resolved", None: ""}[row.get("resolved")]


# --- texts -----------------------------------------------------------------------------------------------------------


def terminal(report: Report, keys: Sequence[str] = ()) -> str:
    """The tables and their notes; the paper's columns only where they are asked for."""
    plan, effects = report.study.plan, report.effect_rows
    columns = [column for column in table_columns(plan, keys) if keys or column.key not in PAPER]
    tables = [as_table(effects, effect_columns(plan), plan.question)] if effects else []
    return "\n".join([*tables, as_table(report.rows, columns, "" if effects else plan.question), *map(printable, report.notes)])


def markdown(report: Report, keys: Sequence[str] = ()) -> str:
    """`table.md`: the table and its notes."""
    plan, effects = report.study.plan, report.effect_rows
    tables = [as_markdown(effects, effect_columns(plan))] if effects else []
    tables.append(as_markdown(report.rows, table_columns(plan, keys)))
    return markdown_with_notes(tables, report.notes)


def latex(report: Report, keys: Sequence[str] = ()) -> str:
    """`table.tex`: booktabs tables for a paper, with what a reader must know below them."""
    plan, effects = report.study.plan, report.effect_rows
    keys = keys or ("label", plan.metric.key, "delta", "verdict", "gmacs", "params_m", *(PAPER[:2] if beside(plan) else ()))
    tables = [as_latex(effects, effect_columns(plan), "effects"), r"\medskip"] if effects else []
    tables.append(as_latex(report.rows, table_columns(plan, keys), plan.question))
    said = "\n".join(f"{latex_text(note)}\n" for note in report.notes)
    return "\n".join([*tables, r"\par\smallskip{\footnotesize", said.rstrip("\n"), r"\par}", ""])


def table_csv(report: Report) -> str:
    """`table.csv`."""
    return as_csv(report.rows, csv_columns(report))


def effects_csv(report: Report) -> str:
    """`effects.csv`: every effect in full precision."""
    return as_csv(dictionaries(report.effects), [Column(key, key) for key in report.effects])
