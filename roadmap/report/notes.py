"""What a reader must know beside the table: how the numbers came about, and what they cannot say."""

from __future__ import annotations

from roadmap.paper.rows import paper_name
from roadmap.record.alarms import IN_BLOCK, at_chance, layer_scale_reached, updates, why_at_chance
from roadmap.record.result import RunResult
from roadmap.report.agreement import agreement_note
from roadmap.report.published import not_comparable
from roadmap.report.recipe import as_typed, cpu_words, recipe_words, setting_of
from roadmap.report.records import Study
from roadmap.report.sides import recipes_of
from roadmap.report.statistics import Analysis, Measured


def notes(study: Study, analysis: Analysis) -> list[str]:
    """One sentence or more each."""
    plan, first = study.plan, next(iter(study.speeds.values()), None)
    lines = [
        f"Ours: {plan.ends} (scale {plan.scale.name}) on {plan.measured_on}, recipe "
        f"{recipe_words(study)}, final epoch, mean ± standard deviation over n seeds. {not_comparable(plan)}".rstrip()
    ]
    if not study.planned:
        lines.append(
            "No study planned these runs. Each row is compared with the nearest step before it that was trained alike, else with "
            "the first row of its own step; a seed that is missing is one that other rows have."
        )
    lines += [*_of_start(study), *_of_recipes(study), *_of_sides(study)]
    if analysis.measured is None:
        lines.append("No row has two finished runs: there is no deviation, and no difference can be resolved.")
    elif any(effect.parts for effect in plan.effects):
        lines.append(_of_orders(study))
    elif analysis.estimates:
        lines += [_how(study, analysis, analysis.measured), *agreement_note(study, analysis)]
    lines += [*_at_chance(study), *_behind_layer_scale(study)]
    if first:
        lines.append(
            f"Speeds are those of bench.csv: {first['device']}, batch {first['batch_size']:.0f}, {first['precision']}, synthetic "
            "images on the device, the loop of a run."
        )
    lines += [f"The runs differ in {what}: {', '.join(values)}." for what, values in _mixed(study).items()]
    if study.strangers:
        runs = f"{study.strangers} runs in the folder belong" if study.strangers > 1 else "A run in the folder belongs"
        lines.append(f"{runs} to other settings, and to no row of the table.")
    return lines


def _at_chance(study: Study) -> list[str]:
    """The rows with runs that scored no better than guessing, and the likely reason where it is known."""
    reasons: dict[str, list[str]] = {}
    for row in study.plan.rows:
        for result in filter(at_chance, study.of(row.variant.name)):
            reasons.setdefault(row.variant.label, []).append(why_at_chance(result))
    lines = []
    for label, whys in reasons.items():
        why = next(filter(None, whys), "")
        runs = f"{len(whys)} run{'s' * (len(whys) > 1)}"
        lines.append(f"At chance, no better than guessing: {label}, {runs}{', ' * bool(why)}{why}.")
    return lines


def _behind_layer_scale(study: Study) -> list[str]:
    """The rows whose change lies inside blocks that a short run hardly lets through."""
    labels, most, last = [], 0.0, None
    for row in study.plan.rows:
        runs = [study.of(name)[:1] for name in (row.variant.name, row.variant.parent) if name]
        reached = [layer_scale_reached(result) for results in runs for result in results]
        if len(reached) == 2 and None not in reached and row.toggles and IN_BLOCK.issuperset(row.toggles):
            labels.append(row.variant.label)
            most, last = max(most, *(value or 0.0 for value in reached)), runs[0][0]
    if last is None:
        return []
    return [
        f"Can hardly show, at so few updates: {', '.join(labels)}. The change lies inside blocks whose output a layer scale of "
        f"{last.model['layer_scale']:g} multiplies, which {updates(last)} updates raise to about {most:.1g} at most."
    ]


def _of_start(study: Study) -> list[str]:
    others = sorted({str(result.start["study"]) for result in study.results.values() if "study" in result.start})
    return [f"Each run started from the weights of the run of its own row and seed in {other}." for other in others]


