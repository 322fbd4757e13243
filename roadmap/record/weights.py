"""Weights on disk, as far as they are known without torch: which file, whether it is whole, and a hash of what it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, deserialize

from roadmap.base.errors import Refused
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult
from roadmap.record.study import seed_and_identity

WEIGHTS = "weights.safetensors"
EARLIER = "weights.pt"  # what the first runs wrote
SUFFIXES = (".safetensors", ".pt", ".pth")


def finished_run(folder: Path) -> RunResult:
    """The record of a run that was trained to its end.

    Raises:
        Refused: where the folder holds none.

    """
    result = RunFolder(folder).result() if folder.is_dir() else None
    if result is None or not result.done:
        why = "no finished run" if result is None else f"no finished run: it {result.status}"
        raise Refused(f"{folder}: {why}; it is a folder like experiments/single/runs/gelu-s0-1a2b3c4d")
    return result


def weights_file(folder: Path) -> Path:
    """The weights of a finished run: its own file, or where its record was copied from another study, the file there.

    Raises:
        Refused: where the folder holds no finished run, or it kept no weights.

    """
    result = finished_run(folder)
    folders = [folder]
    if result.trained_in:
        study = folder.absolute().parent.parent.with_name(result.trained_in)
        folders += sorted((study / "runs").glob(f"*-s{seed_and_identity(folder.absolute().name)}"))
    files = [place / name for place in folders for name in (WEIGHTS, EARLIER)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise Refused(f"{folder / WEIGHTS}: not there; a run keeps its weights with runtime.keep_weights=true")
    return file


def located(init: str) -> Path:
    """The file of the weights that `init` names: a finished run's, or itself.

    Raises:
        Refused: where there is none, or one of another kind.

    """
    place = Path(init).expanduser()
    if place.is_dir():
        return weights_file(place)
    if place.suffix not in SUFFIXES:
        why = "it is a file of another kind" if place.is_file() else "there is no such folder"
        raise Refused(f"init={init}: must be a run's folder, FILE{', FILE'.join(SUFFIXES)} or timm:NAME; {why}")
    if not place.is_file():
        raise Refused(f"init={init}: there is no such file")
    return place


def hash_of(safetensors: bytes, where: str) -> str:
    """Sixteen hex digits of the tensors in a .safetensors file, in whatever order: names, types, shapes and numbers.

    Raises:
        Refused: where it is not whole.

    """
    try:
        tensors = sorted(deserialize(safetensors))
    except SafetensorError as error:
        raise Refused(f"{where}: its weights cannot be read: {error}") from error
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor['dtype']} {tensor['shape']}\n".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()[:16]
