"""A run's folder: what it was asked (`config.yaml`), how it went (`history.jsonl`, `log.txt`), what came out.

`result.json` is written last and whole; without it the run is not done. Tables are built from these files only.
No torch here.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roadmap import __version__
from roadmap.config import described, identity
from roadmap.errors import Held, Refused, StorageFault
from roadmap.redaction import hide
from roadmap.schema import Experiment
from roadmap.storage import PARTIAL, Claim, claim, holder, remove_partial, study_rows, write_whole

Result = dict[str, Any]
# What must be equal in results that are compared; the model is what a study varies.
SHARED = ("scale", "data", "recipe", "precision", "pipeline")


@dataclass(frozen=True)
class RunFolder:
    """`<output>/<study>/runs/<step>-s<seed>-<identity>/`."""

    path: Path
    claim: Claim | None = None

    @classmethod
    def of(cls, experiment: Experiment, fingerprint: str) -> RunFolder:
        """The folder of this run: named by what the run is, so the same run finds its folder again."""
        name = f"{experiment.step.name}-s{experiment.seed}-{identity(experiment, fingerprint)}"
        return cls(runs_folder(experiment) / name)

    @property
    def checkpoints(self) -> Path:
        """States that a stopped run goes on from."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.path / "log.txt"

    @property
    def history_file(self) -> Path:
        """One line of JSON for each epoch."""
        return self.path / "history.jsonl"

    @contextmanager
    def claimed(self) -> Iterator[RunFolder]:
        """Hold this folder, for one process at a time to write in; what a killed one left half written is removed.

        Raises:
            Held: where another process is at this run.
            Refused: where the folder cannot be written.

        """
        if self.path.is_symlink() or self.checkpoints.is_symlink():
            raise Refused(f"{self.path}: a link; a run writes in a folder of its own")
        with ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                mine = held.enter_context(claim(self.path / "claim"))
                for folder in (self.path, self.checkpoints):
                    remove_partial(folder)
            except OSError as error:
                raise Refused(f"{self.path} cannot be written: {error}") from error
            yield replace(self, claim=mine)

    def tidy(self) -> None:
        """Remove what a run that was killed just after it had written its result left behind."""
        left = [self.checkpoints, self.path / "claim", *self.path.glob(f"*{PARTIAL}*")]
        result = self.result() if any(path.exists() for path in left) else None
        if result is not None:
            with suppress(Held, Refused), self.claimed():
                if result["status"] == "done":
                    shutil.rmtree(self.checkpoints, ignore_errors=True)

    def holder(self) -> str | None:
        """Which process is at this run, in words; None where none is."""
        return holder(self.path / "claim")

    def check_claim(self) -> None:
        """Raise `Held` where another process has taken this run over; before everything that is written."""
        if self.claim is not None:
            self.claim.check()

    def write_config(self, experiment: Experiment) -> None:
        """Write down the resolved configuration.

        Raises:
            Refused: where the folder cannot be written, before any training.

        """
        try:
            write_whole(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(hide(described(experiment)))))
        except OSError as error:
            raise Refused(f"output={experiment.output}: {self.path} cannot be written: {error}") from error

    def result(self) -> Result | None:
        """What came out, if the run is done; a torn file is set aside as `.corrupt` and the run counts as not done."""
        file = self.path / "result.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else None
        except FileNotFoundError:
            return None
        except ValueError:
            file.replace(file.with_suffix(".json.corrupt"))
            return None

    def write_result(self, result: Result) -> None:
        """Write the result, whole or not at all, and once.

        Raises:
            Held: where another process has taken this run over, or has written its result.
            StorageFault: where the disk is full.

        """
        self.check_claim()
        try:
            write_whole(self.path / "result.json", json.dumps(hide(result), indent=2, ensure_ascii=False) + "\n", once=True)
        except FileExistsError as error:
            raise Held(f"{self.path}: its result was written by another process; it stays as it is") from error
        except OSError as error:
            raise StorageFault(f"{self.path}: the result could not be written: {error}") from error

    def copy_record(self, other: RunFolder) -> None:
        """Take over what another study's folder says of the same run; its weights stay there."""
        result = other.result()
        assert result is not None
        try:
            for file in ("config.yaml", "history.jsonl", "updates.csv"):
                if (other.path / file).is_file():
                    write_whole(self.path / file, (other.path / file).read_bytes())
        except OSError as error:
            raise StorageFault(f"{self.path}: could not be written: {error}") from error
        study = self.path.parent.parent.name
        self.write_result(
            {**result, "run": self.path.name, "study": study, "trained_in": result.get("trained_in", result["study"])}
        )

    def history(self) -> list[dict[str, Any]]:
        """The epochs so far; a torn last line is left out."""
        lines = []
        try:
            for line in self.history_file.read_text(encoding="utf-8").splitlines():
                lines.append(json.loads(line))
        except (FileNotFoundError, ValueError):
            pass
        return lines

    def add_epoch(self, line: dict[str, Any]) -> None:
        """Write down one epoch, in place of an earlier attempt at it and all that came after."""
        self.check_claim()
        kept = [old for old in self.history() if old["epoch"] < line["epoch"]]
        try:
            write_whole(self.history_file, "".join(json.dumps(entry) + "\n" for entry in [*kept, line]))
        except OSError as error:
            raise StorageFault(f"{self.history_file}: could not be written: {error}") from error