def _of_recipes(study: Study) -> list[str]:
    """In which settings of recipe and data, and start weights, rows differ from those that they are compared with, and how."""
    plan = study.plan
    lines = []
    for row in plan.rows:
        taught = [toggle for toggle in row.toggles if toggle.startswith(("recipe.", "data.", "start."))]
        other = plan.row(row.variant.parent) if row.variant.parent else plan.rows[0]
        if taught and other != row:
            runs = [next(iter(study.of(each.variant.name)), None) for each in (row, other)]
            said = ", ".join(_said(key, *runs) for key in taught)
            lines.append(f"{row.variant.label} differs from {other.variant.label} in {said}.")
    if plan.published is None and any(paper_name(row.variant.name) == "resnet_original_recipe" for row in plan.rows):
        lines.append("The paper's number for the original recipe is one that it quotes, of one seed and fewer epochs.")
    if any(row.variant.name == "grn" for row in plan.rows):
        lines.append("The published number for GRN is that of ConvNeXt V2 trained supervised (arXiv 2301.00808, Table 14).")
    return lines


def _of_sides(study: Study) -> list[str]:
    """How to read a table of steps under several recipes."""
    first, *others = recipes_of(study.plan) or ("",)
    if not others:
        return []
    return [
        f"Gains under {first} less those under {', '.join(others)}: where the difference is 0, a step's worth does not depend on "
        "the recipe. The lines of the recipe hold both scores and what the first recipe adds. Verdicts, and the correction for "
        "their number, are the differences'; the interval of a gain is for itself alone."
    ]


def _said(key: str, run: RunResult | None, other: RunResult | None) -> str:
    """A setting with both values, where runs of both rows are there: recipe.label_smoothing (0.1, was 0)."""
    values = [setting_of(result, key) for result in (run, other) if result is not None and result.recipe]
    return f"{key} ({as_typed(values[0])}, was {as_typed(values[1])})" if len(values) == 2 else key


def _of_orders(study: Study) -> str:
    pairs = len(study.plan.effects[0].parts)
    return (
        f"Effects, in points: what a change adds, averaged over {2 * pairs} orders ({pairs} drawn, each with its reverse): a "
        f"Shapley value. The interval is Student's; it holds how the {pairs} pairs vary and the runs' noise, that of shared runs "
        f"too; resolved is what Holm's procedure tells from 0 among the {len(study.plan.effects)}."
    )


def _how(study: Study, analysis: Analysis, measured: Measured) -> str:
    """How the intervals came about, and what the study could not have seen."""
    tested = sum(estimate.p is not None for estimate in analysis.estimates)
    fewest = ", the fewest that a row has finished," * (analysis.finished < len(study.plan.seeds))
    least = (
        f" With {analysis.finished} seeds{fewest} an effect of {analysis.smallest or 0:.2f} points between rows of average noise "
        f"(a run's standard deviation is {measured.deviation:.2f}) is resolved in four of five studies."
    )
    of_orders = "what a change adds, averaged over all orders of the changes: a Shapley value; " * (
        study.plan.kind == "orderings"
    )
    return (
        f"Effects, in points: {of_orders}each 95 % interval is Student's, {_whose(measured)}. Resolved is what Holm's procedure "
        f"tells from 0, with at most 5 % chance of any false alarm among the {tested}.{_alone(analysis)}"
        f"{least * bool(analysis.smallest)}"
    )


def _whose(measured: Measured) -> str:
    """The noise that an interval comes from."""
    if measured.noise.few:
        return "from the differences of runs with the same seed (paired)"
    return "from the runs of its own rows (Welch), without what a seed adds to all rows alike"


def _alone(analysis: Analysis) -> str:
    rows = [row.variant.label for row in analysis.rows if len(row.values) == 1 and not row.variant.reference]
    return f" One run alone has no deviation, and its row no interval: {', '.join(rows)}." * bool(rows)


def _mixed(study: Study) -> dict[str, list[str]]:
    """What should be the same in all runs and changes results little or not at all, where it is not the same."""
    results = study.results.values()
    values = {
        "device": {str(result.device) for result in results},
        "the CPU": {cpu_words(result) for result in results},
        "torch": {str(result.versions.get("torch")) for result in results},
        "the code's commit": {str(result.git.get("commit")) for result in results},
    }
    return {what: sorted(different) for what, different in values.items() if len(different) > 1}
