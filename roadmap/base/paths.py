"""Where the project keeps its own files."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent.parent

CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # wheel, then checkout
