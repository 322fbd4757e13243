"""A study as one page that needs nothing else: table and figure to read, a script to sort, filter and compare.

What a reader sees first is written by templates; `page.js` adds behaviour and draws the learning curves. All text that users
wrote is made harmless by `environment`, and the page's own policy lets no script run but this one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from roadmap.base.console import printable
from roadmap.base.errors import writing
from roadmap.base.files import check_file, write_atomic
from roadmap.record.study import PlannedRun
from roadmap.report.page.axis import axis
from roadmap.report.page.chart import roadmap, scatter, tips
from roadmap.report.page.payload import block, payload
from roadmap.report.page.pictures import sheets
from roadmap.report.page.progress import Progress
from roadmap.report.page.tables import runs, sortable
from roadmap.report.published import aside
from roadmap.report.recipe import recipe_words
from roadmap.report.records import Study, load, plan_in
from roadmap.report.report import Report
from roadmap.report.statistics import Estimate


def write_page(report: Report, file: Path | None = None) -> Path:
    """Write the page of a study to `file`, else to `page.html` in its folder; returns where it is.

    Raises:
        Refused: where the file's folder is not there.
        StorageFault: where it cannot be written.

    """
    file = file or report.study.folder / "page.html"
    check_file(file, f"--html {file}")
    content = render(report, beside=file.parent)
    with writing(f"{file}: the page"):
        write_atomic(file, content)
    return file


def report_of(folder: Path) -> Report:
    """The report of a study; of its plan alone where no run is done yet.

    Raises:
        Refused: where there is no study, or its rows differ in more than the model.

    """
    plan = plan_in(folder)
    results = any((folder / "runs" / run / "result.json").is_file() for run in plan.runs)
    return Report.of(load(folder) if results or (folder / "records.jsonl").is_file() else Study(folder, plan))


def render(
    report: Report, *, beside: Path | None = None, live: Mapping[str, Progress] | None = None, state: str | None = None
) -> str:
    """The page, the same text from the same records; links are relative to the folder `beside`.

    With `state`, the page of a server: it says what runs (`live`), and asks the server for changes from that state on.
    """
    study, rows, running, words = report.study, report.analysis.rows, live or {}, tips(report)
    whose, not_comparable = aside(study.plan)
    adopted = [i for i, row in enumerate(rows) if row.variant.adopted and (row.values or not study.results)] or [0]
    return document(
        "study.html.j2",
        study.plan.study,
        payload(study, running),
        state,
        plan=study.plan,
        metric=study.plan.metric,
        recipe=recipe_words(study),
        validated=any("val_loss" in result.scores for result in study.results.values()) or not study.results,
        status=_status(study, running),
        whose={"paper": "the paper’s"}.get(whose, whose),
        not_comparable=not_comparable,
        chart=roadmap(report, words),
        groups=list(dict.fromkeys(row.variant.group for row in rows if row.variant.group)),
        sortable=sortable(report),
        scatter=scatter(report, words),
        labels=[row.variant.label for row in rows],
        drawn=(adopted[0], adopted[-1]),
        sheets=sheets(study, sorted({adopted[0], adopted[-1]})),
        runs=runs(study, running, beside or study.folder),
        notes=report.notes,
    )


def render_fault(error: Exception, state: str) -> str:
    """The page of a server whose study cannot be shown."""
    return document("page.html.j2", "no study", {}, state, error=error)


def document(template: str, title: str, data: Mapping[str, Any], state: str | None, **content: Any) -> str:
    """A page with its style, script and policy; `state` where a server is behind it."""
    style, script = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; style-src {_fingerprint(style)}; script-src {_fingerprint(script)}; img-src data:; "
        f"connect-src {'self' if state is not None else 'none'!r}; base-uri 'none'; form-action 'none'"
    )
    inline = {"style": Markup(style), "script": Markup(script), "policy": Markup(policy), "data": block(data)}
    return environment.get_template(template).render(title=title, state=state, **inline, **content) + "\n"


def _fingerprint(content: str) -> str:
    """How a policy names the one script or style that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _status(study: Study, live: Mapping[str, Progress]) -> dict[str, Any]:
    """How many runs are done; the others by name."""
    plan = study.plan
    runs = {run.name: run for run in plan.planned()}
    ended = {
        kind: [runs[name] for name, result in study.results.items() if result.status == kind] for kind in ("done", "diverged")
    }
    rest = [run for name, run in runs.items() if name not in study.results]
    return {
        "done": len(ended["done"]),
        "ended": len(ended["done"]) + len(ended["diverged"]),
        "total": len(runs),
        "diverged": _named(ended["diverged"]),
        "running": [
            {"label": run.row.variant.label, "seed": run.seed, "words": live[run.name].words(plan.epochs)}
            for run in rest
            if run.name in live
        ],
        "missing": _named(run for run in rest if run.name not in live),
    }


def _named(runs: Iterable[PlannedRun]) -> str:
    """Rows with their seeds, each row once."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.row.variant.label, []).append(str(run.seed))
    return "; ".join(f"{label} (seed{'s' * (len(which) > 1)} {', '.join(which)})" for label, which in seeds.items())


# --- several studies -------------------------------------------------------------------------------------------------

Strip = tuple[str, int, Estimate | None]  # what it shows, the number of its colour, and the effect; None: it was not measured


def strips(title: str, steps: Sequence[tuple[str, Sequence[Strip]]], **content: Any) -> str:
    """A page of several studies: a strip for each effect by each of several views, all on one axis, a step after the other."""
    known = [found for _, lines in steps for _, _, found in lines if found is not None]
    scale = axis([0.0, *(end for found in known for end in found.interval or (found.value,))], least=-float("inf"))
    return document("views.html.j2", title, {}, None, steps=steps, scale=scale, **content)


# --- templates -------------------------------------------------------------------------------------------------------


def _harmless(value: Any) -> Any:
    """What a template writes, before it's escaped: control characters and direction marks are made visible."""
    return value if isinstance(value, Markup) else printable(str(value))


environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=_harmless,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters["percent"] = "{:.2%}".format  # of a place along an axis, 0 to 1, as SVG takes it