@dataclass
class UpdateLog:
    """`updates.csv`: loss and norm of the gradient of every update, each once, however often the run was interrupted.

    Lines are appended when a checkpoint is written; what a killed sitting wrote beyond its last checkpoint is cut off.
    """

    path: Path
    size: int = 0  # bytes that the newest checkpoint knows of
    waiting: list[str] = field(default_factory=lambda: ["epoch,update,loss,gradient_norm\n"])

    def add(self, epoch: int, update: int, loss: float, norm: float) -> None:
        """Note one update, counted from 0 in its epoch; exact to the last bit."""
        self.waiting.append(f"{epoch},{update},{loss!r},{norm!r}\n")

    def flush(self) -> int:
        """Append what was noted; returns the file's size in bytes."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self.size)
                file.seek(self.size)
                file.write("".join(self.waiting).encode())
                file.flush()
                os.fsync(file.fileno())
                self.size = file.tell()
        except OSError as error:
            raise StorageFault(f"{self.path}: could not be written: {error}") from error
        self.waiting.clear()
        return self.size

    def take_up(self, size: int, faults: list[str]) -> None:
        """Go on after `size` bytes; a file that is shorter than that goes on from its end and is named."""
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            faults.append(f"{self.path}: lines of earlier updates are missing; the run itself is whole")
        self.size = min(there, size)
        if there:
            self.waiting.clear()


def runs_folder(experiment: Experiment) -> Path:
    """Where the runs of a study lie."""
    return Path(experiment.output).absolute() / experiment.study.name / "runs"


def parent_top1(folder: RunFolder, result: Result) -> float | None:
    """Top-1 of the run with the same seed that this one is compared with, where one such run is done and no other."""
    found = [other for other in (RunFolder(path).result() for path in _compared_with(folder, result)) if other]
    scores = [other["top1"] for other in found if all(other.get(key) == result.get(key) for key in (*SHARED, "seed"))]
    known = [score for score in scores if score is not None]
    return float(known[0]) if len(known) == 1 else None


def _compared_with(folder: RunFolder, result: Result) -> Iterator[Path]:
    """Runs of the row that the study compares this run's row with; where no study lists the run, those of the parent step."""
    rows, runs = study_rows(folder.path.parent.parent), folder.path.parent
    mine = next((row for row in rows if folder.path.name in row["runs"]), None)
    if mine is None:
        return runs.glob(f"{result['step']['parent']}-s{result['seed']}-*")
    return (runs / name for row in rows if row["name"] == mine["parent"] for name in row["runs"])


def check_output(experiment: Experiment) -> None:
    """Refuse an output folder that could not be made or written, before anything is made in it."""
    folder = runs_folder(experiment)
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Refused(f"output={experiment.output}: {there} is not a folder that can be written")


@lru_cache
def provenance() -> dict[str, Any]:
    """What the result was made with: versions, and the commit of the code with whether it was changed."""
    packages = ("roadmap", "torch", "torchvision", "timm", "fvcore", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": _dirty()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return __version__ if package == "roadmap" else None


def _dirty() -> bool | None:
    changed = _git("status", "--porcelain", "--", "roadmap", "conf")
    return None if changed is None else bool(changed)


def _git(*arguments: str) -> str | None:
    """Git's answer about the checkout this code runs from; None for an installed wheel or without git."""
    try:
        root = Path(__file__).parent.parent
        if not (root / ".git").exists():
            return None
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
