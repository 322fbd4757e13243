"""A run's folder: what it was asked (`config.yaml`), how it went (`history.jsonl`, `log.txt`), what came out.

`result.json` is written last and whole; without it the run is not done. Tables are built from these files only.
No torch here.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roadmap import __version__
from roadmap.config import identity, plain
from roadmap.errors import Refused, StorageFault
from roadmap.schema import Experiment

Result = dict[str, Any]
# What must be equal in results that are compared; the model is what a study varies.
SHARED = ("scale", "data", "recipe", "precision", "pipeline")


@dataclass(frozen=True)
class RunFolder:
    """`<output>/<study>/runs/<step>-s<seed>-<identity>/`."""

    path: Path

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

    def open(self, experiment: Experiment) -> None:
        """Make the folder and write down the resolved configuration.

        Raises:
            Refused: where the folder cannot be written, before any training.

        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(experiment))))
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
        """Write the result, whole or not at all."""
        try:
            write_whole(self.path / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise StorageFault(f"{self.path}: the result could not be written: {error}") from error

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
        kept = [old for old in self.history() if old["epoch"] < line["epoch"]]
        try:
            write_whole(self.history_file, "".join(json.dumps(entry) + "\n" for entry in [*kept, line]))
        except OSError as error:
            raise StorageFault(f"{self.history_file}: could not be written: {error}") from error


def runs_folder(experiment: Experiment) -> Path:
    """Where the runs of a study lie."""
    return Path(experiment.output).absolute() / experiment.study.name / "runs"


def parent_top1(folder: RunFolder, result: Result) -> float | None:
    """Top-1 of the parent step's run with the same seed in the same study, where one such run is done and no other."""
    paths = folder.path.parent.glob(f"{result['step']['parent']}-s{result['seed']}-*")
    found = [other for other in (RunFolder(path).result() for path in paths) if other and other["top1"] is not None]
    comparable = [other["top1"] for other in found if all(other.get(key) == result.get(key) for key in SHARED)]
    return float(comparable[0]) if len(comparable) == 1 else None


def check_output(experiment: Experiment) -> None:
    """Refuse an output folder that could not be made or written, before anything is made in it."""
    folder = runs_folder(experiment)
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Refused(f"output={experiment.output}: {there} is not a folder that can be written")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside, synchronise and rename it: whole or not at all."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


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
