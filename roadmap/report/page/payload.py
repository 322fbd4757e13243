"""What the page's script knows: every run's curve and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadmap.report.page.markup import rounded
from roadmap.report.page.progress import Epoch, Progress
from roadmap.report.records import Study

SETTINGS = ("scale", "seed", "precision", "pipeline", "device", "processes", "compiled", "threads", "recipe_name")
GROUPS = ("model", "data", "recipe", "versions", "git")


def payload(study: Study, live: Mapping[str, Progress]) -> dict[str, Any]:
    """Runs with their curves and settings; a setting that all runs share is said once."""
    settings = {result["run"]: _settings(result) for result in study.results}
    shared = _shared(list(settings.values()))
    found = {result["run"]: result for result in study.results}
    runs = [
        _run(run, seed, index, found.get(run), live.get(run))
        for index, row in enumerate(study.about["rows"])
        for seed, run in zip(study.about["seeds"], row["runs"], strict=False)
        if run in found or run in live
    ]
    for run in runs:
        known = settings.get(run["run"])
        run["settings"] = known and {key: value for key, value in known.items() if key not in shared}
    rows = [row["label"] for row in study.about["rows"]]
    return {"rows": rows, "runs": runs, "shared": shared, "epochs": study.about["epochs"]}


def _run(run: str, seed: int, row: int, result: Any, progress: Progress | None) -> dict[str, Any]:
    history: Sequence[Epoch] = (
        progress.history if progress else [[rounded(x) for x in line] for line in result.get("history", [])]
    )
    return {"run": run, "seed": seed, "row": row, "status": result["status"] if result else "running", "history": history}


def _settings(result: Any) -> dict[str, Any]:
    """Everything a run was made with, a dotted name each."""
    flat = {key: result[key] for key in SETTINGS if key in result}
    groups = {key: result[key] for key in GROUPS if isinstance(result.get(key), dict)}
    return {**flat, "step": result["step"]["name"]} | {
        f"{g}.{key}": value for g, all_ in groups.items() for key, value in all_.items()
    }


def _shared(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = settings[0] if settings else {}
    missing = object()
    return {key: value for key, value in first.items() if all(other.get(key, missing) == value for other in settings[1:])}
