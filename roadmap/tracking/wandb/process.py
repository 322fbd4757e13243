"""The uploader's process as its starter sees it: started, listened to, waited for a few seconds. No torch here."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from contextlib import suppress

from roadmap.base.paths import PACKAGE
from roadmap.base.redaction import is_secret_name, redact_text
from roadmap.tracking.wandb.run import WandbRun

log = logging.getLogger("roadmap")

GRACE_SECONDS = 1.0  # for the process to say that it has finished
ENDED = "the process that talks to W&B ended early"
# wandb's own variables that say where its server is and who we are; others could change what a run is.
WANDB_VARIABLES = tuple(
    f"WANDB_{name}"
    for name in ("API_KEY", "BASE_URL", "CONFIG_DIR", "HTTP_PROXY", "HTTPS_PROXY", "INSECURE_DISABLE_SSL", "CA_BUNDLE")
)


class Uploader:
    """A process that follows a run's record and brings it to W&B; the run works the same without it, and logs the first fault."""

    def __init__(self, shown: WandbRun) -> None:
        self.shown = shown
        self.fault: str | None = None
        self.finished = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "roadmap.tracking.wandb.uploader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(agent=bool(shown.sweep)),
            start_new_session=True,  # Ctrl-C is for the run, which saves its state and then ends this process
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._send(json.dumps(dataclasses.asdict(shown)))  # less than what a pipe holds: nobody waits for its reader

    def update(self) -> None:
        """Take in what the process has said so far; it finds the epochs in the record by itself."""
        for line in iter(self.stdout.readline, b""):
            answer = json.loads(line)
            self.finished |= bool(answer.get("finished"))
            if "fault" in answer:
                self._warn(answer["fault"])

    def close(self) -> None:
        """Wait for W&B to have the record as it is now, but not for long: it holds a result, or the run was stopped."""
        self._send("stopped")
        with suppress(OSError):
            self.stdin.close()
        deadline = time.monotonic() + self.shown.patience + GRACE_SECONDS
        while not self.finished and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            self.update()
        self.update()
        if not self.finished:
            self._warn("W&B did not take the run in time" if self.process.poll() is None else ENDED)
        self.process.kill()
        self.process.wait()
        self.stdout.close()

    def _send(self, line: str) -> None:
        try:
            os.write(self.stdin.fileno(), line.encode() + b"\n")
        except OSError:
            self.update()
            self._warn(ENDED)

    def _warn(self, fault: str) -> None:
        """Log the first fault, and what to do when it is mended."""
        if self.fault is None:
            self.fault = redact_text(fault)
            later = f"python -m roadmap.replay {shlex.quote(self.shown.folder)}"
            log.warning("logger=wandb: %s; the run goes on without it, and this brings it to W&B later: %s", self.fault, later)


def _environment(agent: bool = False) -> dict[str, str]:
    """What W&B's process gets to know: where its server is and our login, an agent's parameters, and no other secret."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and not is_secret_name(key)}
    passed = (*WANDB_VARIABLES, *(["WANDB_SWEEP_PARAM_PATH"] if agent else []))  # the grid counts what its runs' settings say
    kept |= {key: os.environ[key] for key in passed if key in os.environ}
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(PACKAGE.parent)]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "WANDB_ERROR_REPORTING": "false"}
