"""A run's scalars as a TensorBoard event file, `tensorboard/` in the run's folder: `logger=tensorboard`.

The record stays the source: the file is written anew from `history.jsonl` when a run starts or goes on, so each epoch is
there once; from then on epochs are appended for who watches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from roadmap.base.redaction import redact_record, redact_text
from roadmap.record.folder import RunFolder
from roadmap.tracking.summary import summary_of
from roadmap.tracking.wandb.run import sorting_keys

log = logging.getLogger("roadmap")

NOT_INSTALLED = "tensorboard is not installed (pip install tensorboard)"


class TensorboardTracker:
    """The event file of one run; the first fault is logged once and ends it."""

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        self.folder, self.next = folder, 0
        self.writer: Any = None
        with self._guarded():
            from torch.utils.tensorboard import SummaryWriter

            path = folder.path / "tensorboard"
            for old in path.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = SummaryWriter(str(path))
            self._write_settings(config)
        self.update()

    def update(self) -> None:
        """Append the epochs that the record has beyond those in the file."""
        with self._guarded():
            for line in self.folder.history() if self.writer else []:
                if line["epoch"] >= self.next:
                    self._scalars("", line, line["epoch"])
                    self._picture(line["epoch"])
                    self.next = line["epoch"] + 1

    def close(self) -> None:
        """Append the final numbers, as `final/gmacs` and so on, where the run is over."""
        with self._guarded():
            if self.writer is not None:
                if result := self.folder.result():
                    self._scalars("final/", summary_of(self.folder, result), max(self.next - 1, 0))
                    self._write_status(success=result.done)
                self.writer.close()

    def _scalars(self, prefix: str, numbers: dict[str, Any], epoch: int) -> None:
        """The numbers of a line; TensorBoard keeps them in single precision, and shows no texts."""
        for key, value in numbers.items():
            if isinstance(value, int | float) and key != "epoch":
                self.writer.add_scalar(prefix + key, value, epoch)
        self.writer.flush()

    def _picture(self, epoch: int) -> None:
        """The sheet of an evaluation's pictures, where its task draws any."""
        if (file := self.folder.picture(epoch)).is_file():
            with Image.open(file) as picture:
                self.writer.add_image("pictures", np.asarray(picture), epoch, dataformats="HWC")

    def _write_settings(self, config: dict[str, Any]) -> None:
        """What the HPARAMS page compares runs by: the step with its place, seed, study, scale, data and recipe."""
        from torch.utils.tensorboard.summary import hparams

        step = config["step"]
        about = {key: config[key]["name"] for key in ("step", "study", "scale", "recipe")}
        about |= {"parent": step["parent"] or "", "seed": config["seed"], "data": config["data"]["source"]}
        about |= sorting_keys(self.folder.path, step["name"], step["parent"])
        for summary in hparams(redact_record(about), {})[:2]:
            self.writer.file_writer.add_summary(summary)

    def _write_status(self, success: bool) -> None:
        """How the run ended, for the HPARAMS page."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        status = api_pb2.Status.Value("STATUS_SUCCESS" if success else "STATUS_FAILURE")
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR)
        self.writer.file_writer.add_summary(Summary(value=[value]))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Nothing that happens to the event file may cost the run: not a missing package, not one of another version."""
        try:
            yield
        except Exception as error:
            self.writer = None
            fault = NOT_INSTALLED if isinstance(error, ImportError) else redact_text(str(error))
            log.warning("logger=tensorboard: %s; the run goes on without it", fault)
