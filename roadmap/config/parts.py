"""Parts of one's own: activations, norms and block parts that a `parts.py` declares by name, beside the roadmap's.

`--config-dir my parts=[my]` runs `my/parts.py`; nothing else of a user's is ever run. A declaration is torch-free, and its
constructor is called where torch is, so that a misspelt name is refused as early as any other.
"""

from __future__ import annotations

import hashlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from roadmap.base.errors import Refused, nearest
from roadmap.config.schema import ModelConfig

FILE = "parts.py"
KINDS: dict[str, type[StrEnum]] = {f.name: f.metadata["names"] for f in fields(ModelConfig) if "names" in f.metadata}  # by toggle
COST = (
    "say cost={operator: multiply-adds for each number that it puts out}, for example cost={'aten::silu': 0}, "
    "or cost={} where the counter knows all of its operators"
)
NO_TEXT = ("null", "true", "false", "nan", "inf")  # on a command line
Build = Callable[..., Any]  # of an nn.Module: from nothing (an activation), or from the number of channels


@dataclass(frozen=True)
class Part:
    """One declaration."""

    kind: str
    name: str
    build: Build
    cost: tuple[tuple[str, float], ...]  # multiply-adds for each number that an operator puts out
    file: Path
    digest: str  # of the file

    @property
    def stamped(self) -> str:
        """The name with what it stood for, as records and identities have it."""
        return f"{self.name}@{self.digest}"

    def __call__(self, *values: int) -> Any:
        """The module, for these channels; Refused where the constructor fails."""
        try:
            module = self.build(*values)
        except Exception as error:
            raise Refused(f"{_place(error, self.file)}: {self.kind} {self.name!r}: {_words(error)}") from error
        if isinstance(module, type) or not hasattr(module, "forward"):
            raise Refused(f"{self.file}: {self.kind} {self.name!r}: makes {module!r}; it must make a torch.nn.Module")
        module.is_own_norm = self.kind == "norm"  # weight decay spares it as it does the roadmap's
        return module


_declared: dict[tuple[str, str], Part] = {}  # by kind and name, of every file that was run
_reading: list[tuple[Path, str, dict[tuple[str, str], Part]]] = []  # the file that is being run


def activation(name: str, *, cost: Mapping[str, float] | None = None) -> Callable[[Build], Build]:
    """Declare an activation: `build()` makes a module from (N, C, H, W) to the same."""
    return _declaration("activation", name, cost)


def norm(name: str, *, cost: Mapping[str, float] | None = None) -> Callable[[Build], Build]:
    """Declare a norm: `build(channels)` makes a module from (N, channels, H, W) to the same."""
    return _declaration("norm", name, cost)


def block_part(name: str, *, cost: Mapping[str, float] | None = None) -> Callable[[Build], Build]:
    """Declare what stands before a block's last convolution: `build(channels)`, (N, channels, H, W) to the same.

    `cost` says what the counter of multiply-adds does not know: operators by name, each with the multiply-adds for one number
    that it puts out. It knows convolutions, linear layers and the usual norms.
    """
    return _declaration("block_part", name, cost)


def _declaration(kind: str, name: str, cost: Mapping[str, float] | None) -> Callable[[Build], Build]:
    if not _reading:
        raise Refused(f"{kind} {name!r}: parts are declared in a {FILE} that a command names: --config-dir my parts=[my]")
    file, digest, found = _reading[-1]
    if not isinstance(name, str) or not name.isidentifier() or name.lower() in NO_TEXT:
        raise Refused(f"{kind} {name!r}: a name is made of letters, digits and _, and is not {', '.join(NO_TEXT)}")
    if cost is None:
        raise Refused(f"{kind} {name!r} has no cost; {COST}")
    if not isinstance(cost, Mapping):
        raise Refused(f"{kind} {name!r}: cost={cost!r}: must be by operator; {COST}")
    odd = {operator: each for operator, each in cost.items() if not (isinstance(each, int | float) and 0 <= each < math.inf)}
    if odd:
        raise Refused(f"{kind} {name!r}: cost={odd}: must be multiply-adds, finite and at least 0; {COST}")

    def declare(build: Build) -> Build:
        before = _declared.get((kind, name))
        by = "the roadmap" if name in list(KINDS[kind]) else file if (kind, name) in found else before and before.file
        if by and (by != file or (kind, name) in found):
            raise Refused(f"{kind} {name!r}: the name is taken by {by}; give it another")
        found[kind, name] = Part(kind, name, build, tuple(cost.items()), file, digest)
        return build

    return declare


def load(folders: Sequence[Path | str]) -> None:
    """Run the `parts.py` of these folders; one that has been run and has not changed since is not run again.

    Refused, with path and line, where one is missing, fails, or declares a name that is taken.
    """
    for folder in folders:
        file = Path(folder) / FILE
        try:
            source = file.read_bytes()
        except OSError as error:
            raise Refused(f"{file}: cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(source).hexdigest()[:8]
        known = [part for part in _declared.values() if part.file == file]
        if not known or known[0].digest != digest:
            found = _run(file, source, digest)
            for part in known:
                del _declared[part.kind, part.name]
            _declared.update(found)


def _run(file: Path, source: bytes, digest: str) -> dict[tuple[str, str], Part]:
    found: dict[tuple[str, str], Part] = {}
    module = ModuleType(f"roadmap_parts_{digest}")  # among the modules: TorchScript and pickle look for classes there
    module.__file__ = str(file)
    _reading.append((file, digest, found))
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise Refused(f"{_place(error, file)}: {_words(error)}") from error
    finally:
        _reading.pop()
    if not found:
        raise Refused(f"{file}: declares no part: use @activation, @norm or @block_part of roadmap.parts")
    return found


def _place(error: BaseException, file: Path) -> str:
    """The file, with the last of its lines that led to the error."""
    if isinstance(error, SyntaxError):
        return f"{file}, line {error.lineno}" if error.lineno else str(file)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _words(error: BaseException) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return said if isinstance(error, Refused) else f"{type(error).__name__}: {said}"


def part(kind: str, name: str) -> Part:
    """The declaration of a name that is not the roadmap's; Refused where no file that was run declares it."""
    if (kind, name) not in _declared:
        raise Refused(f"model.{kind}: invalid value {name!r}; {nearest(name, names(kind))}")
    return _declared[kind, name]


def names(kind: str, folders: Sequence[str] | None = None) -> list[str]:
    """The names that a toggle takes: the roadmap's, and those that the files of these folders declare; None: any that was run."""
    own = [p.name for p in _declared.values() if p.kind == kind and (folders is None or str(p.file.parent) in folders)]
    return [*KINDS[kind], *own]


def own_parts(model: ModelConfig) -> list[Part]:
    """The parts of one's own that a network is made of."""
    return [part for kind in KINDS if (part := _declared.get((kind, getattr(model, kind) or "")))]


def resolve(wanted: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    """The folders that `parts=[...]` names, made absolute, once their files have been run.

    Refused for a name that is no folder of `--config-dir` with a `parts.py`, or stands for two, and as `load`.
    """
    known = [folder for folder in config_dirs if (folder / FILE).is_file()]
    folders: list[str] = []
    for name in wanted:
        fitting = [folder for folder in known if name in (folder.name, str(folder))]
        if len(fitting) != 1:
            allowed = nearest(name, [folder.name for folder in known])
            why = "stands for several folders" if fitting else f"there is no such folder of --config-dir with a {FILE}"
            raise Refused(f"parts=[{name}]: {why}; {allowed}")
        folders.append(str(fitting[0]))
    load(folders)
    return folders
