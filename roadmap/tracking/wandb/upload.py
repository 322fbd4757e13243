"""Records to W&B, later: for runs that were trained without it, or while it was down. No torch here.

Every run that is done arrives once: W&B's id is the name of the run's folder, an upload that was cut off goes on where it
stopped, and one that the server holds is not repeated. Nothing on the server is ever deleted.
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
from roadmap.base.files import read_json_object, regular
from roadmap.record.folder import RunFolder
from roadmap.tracking.wandb.process import Uploader
from roadmap.tracking.wandb.run import MARKER, WandbRun
from roadmap.tracking.wandb.server import Server, Unavailable, address, connect

PATIENCE_SECONDS = 90.0  # for one run


class UploadFailed(RoadmapError):
    """The server went away in between."""


@dataclass(frozen=True)
class Record:
    """A record that is complete: its folder, how it is shown, and the fingerprint of its result."""

    folder: RunFolder
    shown: WandbRun
    fingerprint: str

    @property
    def name(self) -> str:
        """The name of its folder, after the row and the seed where it does not say them itself."""
        folder, name = self.folder.path.name, self.shown.name
        return folder if folder.startswith(f"{name}-") else f"{name} ({folder})"

    @property
    def marker(self) -> dict[str, Any]:
        """Where it was uploaded to, and with which result; empty where it was not."""
        return read_json_object(self.folder.path / MARKER)

    @property
    def uploaded(self) -> bool:
        """Whether this result was uploaded to today's server, as far as the folder knows."""
        return (self.marker.get("result"), self.marker.get("server")) == (self.fingerprint, address())

    @property
    def state(self) -> str:
        """Where it was uploaded to, in words."""
        return f"uploaded already: {self.marker.get('url')}" if self.uploaded else "to upload"


def replay(records: Sequence[Record]) -> int:
    """Upload every record that the server does not hold.

    Raises:
        Refused: without a login or an answer of the server, before anything is sent.
        UploadFailed: where the server goes away later.

    """
    if all(record.uploaded for record in records):
        print(f"{len(records)} runs, all uploaded already")
        return 0
    try:
        server = connect(address())
    except Unavailable as error:
        raise Refused(f"{error}; nothing was uploaded") from error
    failed = 0
    for record in records:
        outcome, arrived = (record.state, True) if record.uploaded else upload(record, server)
        failed += not arrived
        print(f"{record.name}: {outcome}", flush=True)
        if not arrived:
            _check_still_there(server)
    return EXIT_FAILED if failed else 0


def replay_offline(records: Sequence[Record]) -> int:
    """Write an offline W&B run into every record's folder."""
    faults = [(record, _send(record.shown)) for record in records]
    for record, fault in faults:
        print(f"{record.name}: {fault or 'written to ' + str(record.folder.path / 'wandb')}")
    return EXIT_FAILED if any(fault for _, fault in faults) else 0


def read_records(folder: Path) -> list[Record]:
    """The runs of a study, or one run, that are done.

    Raises:
        Refused: where there are none, or one cannot be read.

    """
    paths = [folder] if (folder / "config.yaml").is_file() else sorted((folder / "runs").glob("*/"))
    records = [record for path in paths if (record := _read(path)) is not None]
    if not records:
        raise Refused(
            f"{folder}: no run that is done; FOLDER is a study's or a run's. Runs' own folders, runs/, are what is "
            "uploaded, and a checkout has none: the same roadmap.sweep command makes them"
        )
    return records


def _read(path: Path) -> Record | None:
    folder = RunFolder(path.absolute())
    result = folder.result()
    if result is None:
        return None
    try:
        config = yaml.safe_load(regular(path / "config.yaml").read_text(encoding="utf-8"))
        return Record(folder, WandbRun.of(config, path, online=False), result.fingerprint)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{path / 'config.yaml'}: not a run's configuration ({error})") from error


def upload(record: Record, server: Server) -> tuple[str, bool]:
    """Bring one record to the server: what came of it, and whether it is there now."""
    shown = dataclasses.replace(record.shown, online=True, patience=PATIENCE_SECONDS)
    entity, earlier = shown.entity or server.entity, ""
    (record.folder.path / MARKER).parent.mkdir(exist_ok=True)
    with claim(record.folder.path / MARKER.parent / "claim"):
        try:
            held = server.held(entity, shown.project, shown.id)
            if held is not None and held["summary"].get("record") not in (None, record.fingerprint):
                # The result has changed since. W&B neither writes a step twice nor takes the id of a deleted run again.
                earlier = f" (an earlier result stays at {server.page(entity, shown.project, shown.id)})"
                shown = dataclasses.replace(shown, id=f"{shown.id}-{record.fingerprint[:8]}")
            fault = _send(shown)
        except Unavailable as error:
            fault = str(error)
    return (fault, False) if fault else (f"{record.marker.get('url')}{earlier}", True)


def _send(shown: WandbRun) -> str | None:
    """Let an uploader follow a record that is complete; what went wrong, if anything did."""
    uploader = Uploader(shown)
    uploader.close()
    return uploader.fault


def _check_still_there(server: Server) -> None:
    """One run that failed is one thing; a server that has gone is the end."""
    try:
        connect(server.url)
    except Unavailable as error:
        raise UploadFailed(f"{error}; the same command goes on from here") from error
