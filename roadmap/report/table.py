"""The roadmap's table: our rows with their noise, the paper's in columns of their own."""

from __future__ import annotations

from typing import Any

from roadmap.paper import paper_row
from roadmap.report.formats import Column, as_csv, as_markdown
from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Row

PAPER_EPOCHS = 300
SPEEDS = (  # of bench.csv, where there is one
    ("ours_train", "training, img/s", "{:.4g}"),
    ("ours_inference", "inference, img/s", "{:.4g}"),
    ("ours_latency_ms", "latency at batch 1, ms", "{:.3g}"),
    ("ours_memory_gib", "peak memory in training, GiB", "{:.2f}"),
    ("share_of_peak", "share of peak", "{:.1%}"),
)


def paper_scale(study: Study) -> str:
    """The paper trained two scales; a smaller one of ours stands beside its first."""
    return "base" if study.about["scale"]["name"] == "base" else "tiny"


def table_columns(study: Study) -> tuple[Column, ...]:
    """The columns, each labelled with what its numbers were measured on."""
    ends = {"tiny": "ResNet-50 to ConvNeXt-T", "base": "ResNet-200 to ConvNeXt-B"}[paper_scale(study)]
    paper = f"paper, {ends}, ImageNet-1K, {PAPER_EPOCHS} epochs"
    return (
        Column("label", "step"),
        Column("top1", f"{study.label}: top-1, %"),
        Column("seeds", "n"),
        Column("delta", "difference to its parent [95 % interval]"),
        Column("verdict", "verdict"),
        Column("gmacs", "multiply-adds, G", "{:.4f}"),
        Column("params_m", "parameters, M", "{:.2f}"),
        *(Column(key, heading, form) for key, heading, form in SPEEDS),
        Column("paper_top1", f"{paper}: top-1, %"),
        Column("paper_delta", "its difference", "{:+.2f}"),
        Column("paper_gmacs", "its multiply-adds, G", "{:.2f}"),
    )


def table_rows(study: Study, analysis: Analysis) -> list[dict[str, Any]]:
    """One row a step, as people read it; a missing or diverged run is said, never left out."""
    return [_row(study, row) for row in analysis.rows]


def _row(study: Study, row: Row) -> dict[str, Any]:
    scale, step = paper_scale(study), row.step
    paper = paper_row(scale, step.name)
    before = paper_row(scale, step.parent) if step.parent else None
    return {
        "label": step.label + ("" if step.adopted else " (side branch)"),
        "top1": _top1(row),
        "seeds": _seeds(row),
        "delta": _delta(row),
        "verdict": {True: "resolved", False: "not resolved", None: None}[row.resolved],
        "gmacs": row.gmacs,
        "params_m": row.params_m,
        **_speeds(study, step.name),
        "paper_top1": None if paper is None else f"{paper.top1:.2f}" + (f" ± {paper.top1_std:.2f}" if paper.top1_std else ""),
        "paper_delta": paper.top1 - before.top1 if paper and before else None,
        "paper_gmacs": paper.gmacs if paper else None,
    }


def _speeds(study: Study, step: str) -> dict[str, Any]:
    measured = study.speeds.get(step, {})
    return {key: measured.get(key) for key, _, _ in SPEEDS}


def _top1(row: Row) -> str:
    if row.mean is None:
        return "diverged" if row.diverged else "missing"
    return f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else "")


def _seeds(row: Row) -> str:
    diverged = f", {row.diverged} diverged" if row.diverged else ""
    return f"{len(row.values)}{diverged}" + (f", {row.missing} missing" if row.missing else "")


def _delta(row: Row) -> str | None:
    if row.delta is None:
        return None
    interval = "" if row.interval is None else " [{:+.2f}, {:+.2f}]".format(*row.interval)
    return f"{row.delta:+.2f}{interval}"


