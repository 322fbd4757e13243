"""The page of several studies: what each step is worth by each view, readable at every width, without scripts."""

from __future__ import annotations

from roadmap.report.page.strips import strips
from roadmap.report.recipe import recipe_words
from roadmap.report.views import VIEWS, Views, notes


def render(views: Views) -> str:
    """The page, the same text from the same records."""
    study, order = views.first.study, list(VIEWS)
    return strips(
        "views of the steps",
        [
            (label, [(VIEWS[kind], order.index(kind), views.worths.get((step, kind))) for kind in views.kinds])
            for step, label in views.steps.items()
        ],
        heading="What is each step worth, and does it depend on its place?",
        table="Each step by each view",
        says=f"Points of {study.plan.metric.label} that adding the step changes.",
        family="the worths of its view",
        plan=study.plan,
        measured=study.plan.measured_on,
        recipe=recipe_words(study),
        studies=[(VIEWS.get(kind, "pairs of steps"), report.study.plan) for kind, report in views.reports.items()],
        pairs=views.pairs and views.pairs.analysis.pairs,
        notes=notes(views),
    )
