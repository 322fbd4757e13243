"""A study as one page that needs nothing else: table and figure to read, a script to sort, filter and compare.

What a reader sees first is written here; `page.js` adds behaviour and draws the learning curves. All text that users wrote
is escaped by `markup`, and the page's own policy lets no script run but this one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from roadmap.base.errors import Refused, StorageFault
from roadmap.base.files import write_atomic
from roadmap.record.study import PlannedRun, read_plan
from roadmap.report.page.chart import NOT_COMPARABLE, has_paper, roadmap, scatter
from roadmap.report.page.markup import Markup, block, join, tag
from roadmap.report.page.payload import payload
from roadmap.report.page.progress import Progress
from roadmap.report.page.tables import effects_table, main_table, records_table
from roadmap.report.records import Study, load
from roadmap.report.statistics import Analysis, analyse
from roadmap.report.table import notes

HATCH = Markup(
    '<svg width="0" height="0" class="unseen" aria-hidden="true"><defs><pattern id="hatch" width="7" height="7" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="3" height="7" class="stripe"></rect></pattern>'
    "</defs></svg>"
)


def write_page(folder: Path, file: Path | None = None) -> Path:
    """Write the page of a study to `file`, else to `page.html` in its folder; returns where it is.

    Raises:
        Refused: where the study cannot be reported, or the file's folder is not there.
        StorageFault: where it cannot be written.

    """
    file = file or folder / "page.html"
    if not file.parent.is_dir() or file.is_dir():
        raise Refused(f"--html {file}: not a file in a folder that is there")
    content = render(study_of(folder), beside=file.parent)
    try:
        write_atomic(file, content)
    except OSError as error:
        raise StorageFault(f"{file}: the page could not be written: {error}") from error
    return file


def study_of(folder: Path) -> Study:
    """The study with its results; its plan alone where no run is done yet.

    Raises:
        Refused: where there is no study, or its rows differ in more than the model.

    """
    plan = read_plan(folder)
    results = any((folder / "runs" / run / "result.json").is_file() for run in plan.runs)
    return load(folder) if results or (folder / "records.jsonl").is_file() else Study(folder, plan)


def render(study: Study, *, beside: Path | None = None, live: Mapping[str, Progress] | None = None, state: str = "") -> str:
    """The page, the same text from the same records; links are relative to the folder `beside`.

    With `live`, the page of a server: it says what runs, and asks the server for changes from `state` on.
    """
    analysis, running = analyse(study), live or {}
    parts = [
        _header(study, running),
        _figure(study, analysis),
        _tables(study, analysis),
        _cost(study, analysis),
        _curves(study, analysis),
        _compare(study),
        _records(study, running, beside or study.folder),
        _notes(study, analysis),
    ]
    data = tag("script", block(payload(study, running)), type="application/json", id="data")
    return document(study.plan.study, join(parts, "\n"), data, None if live is None else state)


def document(title: str, body: Markup, data: Markup, state: str | None) -> str:
    """The HTML around a body; `state` where a server is behind it."""
    style, script = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = {
        "default-src": "'none'",
        "style-src": _fingerprint(style),
        "script-src": _fingerprint(script),
        "img-src": "data:",
        "connect-src": "'none'" if state is None else "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Markup("; ".join(f"{k} {v}" for k, v in policy.items()))),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · ConvNeXt roadmap"),
        tag("style", Markup(style)),
    ]
    skip = tag("a", "Skip to the table", href="#table", class_="skip")
    tip = tag("div", id="tip", role="tooltip", hidden=True)
    content = [skip, HATCH, tag("main", body), tip, data, tag("script", Markup(script))]
    page = tag("html", tag("head", *head), "\n", tag("body", *content, data_state=state), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _fingerprint(content: str) -> str:
    """How a policy names the one script or style that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# --- sections --------------------------------------------------------------------------------------------------------


