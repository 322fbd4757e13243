"""Curves beside the run's own files: W&B, TensorBoard, or nothing. The record never depends on it.

W&B runs in a process of its own (`roadmap.mirror`), which follows the record: training hands it a few bytes an epoch,
waits for it a few seconds at the end, and nowhere else. What W&B did not get, `python -m roadmap.replay` brings it later.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from roadmap.base.paths import PACKAGE
from roadmap.base.redaction import hide, is_secret_name, redact
from roadmap.config.identity import described
from roadmap.config.schema import Experiment, Logger, WandbMode
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.tracking.tensorboard import NOT_INSTALLED, EventFile
from roadmap.tracking.wandb.process import Final, Opening

log = logging.getLogger("roadmap")

GRACE_SECONDS = 1.0  # for its process to say so
ENDED = "the process that talks to W&B ended early"
# wandb's own variables that say where its server is and who we are; others could change what a run is.
WANDB_VARIABLES = tuple(
    f"WANDB_{name}"
    for name in ("API_KEY", "BASE_URL", "CONFIG_DIR", "HTTP_PROXY", "HTTPS_PROXY", "INSECURE_DISABLE_SSL", "CA_BUNDLE")
)


class Tracker(Protocol):
    """Where a run's numbers are mirrored."""

    def epoch(self, line: dict[str, Any]) -> None:
        """One epoch, which is in the record already."""

    def finish(self, result: RunResult) -> None:
        """The final numbers."""


class NoTracker:
    """The mirror that keeps nothing."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Keep nothing."""

    def finish(self, result: RunResult) -> None:
        """Keep nothing."""


class WandbTracker:
    """A W&B run, kept by a process of its own."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.fault: str | None = None
        self.finished = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "roadmap.tracking.wandb.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(agent=bool(opening.sweep)),
            start_new_session=True,  # Ctrl-C is for the run, which saves its state and then ends the mirror
        )
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        self._tell(dataclasses.asdict(opening))

    def epoch(self, line: dict[str, Any]) -> None:
        """Say that the record holds this epoch."""
        self._tell({"epoch": line["epoch"]})
        self._listen()

    def finish(self, result: RunResult) -> None:
        """Hand the result over and wait for W&B to have it, but not for long."""
        self.end(Final.of(RunFolder(Path(self.opening.folder)), result))

    def end(self, final: Final) -> None:
        """Hand the end of the run over and wait for W&B to have it, but not for long."""
        self._tell(hide(dataclasses.asdict(final)))
        process, deadline = self._process, time.monotonic() + self.opening.patience + GRACE_SECONDS
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        while not self.finished and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            self._listen()
        self._listen()
        if not self.finished:
            self._warn(
                "W&B did not take the run in time" if process.poll() is None else "the process that talks to W&B ended early"
            )
        process.kill()
        process.wait()
        process.stdout.close()

    def _tell(self, line: dict[str, Any]) -> None:
        """Write a line; all lines of a run are less than what a pipe holds, so nobody waits for their reader."""
        assert self._process.stdin is not None
        content = json.dumps(line).encode() + b"\n"
        try:
            whole = os.write(self._process.stdin.fileno(), content) == len(content)
        except OSError:
            whole = False
        if not whole:
            self._listen()
            self._warn(ENDED)

    def _listen(self) -> None:
        """Take in what the mirror has said so far."""
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, b""):
            said = json.loads(line)
            self.finished |= bool(said.get("finished"))
            if "fault" in said:
                self._warn(said["fault"])

    def _warn(self, fault: str) -> None:
        """Say the first fault, and what to do when it is mended."""
        if self.fault is None:
            self.fault = redact(fault)
            later = f"python -m roadmap.replay {shlex.quote(self.opening.folder)}"
            log.warning("logger=wandb: %s; the run goes on without it, and this brings it to W&B later: %s", self.fault, later)


class TensorboardTracker:
    """An event file in the run's folder; the first fault is said once and ends it."""

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        self.file: EventFile | None = None
        with self._said():
            self.file = EventFile(folder, config)

    def epoch(self, line: dict[str, Any]) -> None:
        """Append the epoch."""
        with self._said():
            if self.file is not None:
                self.file.epoch(line)

    def finish(self, result: RunResult) -> None:
        """Append the final numbers."""
        with self._said():
            if self.file is not None:
                self.file.finish(result)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Nothing that happens to the event file may cost the run: not a missing package, not one of another version."""
        try:
            yield
        except Exception as error:
            self.file = None
            fault = NOT_INSTALLED if isinstance(error, ImportError) else redact(str(error))
            log.warning("logger=tensorboard: %s; the run goes on without it", fault)


def tracker(experiment: Experiment, folder: RunFolder) -> Tracker:
    """The mirror that the experiment asks for; a run works the same without it, and says so in its log."""
    if experiment.logger == Logger.none:
        return NoTracker()
    if experiment.logger == Logger.tensorboard:
        return TensorboardTracker(folder, described(experiment))
    if redact(str(folder.path.absolute())) != str(folder.path.absolute()):
        log.warning(
            "logger=wandb: the path of output= holds a secret, and wandb writes its path down; the run goes on without it"
        )
        return NoTracker()
    try:
        return WandbTracker(_opening(experiment, folder.path))
    except OSError as error:
        log.warning("logger=wandb: %s; the run goes on without it", error)
        return NoTracker()


def _opening(experiment: Experiment, folder: Path) -> Opening:
    """How the run is shown; one that W&B's agent asked for (`wandb agent`, conf/wandb/sweep.yaml) is the agent's run."""
    opening = Opening.of(described(experiment), folder, experiment.wandb.mode == WandbMode.online)
    asked = {name: os.environ.get(f"WANDB_{name}") for name in ("RUN_ID", "SWEEP_ID", "PROJECT", "ENTITY")}
    if not (opening.online and asked["RUN_ID"] and asked["SWEEP_ID"]):
        return opening
    project, entity = asked["PROJECT"] or opening.project, asked["ENTITY"] or opening.entity
    sweep = {"sweep_id": asked["SWEEP_ID"]}
    return dataclasses.replace(opening, id=asked["RUN_ID"], project=project, entity=entity, sweep=sweep)


def _environment(agent: bool = False) -> dict[str, str]:
    """What W&B's process gets to know: where its server is and our login, an agent's parameters, and no other secret."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and not is_secret_name(key)}
    passed = (*WANDB_VARIABLES, *(["WANDB_SWEEP_PARAM_PATH"] if agent else []))  # the grid counts what its runs' settings say
    kept |= {key: os.environ[key] for key in passed if key in os.environ}
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(PACKAGE.parent)]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "WANDB_ERROR_REPORTING": "false"}
