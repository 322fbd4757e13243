"""The README tells the truth: its table is the study's, its files exist. Run as a program it puts the table in."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TABLE = ROOT / "experiments" / "digits" / "table.md"
PLACE = re.compile(r"(?<=<!-- experiments/digits/table.md -->\n).*?(?=<!-- end -->)", re.DOTALL)


def test_the_table_is_the_one_that_the_study_wrote():
    """The committed one: a sweep on another machine may have written other digits into the checkout since."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git to tell the committed table")
    committed = subprocess.run(["git", "show", f"HEAD:{TABLE.relative_to(ROOT)}"], cwd=ROOT, capture_output=True, check=True)
    (shown,) = PLACE.findall(README.read_text())
    assert shown.strip() == committed.stdout.decode().strip()


def test_every_file_of_the_map_exists_and_every_module_is_in_it():
    text = README.read_text()
    section = text[text.index("## Files") :]
    named = list(re.findall(r"`((?:roadmap|conf|experiments|notebooks|tests)/[^`]*)`", section))
    assert all(list(ROOT.glob(name.rstrip("/"))) for name in named), named
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "roadmap").rglob("*.py") if not p.name.startswith("__")}
    covered = {m for m in modules if m in named or any(n.endswith("/") and m.startswith(n) for n in named)}
    assert modules == covered


if __name__ == "__main__":
    README.write_text(PLACE.sub(lambda match: "\n" + TABLE.read_text() + "\n", README.read_text()))
