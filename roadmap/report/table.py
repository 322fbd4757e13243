"""The roadmap's table: our rows with their noise, the paper's in columns of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roadmap.base.errors import Refused, nearest
from roadmap.base.tables import Column, as_csv, as_latex, as_markdown, latex_text, markdown_text
from roadmap.paper.rows import HEADING, METRIC, PaperRow, paper_row, paper_scale
from roadmap.report.agreement import agreement_note
from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Estimate, Noise, Row

PAPER_EPOCHS = 300
ASKED_FOR = {"images_per_second"}  # shown where it is named: it depends on what else the machine did, so tables would differ
PAPER = tuple(f"paper_{key}" for key in (METRIC, "delta", "gmacs"))
SPEEDS = (  # of bench.csv, where there is one
    ("ours_train", "training, img/s", "{:.4g}"),
    ("ours_inference", "inference, img/s", "{:.4g}"),
    ("ours_latency_ms", "latency at batch 1, ms", "{:.3g}"),
    ("ours_memory_gib", "peak memory in training, GiB", "{:.2f}"),
    ("share_of_peak", "share of peak", "{:.1%}"),
)


def table_columns(study: Study, keys: Sequence[str] = ()) -> tuple[Column, ...]:
    """The columns, each labelled with what its numbers were measured on; only those of `keys`, in that order, if any.

    Raises:
        Refused: for a key that no column has.

    """
    every = {column.key: column for column in _every_column(study)}
    for key in keys:
        if key not in every:
            raise Refused(f"there is no column {key!r}; {nearest(key, every)}")
    return tuple(every[key] for key in keys or every if keys or key not in ASKED_FOR)


def _printed(study: Study) -> tuple[str, ...]:
    """The columns in print, where none are named."""
    return ("label", study.plan.metric.key, "delta", "verdict", "gmacs", "params_m", *PAPER[:2])


def _every_column(study: Study) -> tuple[Column, ...]:
    ends = {"tiny": "ResNet-50 to ConvNeXt-T", "base": "ResNet-200 to ConvNeXt-B"}[paper_scale(study.plan.scale.name)]
    metric, (score, delta, gmacs) = study.plan.metric, PAPER
    paper = f"paper, {ends}, ImageNet-1K, {PAPER_EPOCHS} epochs"
    return (
        Column("label", "step" if study.plan.kind == "roadmap" else "row"),
        Column(metric.key, f"{study.plan.measured_on}: {metric.heading}", short=metric.heading),
        Column("seeds", "n"),
        Column("delta", f"difference to {_compared_with(study)} [95 % interval]", short="Δ [95 % interval]"),
        Column("p", "p (Holm)"),
        Column("verdict", "verdict"),
        Column("gmacs", "multiply-adds, G", "{:.4f}", "MACs, G"),
        Column("params_m", "parameters, M", "{:.2f}", "params, M"),
        Column("images_per_second", "training of these runs, img/s", "{:.4g}", "img/s"),
        *(Column(key, heading, form) for key, heading, form in SPEEDS),
        Column(score, f"{paper}: {HEADING}", short="paper, %"),
        Column(delta, "its difference", "{:+.2f}", "its Δ"),
        Column(gmacs, "its multiply-adds, G", "{:.2f}", "its MACs, G"),
    )


def _compared_with(study: Study) -> str:
    parents = {variant.parent for variant in study.plan.variants if variant.parent}
    if len(parents) == 1:
        return next(variant.label for variant in study.plan.variants if variant.name in parents)
    return "its parent"


def table_rows(study: Study, analysis: Analysis) -> list[dict[str, Any]]:
    """One row a step, as people read it; a missing or diverged run is said, never left out."""
    return [_row(study, row, analysis.estimate(row.variant.name)) for row in analysis.rows]


def _row(study: Study, row: Row, estimate: Estimate | None) -> dict[str, Any]:
    variant = row.variant
    paper, before = _published(study, variant.name), _published(study, variant.parent)
    return {
        "label": variant.label + " (side branch)" * variant.side_branch,
        study.plan.metric.key: _score(row),
        "seeds": _seeds(row),
        **_effect(estimate),
        "gmacs": row.gmacs,
        "params_m": row.params_m,
        "images_per_second": row.images_per_second,
        **_speeds(study, variant.name),
        **dict(zip(PAPER, _in_print(paper, before), strict=True)),
    }


def _published(study: Study, row: str | None) -> PaperRow | None:
    return paper_row(paper_scale(study.plan.scale.name), row) if row else None


def _in_print(paper: PaperRow | None, before: PaperRow | None) -> tuple[str | None, float | None, float | None]:
    """The paper's score with its deviation, its difference to the row before, its multiply-adds."""
    if paper is None:
        return None, None, None
    deviation = f" ± {paper.score_std:.2f}" if paper.score_std else ""
    return f"{paper.score:.2f}{deviation}", paper.score - before.score if before else None, paper.gmacs


