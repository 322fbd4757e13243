"""A run's scalars as a TensorBoard event file, `tensorboard/` in the run's folder: `logger=tensorboard`. No torch here.

The record stays the source: the file is written anew from `history.jsonl` when a run starts or goes on, and an epoch that is
repeated after a kill writes it anew too, so each epoch is there once; in between, epochs are appended for who watches.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from roadmap.base.files import write_whole
from roadmap.base.redaction import hide
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.tracking.wandb.process import Final, place

FILE = Path("tensorboard") / "events.out.tfevents.0.roadmap"  # without the name of the machine, which others put there
NOT_INSTALLED = "tensorboard is not installed (pip install tensorboard)"


class EventFile:
    """The event file of one run."""

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Write what the record holds already.

        Raises:
            ImportError: without tensorboard.
            OSError: where the file cannot be written.

        """
        self.folder, self.path = folder, folder.path / FILE
        self.path.parent.mkdir(exist_ok=True)
        self.head = _event(file_version="brain.Event:2") + _event(summary=_settings(folder, config))
        self._write_anew()

    def epoch(self, line: dict[str, Any]) -> None:
        """Append one epoch, which is in the record already; one that comes again replaces what the file has from there on."""
        if line["epoch"] == self.next:
            self._append(_event(step=line["epoch"], summary=_scalars("", line)))
            self.next += 1
        else:
            self._write_anew()

    def finish(self, result: RunResult) -> None:
        """Append the final numbers of a run that is over, as `final/gmacs` and so on."""
        if result.status != "running":
            final = Final.of(self.folder, result).summary
            self._append(_event(step=max(self.next - 1, 0), summary=_scalars("final/", final)))
            self._append(_event(summary=_status(result.status)))

    def _write_anew(self) -> None:
        """The whole file, from the record."""
        lines = self.folder.history()
        events = [_event(step=line["epoch"], summary=_scalars("", line)) for line in lines]
        write_whole(self.path, b"".join([self.head, *events]))
        self.next = lines[-1]["epoch"] + 1 if lines else 0

    def _append(self, event: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(event)


def _event(**content: Any) -> bytes:
    """One event as the file holds it, its length and checksums around it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    out = io.BytesIO()
    RecordWriter(out).write(Event(wall_time=time.time(), **content).SerializeToString())
    return out.getvalue()


def _scalars(prefix: str, numbers: dict[str, Any]) -> Any:
    """The numbers of a line; TensorBoard keeps them in single precision, and shows no texts."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    kept = {key: float(value) for key, value in numbers.items() if isinstance(value, int | float) and key != "epoch"}
    return Summary(value=[Summary.Value(tag=prefix + key, simple_value=value) for key, value in kept.items()])


def _settings(folder: RunFolder, config: dict[str, Any]) -> Any:
    """What the HPARAMS page compares runs by: the step with its place, seed, study, scale, data and recipe."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    step = config["step"]
    about = {key: config[key]["name"] for key in ("step", "study", "scale", "recipe")}
    shown = {**about, "parent": step["parent"] or "", "seed": config["seed"], "data": config["data"]["source"]}
    return hparams_pb(hide({**shown, **place(folder.path, step["name"], step["parent"])}), trial_id=folder.path.name)


def _status(status: str) -> Any:
    """How the run ended, for the HPARAMS page."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    said = api_pb2.Status.Value("STATUS_SUCCESS" if status == "done" else "STATUS_FAILURE")
    end = plugin_data_pb2.SessionEndInfo(status=said, end_time_secs=time.time())
    data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR)])
