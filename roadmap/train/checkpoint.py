"""States of a run on disk that are whole or not there: written beside, synchronised, renamed, checked by SHA-256."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from roadmap.errors import StorageFault

KEPT = 2


def save(folder: Path, epoch: int, update: int, state: dict[str, Any]) -> None:
    """Write the state before this update of this epoch, then remove all but the last two.

    Raises:
        StorageFault: where the disk is full or cannot be written; what was there before stays.

    """
    write_whole(folder / f"epoch-{epoch:06d}-update-{update:08d}.pt", state, checked=True)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
        _digest_path(old).unlink(missing_ok=True)


def write_whole(path: Path, content: Any, checked: bool = False) -> None:
    """Write with torch.save, whole or not at all; `checked` puts a SHA-256 beside it first.

    Raises:
        StorageFault: where the disk is full or cannot be written; what was there before stays.

    """
    partial = path.with_suffix(f".partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if checked:
            _write_text(_digest_path(path), _digest(partial))
        partial.replace(path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError for a full disk
        partial.unlink(missing_ok=True)
        raise StorageFault(f"{path}: could not be written: {error}") from error


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that is whole, and a sentence about each that is not; None where nothing was ever saved.

    Raises:
        StorageFault: where there are checkpoints and none is whole: starting again from nothing is the user's choice.

    """
    paths = _newest_first(folder)
    faults: list[str] = []
    for path in paths:
        try:
            if _digest(path) != _digest_path(path).read_text().strip():
                raise ValueError("its SHA-256 is not the one written beside it")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state, faults
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            faults.append(f"{path}: not usable: {error}")
    if paths:
        raise StorageFault(f"no usable checkpoint: {'; '.join(faults)}. Delete {folder} to train from the start")
    return None, faults


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.pt"), reverse=True)


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
