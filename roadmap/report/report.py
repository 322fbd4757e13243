"""A study with what its numbers say: its tables and notes, each worked out once for all texts, pictures and the page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.report.frames import dictionaries, effects_frame, table_frame
from roadmap.report.notes import notes
from roadmap.report.records import Study, load
from roadmap.report.statistics import Analysis, analyse

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """What is written of a study."""

    study: Study
    analysis: Analysis

    @classmethod
    def of(cls, study: Study) -> Report:
        """The report of a study that has been read."""
        return cls(study, analyse(study))

    @classmethod
    def read(cls, folder: Path) -> Report:
        """The report of the study in a folder.

        Raises:
            Refused: where there is no study, or its rows differ in more than the model.

        """
        return cls.of(load(folder))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a network, in full precision."""
        return table_frame(self.study, self.analysis)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """One row an effect, in full precision."""
        return effects_frame(self.study, self.analysis)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The table's rows."""
        return dictionaries(self.table)

    @cached_property
    def effect_rows(self) -> list[dict[str, Any]]:
        """One row an effect, for studies whose answer is not one difference a row; else none."""
        plan = self.study.plan
        if {effect.name for effect in plan.effects} <= {variant.name for variant in plan.variants}:
            return []
        known = {row["effect"]: row for row in dictionaries(self.effects)}
        return [known.get(effect.name, {"label": effect.label}) for effect in plan.effects]

    @cached_property
    def notes(self) -> list[str]:
        """What a reader must know beside the tables."""
        return notes(self.study, self.analysis)
