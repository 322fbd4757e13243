"""The README tells the truth: its table is the study's, and it is short. Run as a program it writes the table into it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TABLE = ROOT / "experiments" / "digits" / "table.md"
BETWEEN_MARKERS = re.compile(r"(?<=<!-- experiments/digits/table.md -->\n).*?(?=<!-- end -->)", re.DOTALL)
ROWS = ("ResNet", "inverting dims", "move ↑ d. conv", "kernel sz. → 7", "sep. d.s. conv")  # both ends; up, down, not resolved
COLUMNS = re.compile(r"step|.*top-1, %|difference to its parent.*|verdict|multiply-adds, G")
MOST_WORDS = 900


def excerpt(table: str) -> str:
    """Five rows of the study's `table.md`, some of its columns, and its note on what was measured."""
    lines = table.splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    kept = [i for i, title in enumerate(cells[0]) if COLUMNS.fullmatch(title.strip())]
    rows = [[row[i].strip() for i in kept] for row in cells if row[0].strip() in ("step", *ROWS)]
    rows.insert(1, ["---"] * len(kept))
    note = next(line for line in lines if line.startswith("Ours: "))
    return "\n".join([f"| {' | '.join(row)} |" for row in rows] + ["", note])


def test_the_table_is_an_excerpt_of_the_one_that_the_study_wrote():
    """The committed one: a sweep on another machine may have written other digits into the checkout since."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git to tell the committed table")
    committed = subprocess.run(["git", "show", f"HEAD:{TABLE.relative_to(ROOT)}"], cwd=ROOT, capture_output=True, check=True)
    (shown,) = BETWEEN_MARKERS.findall(README.read_text())
    assert shown.strip() == excerpt(committed.stdout.decode())
    assert len([line for line in shown.splitlines() if line.startswith("|")]) == 2 + len(ROWS)


def test_it_is_short():
    assert len(README.read_text().split()) < MOST_WORDS


if __name__ == "__main__":
    README.write_text(BETWEEN_MARKERS.sub(lambda match: f"\n{excerpt(TABLE.read_text())}\n\n", README.read_text()))
