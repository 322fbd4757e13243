"""The final numbers of a run, as dashboards show them beside its curves. No torch here."""

from __future__ import annotations

from typing import Any

from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.record.siblings import difference_to_parent


def summary_of(folder: RunFolder, result: RunResult) -> dict[str, Any]:
    """Scores, costs, speed, status, and the difference to the parent where that run is done by now; only what is known."""
    costs = {key: getattr(result, key) for key in ("gmacs", "params_m", "status", "images_per_second")}
    delta = {f"delta_{result.metric.key}": difference_to_parent(folder, result)}
    return {key: value for key, value in {**result.scores, **costs, **delta}.items() if value is not None}
