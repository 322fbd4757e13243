"""Rows of values as a terminal table, CSV, JSON, Markdown or LaTeX, with whatever users wrote made harmless."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from roadmap.base.console import printable

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: its key, its headings for people, where its value stands in a row, and how its cells are written."""

    key: str
    heading: str
    form: str | Callable[[Row], str] = "{}"  # of the value; a function writes a cell that says more than one value of its row
    short: str = ""  # heading where room is dear: in print
    source: str = ""  # key of the value in a row, where it is not `key`

    def value(self, row: Row) -> Any:
        """The value behind the cell; None where there is none."""
        return row.get(self.source or self.key)

    def text(self, row: Row) -> str:
        """The cell as people read it; nothing where there is nothing to say."""
        if not isinstance(self.form, str):
            return self.form(row)
        value = self.value(row)
        return "" if value is None else self.form.format(value)

    def numeric(self, rows: Sequence[Row]) -> bool:
        """Whether no value of the column is anything but a number."""
        values = [value for row in rows if (value := self.value(row)) is not None]
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

    def right(self, rows: Sequence[Row]) -> bool:
        """Whether a text sets it to the right: numbers alone, each in the same form."""
        return isinstance(self.form, str) and self.numeric(rows)


def cost_unit(gmacs: Iterable[float]) -> tuple[float, str]:
    """Multiply-adds in G, or in M where every network is small: what to multiply them by, and the unit's letter."""
    return (1.0, "G") if max(gmacs, default=0.0) >= 1 else (1e3, "M")


def filled(rows: Sequence[Row], columns: Iterable[Column]) -> list[Column]:
    """The columns that have anything in them."""
    return [column for column in columns if any(column.text(row) for row in rows)]


def as_table(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> str:
    """For a terminal: lines wrap where it is narrow, words and numbers never; as wide as it needs where there is none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold")
    shown, needed = filled(rows, columns), 1
    for column in shown:
        right, heading = column.right(rows), printable(column.heading)
        cells = [printable(column.text(row)) for row in rows]
        least = max(map(len, [*heading.split(), *(cells if right else " ".join(cells).split())]), default=1)
        table.add_column(Text(heading), justify="right" if right else "left", min_width=least)
        needed += least + 3
    for row in rows:
        table.add_row(*(Text(printable(column.text(row))) for column in shown))
    available = shutil.get_terminal_size().columns if sys.stdout.isatty() else 240
    console = Console(width=max(available, needed), file=io.StringIO(), record=True, force_terminal=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def as_csv(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> str:
    """Full precision; a cell that a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    writer.writerows([_csv_cell(column.value(row)) for column in columns] for row in rows)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "'" * value.lstrip().startswith(("=", "+", "-", "@")) + printable(value)


def as_json(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> str:
    """A list of objects; a missing value is null."""
    return json.dumps([{c.key: c.value(row) for c in columns} for row in rows], indent=2, ensure_ascii=False) + "\n"


def as_markdown(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> str:
    """A table in GitHub's Markdown, aligned so that its source can be read too."""
    shown = filled(rows, columns)
    cells = [[markdown_text(c.heading) for c in shown], *([markdown_text(c.text(row)) for c in shown] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(shown))]
    right = [column.right(rows) for column in shown]
    lines = [[cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(c, widths, right, strict=True)] for c in cells]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])


def markdown_text(text: str) -> str:
    """Words as they are, whatever GitHub's Markdown would make of them."""
    text = printable(text).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\`*_[]|" else c for c in text)


def markdown_with_notes(tables: Iterable[str], notes: Iterable[str]) -> str:
    """Tables in Markdown, and below them what a reader must know, a paragraph each."""
    return "\n".join([*tables, *(f"{markdown_text(note)}\n" for note in notes)])


def as_latex(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> str:
    """A booktabs tabular, made smaller where it is wider than the line (graphicx)."""
    shown = filled(rows, columns)
    aligned = "".join("r" if column.right(rows) else "l" for column in shown)
    lines = [[latex_text(c.short or c.heading) for c in shown], *([latex_text(c.text(row)) for c in shown] for row in rows)]
    body = [" & ".join(line) + r" \\" for line in lines]
    out = [
        "% needs booktabs and graphicx",
        r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}}",
    ]  # fmt: skip
    return "\n".join([f"% {printable(title)}".replace("\n", " "), *out, ""])


def latex_text(text: str) -> str:
    """Words as they are, numbers with a true minus sign."""
    letters = unicodedata.normalize("NFC", printable(text)).replace("\n", " ")
    return re.sub(r"(?<![\w.)-])-(?=\d)", "$-$", "".join(map(_latex_letter, letters)))


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "→": r"$\rightarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "“": "``", "”": "''",
    "–": "--", "—": "---", "’": "'", "…": r"\ldots{}", "Δ": r"$\Delta$", "|": r"\textbar{}", '"': "''",
    "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}",
    "ł": r"\l{}", "Ł": r"\L{}", "µ": r"$\mu$", "μ": r"$\mu$",
    "²": "$^2$", "³": "$^3$", "≤": r"$\leq$", "≥": r"$\geq$", "°": r"$^\circ$", "·": r"$\cdot$",
    "[": "{[}", "*": "{*}",  # at the start of a row they would belong to the end of the row before
}  # fmt: skip
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327\u0306\u030b\u0307\u0304", "`'^~\"rvcuH.=", strict=True))


def _latex_letter(letter: str) -> str:
    """As every LaTeX prints it, in its default font; a letter that it has not is named, for it would end the compilation."""
    if letter in LATEX or letter.isascii():
        return LATEX.get(letter, letter)
    parts = unicodedata.normalize("NFD", letter)  # a letter and its accents
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS:
        return rf"\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"U+{ord(letter):04X}"


Table = tuple[list[dict[str, Any]], Sequence[Column], str]
"""Rows, columns and title: what each of these takes."""

FORMATS: dict[str, Callable[[Sequence[Row], Sequence[Column], str], str]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
    "md": as_markdown,
    "latex": as_latex,
}
