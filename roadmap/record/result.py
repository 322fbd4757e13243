"""What came out of a run."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]


# What must be equal in results that are compared; the model is what a study varies.
SHARED = ("scale", "data", "recipe", "precision", "pipeline")