def _part(name: str, title: str, *content: object, **attributes: object) -> Markup:
    return tag("section", tag("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title", **attributes)


def _live(name: str, *content: object) -> Markup:
    """A part that a served page replaces as a whole when the records have changed."""
    return tag("div", *content, id=name, data_part=True)


def _header(study: Study, live: Mapping[str, Progress]) -> Markup:
    plan = study.plan
    facts = {
        "networks": f"{plan.ends}, scale {plan.scale.name}",
        "data": f"{plan.data}, {plan.image_size} px",
        "training": f"{plan.epochs} epoch{'s' * (plan.epochs != 1)}, recipe {plan.recipe}",
        "seeds": ", ".join(map(str, plan.seeds)),
    }
    listed = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    return tag(
        "header",
        tag("p", f"study {plan.study}", class_="eyebrow"),
        tag("h1", plan.question),
        tag("dl", *listed, class_="facts"),
        _live("status", *_status(study, live)),
    )


def _status(study: Study, live: Mapping[str, Progress]) -> list[Markup]:
    """How many runs are done; the others by name."""
    runs = {run.name: run for run in study.plan.planned()}
    done, diverged = ([run for name, run in runs.items() if _ended(study, name) == kind] for kind in ("done", "diverged"))
    rest = [run for name, run in runs.items() if name not in study.results]
    lines = [tag("p", tag("strong", f"{len(done)} of {len(runs)} runs done"), role="status")]
    lines += [tag("progress", value=len(done) + len(diverged), max=len(runs), aria_label="runs done")] if rest else []
    lines += [tag("p", "Diverged: ", _named(diverged), ".")] if diverged else []
    lines += [
        tag(
            "p",
            tag("b", f"{run.row.variant.label}, seed {run.seed}"),
            f": {live[run.name].words(study.plan.epochs)}",
            class_="running",
        )
        for run in rest
        if run.name in live
    ]
    missing = [run for run in rest if run.name not in live]
    word = "Not yet run" if live else "Missing"
    return lines + ([tag("p", f"{word}: ", _named(missing), ".")] if missing else [])


def _ended(study: Study, run: str) -> str | None:
    return study.results[run].status if run in study.results else None


def _named(runs: Sequence[PlannedRun]) -> str:
    """Rows with their seeds, each row once."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.row.variant.label, []).append(str(run.seed))
    return "; ".join(f"{label} (seed{'s' * (len(which) > 1)} {', '.join(which)})" for label, which in seeds.items())


def _box(name: str, label: str, script: bool = True, **attributes: object) -> Markup:
    return tag(
        "label", tag("input", type="checkbox", id=name, **attributes), label, class_="box needs-script" if script else "box"
    )


def _figure(study: Study, analysis: Analysis) -> Markup:
    plan, label = study.plan, study.plan.metric.label
    hatched = " Hatched: tried, not adopted." * any(row.variant.side_branch for row in analysis.rows)
    says = (
        f"Bars: mean {label} on {plan.measured_on}; the axis does not start at 0. Line: ± one standard deviation over seeds. "
        f"Small circles: single seeds.{hatched}"
    )
    paper = _box("paper", f"the paper’s numbers ({NOT_COMPARABLE})", script=False) if has_paper(study) else ""
    title = f"{plan.ends}, step by step" if plan.kind == "roadmap" else f"{label.capitalize()} of every row"
    return _part("figure", title, tag("p", says, class_="says"), paper, _live("roadmap", roadmap(study, analysis)))


def _tables(study: Study, analysis: Analysis) -> Markup:
    groups = list(dict.fromkeys(row.variant.group for row in analysis.rows if row.variant.group))
    options = [tag("option", "all sections", value="")] + [tag("option", group, value=group) for group in groups]
    search = tag("label", "filter", tag("input", type="search", id="filter", autocomplete="off", spellcheck="false"))
    section = tag("label", "section", tag("select", *options, id="group")) if groups else ""
    columns = tag("details", tag("summary", "columns"), tag("div", id="columns", role="group", aria_label="columns"), id="choose")
    single = _box("single", "single seeds", script=False)
    controls = [search, section, _box("resolved", "resolved only"), single, columns]
    count = tag("p", id="count", role="status", class_="needs-script")
    tables = _live("tables", effects_table(study, analysis), main_table(study, analysis))
    return _part("table", "Table", tag("div", *controls, class_="controls"), count, tables)


def _cost(study: Study, analysis: Analysis) -> Markup:
    says = "Numbers: the row’s place in the roadmap. Line: ± one standard deviation over seeds. Hollow: tried, not adopted."
    return _part(
        "cost", "Accuracy against multiply-adds", tag("p", says, class_="says"), _live("against", scatter(study, analysis))
    )


def _curves(study: Study, analysis: Analysis) -> Markup:
    adopted = [i for i, row in enumerate(analysis.rows) if row.variant.adopted]
    chosen = {adopted[0], adopted[-1]} if adopted else {0}
    rows = [_box(f"curve-{i}", row.variant.label, checked=i in chosen, data_row=i) for i, row in enumerate(analysis.rows)]
    kinds = [
        tag("option", name, value=i) for i, name in ((2, study.plan.metric.heading), (0, "training loss"), (1, "validation loss"))
    ]
    choice = [tag("label", "shown", tag("select", *kinds, id="metric")), tag("button", "clear", type="button", id="clear")]
    return _part(
        "curves", "Learning curves",
        tag("p", "Mean over seeds, band: ± one standard deviation. The arrow keys go from epoch to epoch.", class_="says"),
        tag("div", *choice, class_="controls"),
        tag("fieldset", tag("legend", "rows"), _live("pills", *rows)),
        tag("div", id="plot", tabindex="0", role="group", aria_label="Learning curves", aria_describedby="readout"),
        tag("div", id="readout", aria_live="polite"),
        class_="needs-script",
    )  # fmt: skip


def _compare(study: Study) -> Markup:
    selects = [tag("label", f"{which} run", tag("select", id=f"run-{which}")) for which in ("first", "second")]
    out = tag("div", id="difference", aria_live="polite")
    return _part("compare", "What differs between two runs", tag("div", *selects, class_="controls"), out, class_="needs-script")


def _records(study: Study, live: Mapping[str, Progress], beside: Path) -> Markup:
    table = _live("runs", records_table(study, live, beside))
    return _part("records", "Records", tag("details", tag("summary", "every run with its files"), table, id="all-runs"))


def _notes(study: Study, analysis: Analysis) -> Markup:
    said = [tag("p", note) for note in notes(study, analysis)]
    return _part("notes", "How to read the numbers", _live("said", *said))
