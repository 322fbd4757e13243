"""What came out of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


# What must be equal in results that are compared; the model is what a study varies.
SHARED = ("scale", "data", "recipe", "precision", "pipeline")


@dataclass(frozen=True)
class Metric:
    """The score by which the runs of a task are compared."""

    key: str  # in records, "top1"
    label: str  # in tables and messages, "top-1"
    unit: str = ""  # "%"; empty: none
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Label and unit, as a column is headed: "top-1, %"."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        """A value with its name and unit: "top-1 82.10 %"."""
        return f"{self.label} {value:.2f} {self.unit}".rstrip()
