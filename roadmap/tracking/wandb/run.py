"""A run as W&B shows it: what the uploader is given beside the run's folder. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadmap.base.redaction import redact_record
from roadmap.config.steps import all_steps
from roadmap.record.study import find_plan

MARKER = Path("wandb") / "uploaded.json"  # in a run's folder: where it is on W&B, and which result
PATIENCE_SECONDS = 7.5  # for W&B to take what is left at a run's end


@dataclass(frozen=True)
class WandbRun:
    """A run's folder, and its name and settings on W&B, where the steps of a study form groups. Free of secrets."""

    folder: str
    id: str
    online: bool
    project: str
    entity: str | None
    name: str
    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]
    patience: float = PATIENCE_SECONDS
    sweep: dict[str, str] = field(default_factory=dict)  # wandb's settings of a run that W&B's own agent asked for

    @classmethod
    def of(cls, config: dict[str, Any], folder: Path, online: bool) -> WandbRun:
        """From a run's configuration as `config.yaml` holds it."""
        config = redact_record({key: value for key, value in config.items() if key != "output"})
        step, seed = config["step"]["name"], config["seed"]
        keys = sorting_keys(folder, step, config["step"].get("parent"))
        row = config["study"].get("row") or keys["row"]
        tags = [config["scale"]["name"], config["data"]["source"], config["recipe"]["name"], f"seed-{seed}"]
        return cls(
            folder=str(folder.absolute()),
            id=folder.absolute().name,
            online=online,
            project=config["wandb"]["project"],
            entity=config["wandb"]["entity"],
            name=f"{row}-s{seed}",
            group=step,
            job_type=config["study"]["name"],
            tags=[tag[:64] for tag in tags if tag],  # W&B takes no longer ones
            config=config | keys,
        )


def sorting_keys(folder: Path, step: str, parent: str | None) -> dict[str, Any]:
    """What a dashboard sorts and groups by: the step's place in the roadmap, and the row of the study that the run is in.

    A step of the user's own stands half a place after its parent. In studies whose rows are no steps (leave-one-out), all
    runs may be of one step: there `row` and `row_index` tell them apart.
    """
    order, before = list(all_steps()), sum(step.before is not None for step in all_steps().values())  # which has -1
    index = order.index(step) if step in order else order.index(parent) + 0.5 if parent in order else float(len(order))
    plan = find_plan(folder.absolute().parent.parent)
    run = plan.runs.get(folder.name) if plan else None
    row_index, row = (run.index, run.row.variant.name) if run else (index, step)
    return {"step_index": index - before, "row": row, "row_index": row_index}
