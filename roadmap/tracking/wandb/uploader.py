"""W&B in a process of its own, which follows a run's record on disk: `python -m roadmap.tracking.wandb.uploader`. No torch here.

The run starts it and goes on training; `roadmap.replay` starts it on a run that is done. wandb may hang, at its start, in the
middle and at its end; here it can only hang itself. This process is given a `WandbRun` as a line of JSON on stdin, logs the
epochs of `history.jsonl` as they come, and ends with `result.json`, or when its starter has gone (stdin closes). What went
wrong it says on stdout. It knows no command line and no environment but what W&B needs, so it cannot hand them on.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from roadmap.base.files import read_json_object, write_atomic
from roadmap.record.folder import RunFolder
from roadmap.tracking.summary import summary_of
from roadmap.tracking.wandb.run import MARKER, WandbRun
from roadmap.tracking.wandb.server import Server, Unavailable, address, connect

SORTED_BY = ("step_index", "row_index")  # in a run's summary too: W&B sorts by those without a doubt about their key
TABLE = "table.json"  # beside the lines of a study's summarising run (`dashboard`): what it logs as a W&B table
TABLE_KEY = "roadmap_table"
INIT_SECONDS = 5.0
POLL_SECONDS = 0.2
NOT_INSTALLED = "wandb is not installed (pip install wandb)"


@dataclass(frozen=True)
class Final:
    """The end of a record: what the run's summary says, and a fingerprint of the result."""

    summary: dict[str, Any]
    record: str


def final_of(folder: RunFolder) -> Final | None:
    """The end of a record; None while the run goes on."""
    if table := read_json_object(folder.path / TABLE):
        return Final({"status": "done"}, table["record"])
    result = folder.result()
    return None if result is None else Final(summary_of(folder, result), result.fingerprint)


class Upload:
    """One W&B run, fed from one run's folder."""

    def __init__(self, shown: WandbRun) -> None:
        self.shown = shown
        self.folder = RunFolder(Path(shown.folder))
        self.server: Server | None = None
        self.next = 0  # epoch
        self.fault = self._begin()

    def log_epochs(self) -> None:
        """Log the record's epochs; those that W&B has already are not logged again."""
        for line in self.folder.history():
            if line["epoch"] >= self.next:
                known = {key: value for key, value in line.items() if value is not None}
                self.run.log({**known, **self._pictures(line["epoch"])}, step=line["epoch"])
                self.next = line["epoch"] + 1

    def _pictures(self, epoch: int) -> dict[str, Any]:
        """The sheet of an evaluation's pictures, where its task draws any."""
        if not (file := self.folder.picture(epoch)).is_file():
            return {}
        import wandb

        return {"pictures": wandb.Image(str(file))}

    def finish(self, final: Final) -> None:
        """Write the summary by hand (the last epoch's scores and the cost, never the best), and end the run.

        Raises:
            Unavailable: where the server does not say that it holds all of it.

        """
        self.run.summary.update({**final.summary, "record": final.record})
        self._log_table()
        self._end(exit_code=0)
        if self.server is not None:
            self._confirm(self.server, final.record)

    def stop(self) -> None:
        """End the run that was stopped, and may go on another time."""
        self._end(exit_code=1)

    def _end(self, exit_code: int) -> None:
        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError as error:
            connect(address())  # says what is wrong with it, if it says anything
            raise Unavailable(f"{address()} did not take the rest of the run in time") from error

    def _log_table(self) -> None:
        """Log the table of a study's summarising run; a run that was trained has none."""
        if content := read_json_object(self.folder.path / TABLE):
            import wandb

            table = wandb.Table(columns=content["columns"], data=content["rows"], allow_mixed_types=True)
            self.run.log({TABLE_KEY: table}, step=max(self.next - 1, 0))

    def _begin(self) -> str | None:
        """Open the run; where the server cannot take it, offline, and why."""
        if not self.shown.online:
            self.run = self._init("offline")
            return None
        try:
            self.server = connect(address())
            self.run = self._init("online")
            self.next = self.run.step
            return None
        except Exception as error:
            self.server, fault = None, _message(error)
            self.run = self._init("offline")
            return fault

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        shown = self.shown
        resume: Literal["allow"] | None = "allow" if mode == "online" else None
        about = {key: getattr(shown, key) for key in ("id", "project", "entity", "name", "group", "job_type", "tags", "config")}
        run = wandb.init(dir=shown.folder, mode=mode, resume=resume, settings=_settings(wandb, shown), **about)
        run.summary.update({key: shown.config[key] for key in SORTED_BY if key in shown.config})
        return run

    def _confirm(self, server: Server, record: str) -> None:
        """Ask the server for the run, and note in the run's folder that it is there."""
        shown, count = self.shown, len(self.folder.history())
        entity = shown.entity or self.run.entity or server.entity
        deadline = time.monotonic() + shown.patience / 3
        while (held := server.held(entity, shown.project, shown.id)) is None or not _is_complete(held, count, record):
            if time.monotonic() > deadline:
                raise Unavailable(f"{server.url} holds {held['epochs'] if held else 0} of {count} epochs")
            time.sleep(POLL_SECONDS)
        about = {"url": server.page(entity, shown.project, shown.id), "entity": entity, "project": shown.project, "id": shown.id}
        content = {**about, "server": server.url, "result": record}
        write_atomic(self.folder.path / MARKER, json.dumps(content, indent=2) + "\n")


