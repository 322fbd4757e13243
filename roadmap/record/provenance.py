"""What a result was made with: versions, commit and processor."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from roadmap.base.paths import PACKAGE
from roadmap.base.version import __version__

CPUINFO = Path("/proc/cpuinfo")


@lru_cache
def provenance() -> dict[str, Any]:
    """What the result was made with: versions, the commit of the code with whether it was changed, and the processor."""
    changed = _git("status", "--porcelain", "--", "roadmap", "conf")
    packages = ("roadmap", "torch", "torchvision", "timm", "fvcore", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)},
        "cpu": cpu_model(),
    }


def cpu_model() -> str | None:
    """The processor's model as the system names it; its architecture where it has no name, None where nothing is known."""
    with suppress(OSError):
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        about = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        for key in ("model name", "hardware", "model", "cpu"):
            if len(about.get(key, "")) > 3:  # on x86 `model` is a number
                return about[key]
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            words = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return platform.processor() or platform.machine() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return __version__ if package == "roadmap" else None


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
