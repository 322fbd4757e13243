"""A study's runs to W&B, from their own records: `python -m roadmap.replay FOLDER [--dry-run] [--offline]`.

For runs that were trained without W&B, or while it was down. Every run that is done arrives once: W&B's id is the name
of the run's folder, an upload that was cut off goes on where it stopped, and one that the server holds is not repeated.
Nothing on the server is ever deleted. No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from roadmap.base.claims import claim
from roadmap.base.errors import EXIT_FAILED, Refused, RoadmapError
from roadmap.base.files import read_object
from roadmap.base.redaction import hide
from roadmap.record.folder import RunFolder, parent_top1
from roadmap.record.result import Result
from roadmap.tracking.tracker import WandbTracker
from roadmap.tracking.wandb.process import MARKER, Opening, fingerprint
from roadmap.tracking.wandb.server import Server, Unavailable, address, connect

PATIENCE_SECONDS = 90.0  # for one run


class UploadFailed(RoadmapError):
    """The server went away in between."""


@dataclass(frozen=True)
class Record:
    """A run that is done, as its folder tells it."""

    folder: RunFolder
    config: dict[str, Any]
    result: Result

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.path.name

    @property
    def fingerprint(self) -> str:
        """Of its result."""
        return fingerprint(self.result)

    def opening(self, online: bool) -> Opening:
        """How it is shown on W&B."""
        return Opening.of(self.config, self.folder.path, online)

    @property
    def late(self) -> Result:
        """The difference to the parent, where the parent was trained after this run or beside it."""
        if self.result.get("delta_top1") is not None or not self.result.get("step") or self.result.get("top1") is None:
            return {}
        before = parent_top1(self.folder, self.result)
        return {} if before is None else {"delta_top1": self.result["top1"] - before}

    @property
    def marker(self) -> dict[str, Any]:
        """Where it was uploaded to, and with which result; empty where it was not."""
        return read_object(self.folder.path / MARKER)

    @property
    def uploaded(self) -> bool:
        """Whether this result was uploaded to today's server, as far as the folder knows."""
        return (self.marker.get("result"), self.marker.get("server")) == (self.fingerprint, address())


def replay(found: Sequence[Record]) -> int:
    """Upload every record that the server does not hold.

    Raises:
        Refused: without a login or an answer of the server, before anything is sent.
        UploadFailed: where the server goes away later.

    """
    waiting = [record for record in found if not record.uploaded]
    if not waiting:
        print(f"{len(found)} runs, all uploaded already")
        return 0
    try:
        server = connect(address())
    except Unavailable as error:
        raise Refused(f"{error}; nothing was uploaded") from error
    failed = 0
    for record in found:
        said, good = (f"uploaded already: {record.marker.get('url')}", True) if record.uploaded else upload(record, server)
        failed += not good
        print(f"{record.name}: {said}", flush=True)
        if not good:
            _check_still_there(server)
    return EXIT_FAILED if failed else 0


def replay_offline(found: Sequence[Record]) -> int:
    """Write an offline W&B run into every record's folder."""
    faults = [(record, _send(record, record.opening(online=False))) for record in found]
    for record, fault in faults:
        print(f"{record.name}: {fault or 'written to ' + str(record.folder.path / 'wandb')}")
    return EXIT_FAILED if any(fault for _, fault in faults) else 0


def records(folder: Path) -> list[Record]:
    """The runs of a study, or one run, that are done.

    Raises:
        Refused: where there are none, or one cannot be read.

    """
    paths = [folder] if (folder / "config.yaml").is_file() else sorted((folder / "runs").glob("*/"))
    found = [record for path in paths if (record := _read(path)) is not None]
    if not found:
        raise Refused(
            f"{folder}: no run that is done; FOLDER is a study's or a run's. Runs' own folders, runs/, are what is "
            "uploaded, and a checkout has none: the same roadmap.sweep command makes them"
        )
    return found


def _read(path: Path) -> Record | None:
    folder = RunFolder(path.absolute())
    result = folder.result()
    if result is None:
        return None
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        Opening.of(config, path, online=False)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path / 'config.yaml'}: not a run's configuration ({error})") from error
    return Record(folder, config, hide(result))


def _plan(record: Record, offline: bool) -> str:
    if offline:
        return "to write"
    return f"uploaded already: {record.marker.get('url')}" if record.uploaded else "to upload"


def upload(record: Record, server: Server) -> tuple[str, bool]:
    """Bring one record to the server: what came of it, and whether it is there now."""
    opening = dataclasses.replace(record.opening(online=True), patience=PATIENCE_SECONDS)
    entity, earlier = opening.entity or server.entity, ""
    (record.folder.path / MARKER).parent.mkdir(exist_ok=True)
    with claim(record.folder.path / MARKER.parent / "claim"):
        try:
            held = server.held(entity, opening.project, opening.id)
            if held is not None and held["summary"].get("record") not in (None, record.fingerprint):
                # The result has changed since. W&B neither writes a step twice nor takes the id of a deleted run again.
                earlier = f" (an earlier result stays at {server.page(entity, opening.project, opening.id)})"
                opening = dataclasses.replace(opening, id=f"{opening.id}-{record.fingerprint[:8]}")
            fault = _send(record, opening)
        except Unavailable as error:
            fault = str(error)
    return (fault, False) if fault else (f"{record.marker.get('url')}{earlier}", True)


def _send(record: Record, opening: Opening) -> str | None:
    """Feed the mirror from a record, as training does; what went wrong, if anything did."""
    mirror = WandbTracker(opening)
    for line in record.folder.history()[-1:]:
        mirror.epoch(line)
    mirror.finish(record.result, record.late)
    return mirror.fault


def _check_still_there(server: Server) -> None:
    """One run that failed is one thing; a server that has gone is the end."""
    try:
        connect(server.url)
    except Unavailable as error:
        raise UploadFailed(f"{error}; the same command goes on from here") from error
