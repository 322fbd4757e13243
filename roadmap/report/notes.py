"""What a reader must know beside the table: how the numbers came about, and what they cannot say."""

from __future__ import annotations

from roadmap.paper.rows import paper_name
from roadmap.report.agreement import agreement_note
from roadmap.report.records import Study
from roadmap.report.statistics import Analysis, Noise, written_p


def notes(study: Study, analysis: Analysis) -> list[str]:
    """One sentence or more each."""
    plan, first = study.plan, next(iter(study.speeds.values()), None)
    lines = [
        f"Ours: {plan.ends} (scale {plan.scale.name}) on {plan.measured_on}, recipe "
        f"{plan.recipe}, final epoch, mean ± standard deviation over n seeds. The paper's numbers are "
        f"ImageNet-1K's and not comparable with ours."
    ]
    lines += _of_recipes(study)
    if analysis.noise is None:
        lines.append("With one seed a row there is no deviation: no difference can be resolved.")
    elif any(effect.parts for effect in plan.effects):
        lines.append(_of_orders(study))
    elif analysis.estimates:
        lines += [_how(analysis, analysis.noise), *agreement_note(study, analysis)]
    if first:
        lines.append(
            f"Speeds are those of bench.csv: {first['device']}, batch {first['batch_size']:.0f}, {first['precision']}, synthetic "
            "images on the device, the loop of a run."
        )
    lines += [f"The runs differ in {what}: {', '.join(values)}." for what, values in _mixed(study).items()]
    if study.strangers:
        lines.append(f"{study.strangers} runs in the folder belong to other settings and are not in the table.")
    return lines


def _of_recipes(study: Study) -> list[str]:
    """In which settings of recipe and data the rows differ from those that they are compared with."""
    plan = study.plan
    lines = []
    for row in plan.rows:
        taught = [toggle for toggle in row.toggles if toggle.startswith(("recipe.", "data."))]
        if taught and row.variant.parent:
            lines.append(f"{row.variant.label} differs from {plan.row(row.variant.parent).variant.label} in {', '.join(taught)}.")
    if any(paper_name(row.variant.name) == "resnet_original_recipe" for row in plan.rows):
        lines.append("The paper's number for the original recipe is one that it quotes, of one seed and fewer epochs.")
    return lines


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
    seeds = untested if noise.seed_p is None else f"; F test that seeds do not matter: p {sign}{written_p(noise.seed_p)}"
    least = (
        f" With all its planned seeds an effect of {analysis.smallest:.2f} points is resolved in four of five studies."
        * bool(analysis.smallest)
    )
    return (
        f"Effects, in points: the standard deviation {pooled} is {noise.std:.2f}, pooled over the rows ({noise.freedom} degrees "
        f"of freedom{seeds}). Each interval holds for itself with 95 %; resolved is what Holm's procedure tells from 0, with at "
        f"most 5 % chance of any false alarm among the {count}.{least}"
    )


def _mixed(study: Study) -> dict[str, list[str]]:
    """What should be the same in all runs and changes results little or not at all, where it is not the same."""
    results = study.results.values()
    values = {
        "device": {str(result.device) for result in results},
        "torch": {str(result.versions.get("torch")) for result in results},
        "the code's commit": {str(result.git.get("commit")) for result in results},
    }
    return {what: sorted(different) for what, different in values.items() if len(different) > 1}
