"""Reports: from a study's records to its table, figure and page; nothing is trained and no torch is imported.

From Python: `frame(FOLDER)` has a row for each run, `table(FOLDER)` one for each network, `effects(FOLDER)` one for each effect.
"""

from roadmap.report.frames import effects, frame, table

__all__ = ["effects", "frame", "table"]
