"""Reports: from a study's records to its table, figure and page; nothing is trained and no torch is imported.

From Python: `frame(FOLDER)` has a row for each run, `table(FOLDER)` one for each network, `effects(FOLDER)` one for each effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roadmap.report.frames import effects, frame, table

__all__ = ["effects", "frame", "table"]


def __getattr__(name: str) -> Any:
    """Import SciPy only when a table is asked for: a sweep reads records before it knows whether it may begin."""
    if name in __all__:
        from roadmap.report import frames

        return getattr(frames, name)
    raise AttributeError(f"module 'roadmap.report' has no attribute {name!r}")