def _speeds(study: Study, step: str) -> dict[str, Any]:
    measured = study.speeds.get(step, {})
    return {key: measured.get(key) for key, _, _ in SPEEDS}


def _score(row: Row) -> str:
    if row.mean is None:
        return "diverged" if row.diverged else "missing"
    return f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else "")


def _seeds(row: Row) -> str:
    diverged = f", {row.diverged} diverged" if row.diverged else ""
    return f"{len(row.values)}{diverged}" + (f", {row.missing} missing" if row.missing else "")


def _effect(estimate: Estimate | None) -> dict[str, Any]:
    """An effect as people read it: its size with the interval, p, and whether it is resolved."""
    if estimate is None:
        return {}
    interval = "" if estimate.interval is None else " [{:+.2f}, {:+.2f}]".format(*estimate.interval)
    return {
        "delta": f"{estimate.value:+.2f}{interval}",
        "p": None if estimate.p_holm is None else _p(estimate.p_holm),
        "verdict": {True: "resolved", False: "not resolved", None: None}[estimate.resolved],
    }


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def effect_columns(study: Study) -> tuple[Column, ...]:
    """The columns of the effects, where they are not those of single rows."""
    return (
        Column("label", "effect"),
        Column("delta", f"points of {study.plan.metric.label} [95 % interval]"),
        Column("p", "p (Holm)"),
        Column("verdict", "verdict"),
    )


def effect_rows(study: Study, analysis: Analysis) -> list[dict[str, Any]]:
    """One row an effect, for studies whose answer is not one difference a row; else none."""
    if {effect.name for effect in study.plan.effects} <= {variant.name for variant in study.plan.variants}:
        return []
    known = {effect.name: analysis.estimate(effect.name) for effect in study.plan.effects}
    return [{"label": effect.label, **(_effect(known[effect.name]) or {"delta": "missing"})} for effect in study.plan.effects]


def csv_rows(study: Study, analysis: Analysis) -> list[dict[str, Any]]:
    """One row a step, as programs read it: full precision, percent and points."""
    return [_csv_row(study, row, analysis.estimate(row.variant.name)) for row in analysis.rows]


def _csv_row(study: Study, row: Row, estimate: Estimate | None) -> dict[str, Any]:
    plan, variant, paper = study.plan, row.variant, _published(study, row.variant.name)
    return {
        "step": variant.name, "parent": variant.parent, "label": variant.label, "group": variant.group,
        "adopted": variant.adopted, "reference": variant.reference,
        "data": plan.data, "epochs": plan.epochs, "scale": plan.scale.name,
        "n": len(row.values), "diverged": row.diverged, "missing": row.missing,
        f"{plan.metric.key}_mean": row.mean, f"{plan.metric.key}_std": row.std,
        **_effect_values(study, estimate),
        "gmacs_conv_linear": row.gmacs, "params_m": row.params_m, "images_per_second": row.images_per_second,
        **_speeds(study, variant.name),
        PAPER[0]: paper.score if paper else None, f"{PAPER[0]}_std": paper.score_std if paper else None,
        "paper_gflops_printed": paper.gflops_printed if paper else None,
    }  # fmt: skip


def _effect_values(study: Study, estimate: Estimate | None) -> dict[str, Any]:
    low, high = (estimate.interval if estimate else None) or (None, None)
    return {
        f"delta_{study.plan.metric.key}": estimate.value if estimate else None,
        "delta_low": low,
        "delta_high": high,
        "p": estimate.p if estimate else None,
        "p_holm": estimate.p_holm if estimate else None,
        "resolved": estimate.resolved if estimate else None,
    }


def effects_csv(study: Study, analysis: Analysis) -> str:
    """`effects.csv`: every effect in full precision."""
    keys = ("effect", "label", *_effect_values(study, None))
    rows = [{"effect": e.effect.name, "label": e.effect.label, **_effect_values(study, e)} for e in analysis.estimates]
    return as_csv(rows, [Column(key, key) for key in keys], "")


