"""What the page's script knows: every run's curve and settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from roadmap.base.console import printable
from roadmap.record.result import RunResult
from roadmap.record.study import PlannedRun
from roadmap.report.frames import GROUPS
from roadmap.report.page.progress import Epoch, Progress, rounded
from roadmap.report.recipe import common
from roadmap.report.records import Study

SETTINGS = (
    "scale", "seed", "precision", "pipeline", "device", "cpu", "instructions", "processes", "compiled", "threads",
    "recipe_name",
)  # fmt: skip


def block(data: object) -> Markup:
    """Data as JSON inside a script element: nothing in it can end the element or start a comment."""
    content = json.dumps(_plain(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    for sign in "<>&":
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(content)


def _plain(value: Any) -> Any:
    """What JSON can say: a number that is none (of a diverged run) becomes null, and strings are made printable."""
    if isinstance(value, dict):
        return {printable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(value) if isinstance(value, str) else value


def payload(study: Study, live: Mapping[str, Progress]) -> dict[str, Any]:
    """Runs with their curves and settings; a setting that all runs share is said once."""
    of_runs = {name: _settings(result) for name, result in study.results.items()}
    shared = common(list(of_runs.values()))
    own = {name: {key: value for key, value in settings.items() if key not in shared} for name, settings in of_runs.items()}
    runs = [
        _run(study, run, live.get(run.name), own.get(run.name))
        for run in study.plan.planned()
        if run.name in study.results or run.name in live
    ]
    rows = [variant.label for variant in study.plan.variants]
    epochs = study.plan.epochs or max(map(len, study.histories.values()), default=0)
    return {"rows": rows, "runs": runs, "shared": shared, "epochs": epochs}


def _run(study: Study, run: PlannedRun, progress: Progress | None, beside: dict[str, Any] | None) -> dict[str, Any]:
    result = study.results.get(run.name)
    history: Sequence[Epoch] = (
        progress.history if progress else [[rounded(x) for x in line] for line in study.histories.get(run.name, [])]
    )
    status = result.status if result else "running"
    return {"run": run.name, "seed": run.seed, "row": run.index, "status": status, "history": history, "settings": beside}


def _settings(result: RunResult) -> dict[str, Any]:
    """Everything a run was made with, a dotted name each."""
    flat = {key: getattr(result, key) for key in SETTINGS if getattr(result, key) is not None}
    return {**flat, "step": result.step.name, **result.settings(*GROUPS)}
