"""What the page's script knows: every run's curve and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadmap.record.result import RunResult
from roadmap.record.study import PlannedRun
from roadmap.report.page.markup import rounded
from roadmap.report.page.progress import Epoch, Progress
from roadmap.report.records import Study

SETTINGS = ("scale", "seed", "precision", "pipeline", "device", "processes", "compiled", "threads", "recipe_name")
GROUPS = ("model", "data", "recipe", "versions", "git")


def payload(study: Study, live: Mapping[str, Progress]) -> dict[str, Any]:
    """Runs with their curves and settings; a setting that all runs share is said once."""
    settings = {name: _settings(result) for name, result in study.results.items()}
    shared = _shared(list(settings.values()))
    runs = [
        _run(study, run, live.get(run.name), _beside(settings.get(run.name), shared))
        for run in study.plan.planned()
        if run.name in study.results or run.name in live
    ]
    rows = [variant.label for variant in study.plan.variants]
    return {"rows": rows, "runs": runs, "shared": shared, "epochs": study.plan.epochs}


def _run(study: Study, run: PlannedRun, progress: Progress | None, settings: dict[str, Any] | None) -> dict[str, Any]:
    result = study.results.get(run.name)
    history: Sequence[Epoch] = (
        progress.history if progress else [[rounded(x) for x in line] for line in study.histories.get(run.name, [])]
    )
    status = result.status if result else "running"
    return {"run": run.name, "seed": run.seed, "row": run.index, "status": status, "history": history, "settings": settings}


def _settings(result: RunResult) -> dict[str, Any]:
    """Everything a run was made with, a dotted name each."""
    flat = {key: getattr(result, key) for key in SETTINGS if getattr(result, key) is not None}
    groups = {f"{group}.{key}": value for group in GROUPS for key, value in getattr(result, group).items()}
    return {**flat, "step": result.step.name, **groups}


def _beside(settings: dict[str, Any] | None, shared: Mapping[str, Any]) -> dict[str, Any] | None:
    return settings and {key: value for key, value in settings.items() if key not in shared}


def _shared(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = settings[0] if settings else {}
    missing = object()
    return {key: value for key, value in first.items() if all(other.get(key, missing) == value for other in settings[1:])}
