"""W&B in a process of its own: `python -m roadmap.mirror`, started by `roadmap.tracking` and by nobody else. No torch here.

wandb may hang, at its start, in the middle and at its end; here it can only hang itself. Its process reads the run's
record and is told by its starter, a line of JSON at a time on stdin, how far the record has come; what went wrong it
says on stdout. It knows no command line and no environment but what W&B needs, so it cannot hand them on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from roadmap.base.files import write_whole
from roadmap.base.redaction import hide
from roadmap.config.steps import known_steps
from roadmap.record.study import study_rows
from roadmap.tracking.wandb.server import Server, Unavailable, address, connect

Result = dict[str, Any]
SUMMARY = ("top1", "top5", "gmacs", "params_m", "delta_top1", "status", "images_per_second")
PLACE = ("step_index", "row_index")  # in a run's summary too: W&B sorts by those without a doubt about their key
MARKER = Path("wandb") / "uploaded.json"  # in a run's folder: where it is on W&B, and which result
TABLE = "table.json"  # beside the lines of a study's summarising run (`roadmap.dashboard`): what it logs as a W&B table
TABLE_KEY = "roadmap_table"
INIT_SECONDS = 5.0
PATIENCE_SECONDS = 7.5  # for W&B to take what is left at a run's end
NOT_INSTALLED = "wandb is not installed (pip install wandb)"


@dataclass(frozen=True)
class Opening:
    """How a run is shown on W&B: the steps of a study form groups. Free of secrets."""

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
    def of(cls, config: dict[str, Any], folder: Path, online: bool) -> Opening:
        """From a run's configuration as `config.yaml` holds it."""
        config = hide({key: value for key, value in config.items() if key != "output"})
        step, seed = config["step"]["name"], config["seed"]
        tags = [config["scale"]["name"], config["data"]["source"], config["recipe"]["name"], f"seed-{seed}"]
        return cls(
            folder=str(folder.absolute()),
            id=folder.absolute().name,
            online=online,
            project=config["wandb"]["project"],
            entity=config["wandb"]["entity"],
            name=f"{step}-s{seed}",
            group=step,
            job_type=config["study"]["name"],
            tags=[tag[:64] for tag in tags if tag],  # W&B takes no longer ones
            config=config | place(folder, step, config["step"].get("parent")),
        )


class Mirror:
    """One W&B run, fed from one run's folder."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.folder = Path(opening.folder)
        self.server: Server | None = None
        self.next = 0  # epoch
        self.fault = self._begin()

    def epoch(self, last: int) -> None:
        """Log the record's epochs up to this one; those that W&B has already are not logged again."""
        for line in epochs(self.folder):
            if self.next <= line["epoch"] <= last:
                self.run.log({key: value for key, value in line.items() if value is not None}, step=line["epoch"])
                self.next = line["epoch"] + 1

    def finish(self, result: Result, late: Result | None = None) -> None:
        """Write the summary by hand (the last epoch's scores and the cost, never the best), and end the run.

        `late` is what became known after the result was written: the difference to a parent that was trained after it.

        Raises:
            Unavailable: where the server does not say that it holds all of it.

        """
        summary = {**result, **(late or {})}
        self.run.summary.update({key: summary[key] for key in SUMMARY if summary.get(key) is not None})
        self._log_table()
        if over := result["status"] != "running":
            self.run.summary["record"] = fingerprint(result)
        try:
            self.run.finish(exit_code=0 if over else 1)
        except TimeoutError as error:
            connect(address())  # says what is wrong with it, if it says anything
            raise Unavailable(f"{address()} did not take the rest of the run in time") from error
        if self.server is not None and over:
            self._confirm(self.server, fingerprint(result))

    def _log_table(self) -> None:
        """Log the table of a study's summarising run; a run that was trained has none."""
        if (self.folder / TABLE).is_file():
            import wandb

            content = json.loads((self.folder / TABLE).read_text(encoding="utf-8"))
            table = wandb.Table(columns=content["columns"], data=content["rows"], allow_mixed_types=True)
            self.run.log({TABLE_KEY: table}, step=max(self.next - 1, 0))

    def _begin(self) -> str | None:
        """Open the run; where the server cannot take it, offline, and why."""
        if self.opening.online:
            try:
                self.server = connect(address())
                self.run = self._init("online")
                self.next = self.run.step
                return None
            except Exception as error:
                self.server, fault = None, _say(error)
                self.run = self._init("offline")
                return fault
        self.run = self._init("offline")
        return None

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        opening = self.opening
        run = wandb.init(
            dir=opening.folder,
            project=opening.project,
            entity=opening.entity,
            mode=mode,
            id=opening.id,
            resume="allow" if mode == "online" else None,
            name=opening.name,
            group=opening.group,
            job_type=opening.job_type,
            tags=opening.tags,
            config=opening.config,
            settings=_settings(wandb, opening),
        )
        run.summary.update({key: opening.config[key] for key in PLACE if key in opening.config})
        return run

    def _confirm(self, server: Server, record: str) -> None:
        """Ask the server for the run, and note in the run's folder that it is there."""
        opening, count = self.opening, len(epochs(self.folder))
        entity = opening.entity or self.run.entity or server.entity
        deadline = time.monotonic() + opening.patience / 3
        while (held := server.held(entity, opening.project, opening.id)) is None or not is_whole(held, count, record):
            if time.monotonic() > deadline:
                raise Unavailable(f"{server.url} holds {held['epochs'] if held else 0} of {count} epochs")
            time.sleep(0.2)
        where = {"entity": entity, "project": opening.project, "id": opening.id}
        about = {"url": server.page(entity, opening.project, opening.id), **where, "server": server.url, "result": record}
        write_whole(self.folder / MARKER, json.dumps(about, indent=2) + "\n")