def _is_complete(held: dict[str, Any], count: int, record: str) -> bool:
    """Whether what a server holds of a run is this record and all of it."""
    return held["epochs"] >= count and held["summary"].get("record") == record


# --- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Follow one record, to its result or to the end of the process that started this one."""
    answers = _stdout()
    try:
        follow(Upload(WandbRun(**json.loads(sys.stdin.buffer.readline()))), answers)
    except Exception as error:
        _answer(answers, fault=_message(error))
    os._exit(0)  # wandb's own way out waits for its server once more


def follow(upload: Upload, answers: TextIO) -> None:
    """Log what the record holds until it ends, or its writer does."""
    if upload.fault:
        _answer(answers, fault=upload.fault)
    while True:
        left = _starter_left(POLL_SECONDS)  # asked before the record is read: nothing is added to it afterwards
        upload.log_epochs()
        if final := final_of(upload.folder):
            upload.finish(final)
        elif left == "stopped" or (left and upload.server is None):
            upload.stop()
        elif not left:
            continue  # a run online whose starter was killed is left to the process that goes on with it
        return _answer(answers, finished=True)


def _starter_left(seconds: float) -> str:
    """How the starter has gone, `stopped` or `killed`; empty where it has not within so many seconds."""
    ready, _, _ = select.select([0], [], [], seconds)
    return ("stopped" if os.read(0, 64) else "killed") if ready else ""


def _settings(wandb: Any, shown: WandbRun) -> Any:
    """Nothing but the run's own numbers: no machine, command line, code, packages or console, and no long waits."""
    settings = {
        "base_url": address(),
        "silent": True,
        "console": "off",
        "init_timeout": INIT_SECONDS,
        "finish_timeout": shown.patience * 0.6,
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
        **shown.sweep,
    }
    return wandb.Settings(**{key: value for key, value in settings.items() if key in wandb.Settings.model_fields})


def _stdout() -> TextIO:
    """The way to the starter, kept from wandb and its service, which write to nothing."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    return answers


def _answer(answers: TextIO, **content: Any) -> None:
    with suppress(OSError):  # nobody listens any more
        answers.write(json.dumps(content) + "\n")
        answers.flush()


def _message(error: Exception) -> str:
    if isinstance(error, ImportError):
        return NOT_INSTALLED
    return str(error).strip().split("\n")[0] or type(error).__name__


if __name__ == "__main__":
    main()
