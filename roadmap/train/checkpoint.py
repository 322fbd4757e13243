"""Checkpoints of a run: written atomically, each with its SHA-256 beside it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.utils._pytree import tree_map_only

from roadmap.base.errors import StorageFault, first_line
from roadmap.base.files import atomic_file, write_atomic
from roadmap.model.saved import as_safetensors

KEPT = 2
State = dict[str, Any]


def save(folder: Path, epoch: int, update: int, state: State) -> None:
    """Write the state before this update of this epoch, then remove all but the last two; faults as of `_written`."""
    path = folder / f"epoch-{epoch:06d}-update-{update:08d}.pt"
    if not _is_whole(path):  # a whole checkpoint of this update is this state
        with _written(path) as file:
            torch.save(_on_host(state), file)
            file.flush()
            write_atomic(_digest_path(path), _digest(Path(file.name)) + "\n")
    with suppress(OSError):
        for old in _newest_first(folder)[KEPT:]:
            old.unlink(missing_ok=True)
            _digest_path(old).unlink(missing_ok=True)


def write(path: Path, content: Any) -> None:
    """Write atomically with torch.save; faults as of `_written`."""
    with _written(path) as file:
        torch.save(_on_host(content), file)


def write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights atomically as safetensors, which hold tensors and no code; faults as of `_written`."""
    with _written(path) as file:
        file.write(as_safetensors(weights))


def load_newest(folder: Path, foreign: Callable[[State], str | None] = lambda state: None) -> tuple[State | None, list[str]]:
    """The newest undamaged state of this run, and a sentence about each newer one that is not; None where none was saved.

    `foreign` says what makes a state another run's, None where it is this run's. Where there are checkpoints and none is usable
    it is a StorageFault: starting again from nothing is the user's choice.
    """
    paths = _newest_first(folder)
    faults: list[str] = []
    for path in paths:
        try:
            state = _load(path)
        except Exception as error:  # a damaged file makes torch raise what it likes
            faults.append(f"{path}: not usable: {first_line(error)}")
            continue
        reason = foreign(state)
        if reason is None:
            return state, faults
        faults.append(f"{path}: not usable: {reason}")
    if paths:
        raise StorageFault(f"no usable checkpoint: {'; '.join(faults)}. Delete {folder} to train from the start")
    return None, faults


def _on_host(content: Any) -> Any:
    """The same with all tensors in the host's memory, so that a machine without a GPU can read the file."""
    return tree_map_only(torch.Tensor, torch.Tensor.cpu, content)


def _load(path: Path) -> State:
    if _digest(path) != _digest_path(path).read_text(encoding="ascii").strip():
        raise ValueError("its SHA-256 is not the one written beside it")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise pickle.UnpicklingError("it holds no state of a run")
    return state


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """`atomic_file`; what the disk refuses is a StorageFault: OSError, and RuntimeError, which torch raises for a full disk.

    What was there before stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise StorageFault(f"{path}: could not be written: {first_line(error)}") from error


def _is_whole(path: Path) -> bool:
    try:
        return _digest(path) == _digest_path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return False


def _newest_first(folder: Path) -> list[Path]:
    """By epoch and update, which their names give; never by the clock."""
    return sorted(folder.glob("epoch-*.pt"), reverse=True)


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
