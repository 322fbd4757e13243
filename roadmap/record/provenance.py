"""What a result was made with: versions and commit."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from typing import Any

from roadmap.base.paths import PACKAGE
from roadmap.base.version import __version__


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
        root = PACKAGE.parent
        if not (root / ".git").exists():
            return None
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
