"""How the documentation is built: `make docs`, which is strict (a broken link or reference is an error) and needs no network.

Pages stay where they are read on a code host: the README, docs/ and the findings under experiments/ are one site. So the
source folder is the checkout itself, and a link between two Markdown files is the same in both places.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from settings_tables import settings_tables  # noqa: E402

from roadmap import __version__ as release  # noqa: E402

project = "roadmap"
copyright = "2026 The roadmap developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

root_doc = "README"
include_patterns = ["docs/*.md", "experiments/*.md", "experiments/**/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "dist", "wheels", "data", "outputs", "multirun", "experiments/*/runs", "experiments/multirun"]

nitpicky = True
OWN = r"roadmap\.paper\.published\.Published|roadmap\.model\.layout\.NetworkLayout|roadmap\.config\.schema\.Initialisation"
ELSEWHERE = rf"(torch|nn|np|numpy|pd|pandas|pathlib|Path|Any|collections|timm|dict\[str|{OWN})\b.*"
nitpick_ignore_regex = [(r"py:.*", ELSEWHERE)]  # types in signatures that are not documented here
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = True

html_theme = "furo"
html_title = f"roadmap {release}"
html_extra_path = ["root"]  # index.html, which leads to README.html
html_show_sphinx = False

CONTENTS = """
```{toctree}
:hidden:
:caption: Using it

docs/training
docs/using
docs/dense
docs/studies
docs/sweeps
docs/dashboards
```
```{toctree}
:hidden:
:glob:
:caption: Findings

experiments/README
experiments/*/README
```
```{toctree}
:hidden:
:caption: Reference

docs/settings
docs/api
docs/architecture
CHANGELOG
CONTRIBUTING
```
"""


def add_generated(app: Sphinx, page: str, source: list[str]) -> None:
    """Add what the files do not have on a code host: contents, tables of settings, titles over tables written by commands."""
    if page == root_doc:
        source[0] += CONTENTS
    if page == "docs/settings":
        source[0] += settings_tables()
    if not source[0].lstrip().startswith("# "):
        folder, name = Path(page).parts[-2:]
        source[0] = f"---\norphan: true\n---\n# {folder}: {name}\n\n{source[0]}"


def keep_colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in the first line of a property's docstring for its type."""
    if what == "property":
        lines[0] = lines[0].replace(": ", "\N{RATIO} ")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_generated)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before Napoleon
