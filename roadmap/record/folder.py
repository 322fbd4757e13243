"""A run's folder: what it was asked (`config.yaml`), how it went (`history.jsonl`, `log.txt`), what came out.

`result.json` is written last and atomically; without it the run is not done. Tables are built from these files only.
No torch here.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roadmap.base.claims import Claim, claim, holder
from roadmap.base.errors import Held, Refused, writing
from roadmap.base.files import PARTIAL, check_entries, parse_json, read_json, regular, remove_partial, write_atomic
from roadmap.base.redaction import redact_record
from roadmap.config.identity import described, identity
from roadmap.config.schema import Experiment
from roadmap.record.result import RunResult, dump_result, load_result
from roadmap.record.study import seed_and_identity

PICTURES = "pictures"  # of a run whose task draws any: a folder in its own
SETTLED = 1_000_000_000  # nanoseconds without a change, after which a change would show in a folder's time


@dataclass(frozen=True)
class RunFolder:
    """`<output>/<study>/runs/<row>-s<seed>-<identity>/`; the row is the step, but in studies of one's own rows."""

    path: Path
    claim: Claim | None = None

    @classmethod
    def of(cls, experiment: Experiment, fingerprint: str) -> RunFolder:
        """The folder of this run: named by what the run is, so the same run finds its folder again.

        Where it was begun under another name, that stays its folder: a row's under its step's, a single run's under any.
        """
        runs, which = runs_folder(experiment), f"{experiment.seed}-{identity(experiment, fingerprint)}"
        folder = runs / f"{experiment.row}-s{which}"
        if not folder.is_dir():
            named = [runs / f"{experiment.step.name}-s{which}"] if experiment.study.row else runs_of(runs, which)
            folder = next((other for other in named if other.is_dir()), folder)
        return cls(folder)

    @property
    def checkpoints(self) -> Path:
        """States that a stopped run goes on from."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """The run's messages."""
        return self.path / "log.txt"

    @property
    def result_file(self) -> Path:
        """What came out."""
        return self.path / "result.json"

    @property
    def history_file(self) -> Path:
        """One line of JSON for each epoch."""
        return self.path / "history.jsonl"

    @contextmanager
    def claimed(self) -> Iterator[RunFolder]:
        """Lock this folder, for one process at a time to write in; what a killed one left half written is removed.

        Raises:
            Held: where another process is at this run.
            Refused: where the folder cannot be written.

        """
        if self.path.is_symlink() or self.checkpoints.is_symlink():
            raise Refused(f"{self.path}: a link; a run writes in a folder of its own")
        check_entries(self.path)
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(claim(self.path / "claim"))
                for folder in (self.path, self.checkpoints):
                    remove_partial(folder)
                self._set_aside_torn()
            except OSError as error:
                raise Refused(f"{self.path} cannot be written: {error}") from error
            yield replace(self, claim=lock)

    def tidy(self) -> None:
        """Remove what a run that was killed just after it had written its result left behind."""
        left = [self.checkpoints, self.path / "claim", *self.path.glob(f"*{PARTIAL}*")]
        result = self.result() if any(path.exists() for path in left) else None
        if result is not None:
            with suppress(Held, Refused), self.claimed():
                if result.done:
                    shutil.rmtree(self.checkpoints, ignore_errors=True)

    def holder(self) -> str | None:
        """Which process is at this run, in words; None where none is."""
        return holder(self.path / "claim")

    def check_claim(self) -> None:
        """Raise `Held` where another process has taken this run over; called before anything is written."""
        if self.claim is not None:
            self.claim.check()

    def write_config(self, experiment: Experiment) -> None:
        """Write down the resolved configuration.

        Raises:
            Refused: where the folder cannot be written, before any training.

        """
        try:
            write_atomic(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(redact_record(described(experiment)))))
        except OSError as error:
            raise Refused(f"output={experiment.output}: {self.path} cannot be written: {error}") from error

    def result(self) -> RunResult | None:
        """What came out, if the run is done; a file that was cut off counts as none.

        Raises:
            Refused: for a result of another format, or what cannot be read.

        """
        try:
            content = read_json(self.result_file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            raise Refused(f"{self.result_file}: cannot be read: {error.strerror}") from error
        return load_result(content, self.result_file)

    def write_result(self, result: RunResult) -> None:
        """Write the result, atomically and once.

        Raises:
            Held: where another process has taken this run over, or has written its result.
            StorageFault: where the disk is full.

        """
        self.check_claim()
        content = json.dumps(redact_record(dump_result(result)), indent=2, ensure_ascii=False) + "\n"
        with writing(f"{self.path}: the result"):
            try:
                write_atomic(self.result_file, content, once=True)
            except FileExistsError as error:
                raise Held(f"{self.path}: its result was written by another process; it stays as it is") from error

    def _set_aside_torn(self) -> None:
        """Make way for a result where there is a file that holds none; only for who holds the lock."""
        with suppress(FileNotFoundError):
            try:
                read_json(self.result_file)
            except ValueError:
                self.result_file.replace(self.result_file.with_suffix(".json.corrupt"))

    def copy_record(self, other: RunFolder) -> None:
        """Copy the record of the same run from another study's folder; its weights stay there."""
        result = other.result()
        assert result is not None
        with writing(f"{self.path}:"):
            for file in ("config.yaml", "history.jsonl", "updates.csv"):
                if (other.path / file).is_file():
                    write_atomic(self.path / file, (other.path / file).read_bytes())
        study = self.path.parent.parent.name
        self.write_result(replace(result, run=self.path.name, study=study, trained_in=result.trained_in or result.study))

    def history(self) -> list[dict[str, Any]]:
        """The epochs so far; a torn last line is left out, and what is no epoch's."""
        lines = list[dict[str, Any]]()
        with suppress(FileNotFoundError, ValueError):
            for line in regular(self.history_file).read_text(encoding="utf-8").splitlines():
                if not isinstance(epoch := parse_json(line), dict):
                    raise ValueError
                lines.append(epoch)
        return lines

    def curves(self, score: str) -> list[list[float | None]]:
        """Of each epoch: training loss, validation loss where the task has one, and the score of this name.

        Raises:
            Refused: for what is no number.

        """
        epochs = [{key: line.get(key) for key in ("train_loss", "val_loss", score)} for line in self.history()]
        for key, value in (item for epoch in epochs for item in epoch.items()):
            if value is not None and type(value) not in (int, float):
                raise Refused(f"{self.history_file}: {key}={value!r:.80}: must be a number, or null")
        return [list(epoch.values()) for epoch in epochs]

    def picture(self, epoch: int) -> Path:
        """Where the sheet of an evaluation's first pictures is, if its task draws any."""
        return self.path / PICTURES / f"epoch-{epoch:04}.jpg"

    def write_pictures(self, epoch: int, sheets: Mapping[str, bytes]) -> None:
        """Keep the sheet `first` of each evaluation, and of the newest one the others, by their names."""
        self.check_claim()
        with writing(f"{self.path / PICTURES}:"):
            (self.path / PICTURES).mkdir(parents=True, exist_ok=True)
            for name, content in sheets.items():
                write_atomic(self.picture(epoch) if name == "first" else self.path / PICTURES / f"{name}.jpg", content)

    def add_epoch(self, line: dict[str, Any]) -> None:
        """Write down one epoch; an earlier attempt at it, and all epochs after it, are dropped."""
        self._write_history([*self._epochs_before(line["epoch"]), line])

    def forget_epochs(self, first: int) -> None:
        """Drop epochs from this one on: an attempt that was killed wrote them, and this one trains them again."""
        if len(kept := self._epochs_before(first)) < len(self.history()):
            self._write_history(kept)

    def _epochs_before(self, epoch: int) -> list[dict[str, Any]]:
        return [line for line in self.history() if line["epoch"] < epoch]

    def _write_history(self, lines: list[dict[str, Any]]) -> None:
        self.check_claim()
        with writing(f"{self.history_file}:"):
            write_atomic(self.history_file, "".join(json.dumps(line) + "\n" for line in lines))


def runs_folder(experiment: Experiment) -> Path:
    """Where the runs of a study lie."""
    return Path(experiment.output).absolute() / experiment.study.name / "runs"


def runs_of(runs: Path, which: str) -> list[Path]:
    """The folders in `runs` of this seed and identity (`0-1a2b3c4d`), in order; none where there is no such folder."""
    try:
        changed = runs.stat().st_mtime_ns
    except OSError:
        return []
    settled = changed < time.time_ns() - SETTLED  # clocks of file systems tick in milliseconds
    return [runs / name for name in (_kept(runs, changed) if settled else _by_run(runs)).get(which, ())]


@lru_cache(maxsize=1024)
def _kept(runs: Path, changed: int) -> Mapping[str, list[str]]:
    """As it is since it changed."""
    return _by_run(runs)


def _by_run(runs: Path) -> Mapping[str, list[str]]:
    """Names by seed and identity."""
    names = defaultdict[str, list[str]](list)
    for name in sorted(path.name for path in runs.iterdir()):
        names[seed_and_identity(name)].append(name)
    return names