def place(folder: Path, step: str, parent: str | None) -> dict[str, Any]:
    """What a dashboard sorts and groups by: the step's place in the roadmap, and the row of the study that the run is in.

    A step of the user's own stands half a place after its parent. In studies whose rows are no steps (leave-one-out), all
    runs may be of one step: there `row` and `row_index` tell them apart.
    """
    order = list(known_steps())
    index = order.index(step) if step in order else order.index(parent) + 0.5 if parent in order else float(len(order))
    rows = study_rows(folder.absolute().parent.parent)
    found = [(place, row["name"]) for place, row in enumerate(rows) if folder.name in row["runs"]]
    row_index, row = found[0] if found else (index, step)
    return {"step_index": index, "row": row, "row_index": row_index}


def fingerprint(result: Result) -> str:
    """Sixteen hex digits of a result, to tell whether W&B has this one."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]


def epochs(folder: Path) -> list[dict[str, Any]]:
    """The epochs in a run's record so far."""
    try:
        return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def is_whole(held: dict[str, Any], count: int, record: str) -> bool:
    """Whether what a server holds of a run is this record and all of it."""
    return held["epochs"] >= count and held["summary"].get("record") == record


def main() -> None:
    """Mirror one run, from its opening to its result or to the end of the process that trains it."""
    told, lines = _stdout(), map(json.loads, sys.stdin)
    try:
        _follow(lines, told)
    except Exception as error:
        _tell(told, fault=_say(error))
    os._exit(0)  # wandb's own way out waits for its server once more


def _follow(lines: Iterator[dict[str, Any]], told: TextIO) -> None:
    mirror = Mirror(Opening(**next(lines)))
    if mirror.fault:
        _tell(told, fault=mirror.fault)
    for line in lines:
        if "result" in line:
            mirror.finish(line["result"], line.get("late"))
            _tell(told, finished=True)
            return
        mirror.epoch(line["epoch"])
    if mirror.server is None:  # whoever trained was killed; a run online is left to the process that goes on with it
        mirror.run.finish(exit_code=1)


def _settings(wandb: Any, opening: Opening) -> Any:
    """Nothing but the run's own numbers: no machine, command line, code, packages or console, and no long waits."""
    wanted = {
        "base_url": address(),
        "silent": True,
        "console": "off",
        "init_timeout": INIT_SECONDS,
        "finish_timeout": opening.patience * 0.6,
        "finish_timeout_raises": True,
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "label_disable": True,
        "program": "roadmap",
        "host": "",
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        **opening.sweep,
    }
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})


def _stdout() -> TextIO:
    """The way to the starter, kept from wandb and its service, which write to nothing."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    return told


def _tell(told: TextIO, **said: Any) -> None:
    with suppress(OSError):  # nobody listens any more
        told.write(json.dumps(said) + "\n")
        told.flush()


def _say(error: Exception) -> str:
    if isinstance(error, ImportError):
        return NOT_INSTALLED
    return str(error).strip().split("\n")[0] if isinstance(error, Unavailable) or str(error) else type(error).__name__


if __name__ == "__main__":
    main()
