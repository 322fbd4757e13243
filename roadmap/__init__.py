"""The ConvNeXt modernization roadmap as a tool: every step from ResNet to ConvNeXt, built, trained and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roadmap.base.version import __version__

if TYPE_CHECKING:
    from roadmap.model.front import build_model

__all__ = ["__version__", "build_model"]


def __getattr__(name: str) -> Any:
    """Import torch only when a model is asked for."""
    if name == "build_model":
        from roadmap.model.front import build_model

        return build_model
    raise AttributeError(f"module 'roadmap' has no attribute {name!r}")