def notes(study: Study, analysis: Analysis) -> list[str]:
    """What a reader must know beside the table."""
    plan = study.plan
    said = [
        f"Ours: {plan.ends} (scale {plan.scale.name}) on {plan.measured_on}, recipe "
        f"{plan.recipe}, final epoch, mean ± standard deviation over n seeds. The paper's numbers are "
        f"ImageNet-1K's and not comparable with ours."
    ]
    if analysis.noise is None:
        said.append("With one seed a row there is no deviation: no difference can be resolved.")
    elif any(effect.parts for effect in study.plan.effects):
        said.append(_of_orders(study))
    elif analysis.estimates:
        said.append(_how(analysis, analysis.noise))
        said += agreement_note(study, analysis)
    said += [_measured(study)] if study.speeds else []
    said += [f"The runs differ in {what}: {', '.join(values)}." for what, values in _mixed(study).items()]
    if study.strangers:
        said.append(f"{study.strangers} runs in the folder belong to other settings and are not in the table.")
    return said


def _of_orders(study: Study) -> str:
    pairs = len(study.plan.effects[0].parts)
    return (
        f"Effects, in points: what a change adds, averaged over {2 * pairs} orders ({pairs} drawn, each with its reverse): a "
        f"Shapley value. The interval is Student's; it holds how the {pairs} pairs vary and the runs' noise, that of shared runs "
        f"too; resolved is what Holm's procedure tells from 0 among the {len(study.plan.effects)}."
    )


def _how(analysis: Analysis, noise: Noise) -> str:
    """How the intervals came about, and what the study could not have seen."""
    count = len(analysis.estimates)
    pooled = "between runs of one row and seed, the seeds' common part taken out" if noise.paired else "within a row"
    sign = "" if noise.seed_p is None or noise.seed_p < 0.001 else "= "
    unequal = len({frozenset(row.by_seed) for row in analysis.rows if not row.variant.reference}) > 1
    untested = "; rows whose seeds differ are not paired" * unequal
    seeds = untested if noise.seed_p is None else f"; F test that seeds do not matter: p {sign}{_p(noise.seed_p)}"
    least = (
        f" With all its planned seeds an effect of {analysis.smallest:.2f} points is resolved in four of five studies."
        * bool(analysis.smallest)
    )
    return (
        f"Effects, in points: the standard deviation {pooled} is {noise.std:.2f}, pooled over the rows ({noise.freedom} degrees "
        f"of freedom{seeds}). Each interval holds for itself with 95 %; resolved is what Holm's procedure tells from 0, with at "
        f"most 5 % chance of any false alarm among the {count}.{least}"
    )


def _measured(study: Study) -> str:
    first = next(iter(study.speeds.values()))
    return (
        f"Speeds are those of bench.csv: {first['device']}, batch {first['batch_size']:.0f}, {first['precision']}, synthetic "
        "images on the device, the loop of a run."
    )


def _mixed(study: Study) -> dict[str, list[str]]:
    """What should be the same in all runs and changes results little or not at all, where it is not the same."""
    seen: dict[str, set[str]] = {}
    for result in study.results.values():
        about = {
            "device": result.device,
            "torch": result.versions.get("torch"),
            "the code's commit": result.git.get("commit"),
        }
        for what, value in about.items():
            seen.setdefault(what, set()).add(str(value))
    return {what: sorted(values) for what, values in seen.items() if len(values) > 1}


def markdown(study: Study, analysis: Analysis, columns: Sequence[str] = ()) -> str:
    """`table.md`: the table and its notes."""
    effects = effect_rows(study, analysis)
    tables = [as_markdown(effects, effect_columns(study), "")] if effects else []
    tables.append(as_markdown(table_rows(study, analysis), table_columns(study, columns), ""))
    return "\n".join([*tables, *(f"{markdown_text(note)}\n" for note in notes(study, analysis))])


def latex(study: Study, analysis: Analysis, columns: Sequence[str] = ()) -> str:
    """`table.tex`: booktabs tables for a paper, with what a reader must know below them."""
    effects = effect_rows(study, analysis)
    tables = [as_latex(effects, effect_columns(study), "effects"), r"\medskip"] if effects else []
    tables.append(as_latex(table_rows(study, analysis), table_columns(study, columns or _printed(study)), study.plan.question))
    said = "\n".join(f"{latex_text(note)}\n" for note in notes(study, analysis))
    return "\n".join([*tables, r"\par\smallskip{\footnotesize", said.rstrip("\n"), r"\par}", ""])


def csv_text(study: Study, analysis: Analysis) -> str:
    """`table.csv`."""
    rows = csv_rows(study, analysis)
    return as_csv(rows, [Column(key, key) for key in rows[0]], "")