CSV_COLUMNS = tuple(
    Column(key, key)
    for key in (
        "step", "parent", "label", "group", "adopted", "data", "epochs", "scale", "n", "diverged", "missing", "top1_mean",
        "top1_std", "delta_top1", "delta_low", "delta_high", "resolved", "gmacs_conv_linear", "params_m",
        "images_per_second", *(key for key, _, _ in SPEEDS), "paper_top1", "paper_top1_std", "paper_gflops_printed",
    )
)  # fmt: skip


def csv_rows(study: Study, analysis: Analysis) -> list[dict[str, Any]]:
    """One row a step, as programs read it: full precision, percent and points."""
    rows = []
    for row in analysis.rows:
        paper = paper_row(paper_scale(study), row.step.name)
        low, high = row.interval or (None, None)
        rows.append(
            {
                "step": row.step.name, "parent": row.step.parent, "label": row.step.label, "group": row.step.group,
                "adopted": row.step.adopted, "data": study.about["data"], "epochs": study.about["epochs"],
                "scale": study.about["scale"]["name"], "n": len(row.values), "diverged": row.diverged,
                "missing": row.missing, "top1_mean": row.mean, "top1_std": row.std,
                "delta_top1": row.delta, "delta_low": low, "delta_high": high, "resolved": row.resolved,
                "gmacs_conv_linear": row.gmacs, "params_m": row.params_m, "images_per_second": row.images_per_second,
                **_speeds(study, row.step.name),
                "paper_top1": paper.top1 if paper else None, "paper_top1_std": paper.top1_std if paper else None,
                "paper_gflops_printed": paper.gflops_printed if paper else None,
            }
        )  # fmt: skip
    return rows


def notes(study: Study, analysis: Analysis) -> list[str]:
    """What a reader must know beside the table."""
    scale = study.about["scale"]
    said = [
        f"Ours: {scale['start']} to {scale['end']} (scale `{scale['name']}`) on {study.label}, recipe "
        f"`{study.about['recipe']}`, final epoch, mean ± standard deviation over n seeds. The paper's numbers are "
        f"ImageNet-1K's and not comparable with ours."
    ]
    if analysis.pooled_std is None:
        said.append("With one seed a step there is no deviation: no difference can be resolved.")
    elif analysis.smallest is not None:
        said.append(
            f"Differences, in points: the standard deviation within a step is {analysis.pooled_std:.2f}, pooled over the "
            f"steps ({analysis.freedom} degrees of freedom); the intervals hold jointly for the {analysis.comparisons} "
            f"comparisons (Bonferroni). Where an interval covers 0 the difference is not resolved. This study could not "
            f"have resolved a difference below {analysis.smallest:.2f} points."
        )
    said += [_measured(study)] if study.speeds else []
    said += [f"The runs differ in {what}: {', '.join(values)}." for what, values in _mixed(study).items()]
    if study.strangers:
        said.append(f"{study.strangers} runs in the folder belong to other settings and are not in the table.")
    return said


def _measured(study: Study) -> str:
    first = next(iter(study.speeds.values()))
    return (
        f"Speeds are those of `bench.csv`: {first['device']}, batch {first['batch_size']:.0f}, {first['precision']}, synthetic "
        "images on the device, the loop of a run."
    )


def _mixed(study: Study) -> dict[str, list[str]]:
    """What should be the same in all runs and changes results little or not at all, where it is not the same."""
    seen: dict[str, set[str]] = {}
    for result in study.results:
        about = {
            "device": result.get("device"),
            "torch": result.get("versions", {}).get("torch"),
            "the code's commit": result.get("git", {}).get("commit"),
        }
        for what, value in about.items():
            seen.setdefault(what, set()).add(str(value))
    return {what: sorted(values) for what, values in seen.items() if len(values) > 1}


def markdown(study: Study, analysis: Analysis) -> str:
    """`table.md`: the table and its notes."""
    table = as_markdown(table_rows(study, analysis), table_columns(study), "")
    return table + "\n" + "\n".join(f"{note}\n" for note in notes(study, analysis))


def csv_text(study: Study, analysis: Analysis) -> str:
    """`table.csv`."""
    return as_csv(csv_rows(study, analysis), CSV_COLUMNS, "")
