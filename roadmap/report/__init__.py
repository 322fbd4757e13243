"""Reports: from a study's records to its table, figure and page; nothing is trained and no torch is imported.

From Python: `roadmap.report.frame(FOLDER)` and `roadmap.report.effects(FOLDER)` are pandas tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roadmap.report.frames import effects, frame

__all__ = ["effects", "frame"]


def __getattr__(name: str) -> Any:
    """Import pandas only where a table is asked for."""
    if name in __all__:
        from roadmap.report import frames

        return getattr(frames, name)
    raise AttributeError(f"module 'roadmap.report' has no attribute {name!r}")
