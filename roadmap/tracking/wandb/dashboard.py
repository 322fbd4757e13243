"""A study on W&B, as people compare steps: `python -m roadmap.dashboard FOLDER [--json [FILE]] [--offline]`.

Three things, from the study's records: one summarising run with the roadmap's table and its intervals, a saved view of the
project that groups the runs by step in the roadmap's order, and a W&B report with the study's question. Each is there once: the
same command brings the same ones up to date. The runs themselves come from training or from `roadmap.replay`. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from roadmap.base.errors import EXIT_FAILED, Refused, writing
from roadmap.base.files import read_json_object, write_atomic
from roadmap.base.redaction import redact_text
from roadmap.record.result import Metric
from roadmap.record.study import StudyPlan
from roadmap.report.report import Report
from roadmap.tracking.wandb.run import MARKER
from roadmap.tracking.wandb.server import Server, Unavailable, address, ask, connect
from roadmap.tracking.wandb.summary_run import summarise
from roadmap.tracking.wandb.upload import UploadFailed, upload
from roadmap.tracking.wandb.uploader import TABLE_KEY

NOT_INSTALLED = "wandb-workspaces is not installed (pip install wandb-workspaces)"
MOST_RUNS = 1000  # that a panel shows; W&B's own default is 10

_FIND = """query View($project: String!, $entity: String!, $type: String!, $name: String!) {
    project(name: $project, entityName: $entity) {
        allViews(viewType: $type, viewName: $name) { edges { node { id displayName } } }
    }
}"""

_SAVE = """mutation UpsertView($id: ID, $entity: String, $project: String, $type: String, $name: String, $title: String,
        $description: String, $spec: String!) {
    upsertView(input: {id: $id, entityName: $entity, projectName: $project, type: $type, name: $name, displayName: $title,
            description: $description, spec: $spec, createdUsing: WANDB_SDK}) {
        view { id name } inserted
    }
}"""


@dataclass(frozen=True)
class Dashboard:
    """What is shown of a study, and where."""

    report: Report
    entity: str
    project: str
    summary: str  # the id of the summarising run on W&B

    @property
    def plan(self) -> StudyPlan:
        """What the study trains and asks."""
        return self.report.study.plan

    @property
    def name(self) -> str:
        """The study's name, which titles and names of views come from."""
        return redact_text(self.plan.study)

    @property
    def by_step(self) -> bool:
        """Whether the rows are steps; in a leave-one-out and the like, they are sets of toggles."""
        return all(variant.reference or variant.name == variant.step for variant in self.plan.variants)

    @property
    def grouping(self) -> tuple[str, str]:
        """What runs are grouped by, a key of their configuration, and sorted by, a key of their summary."""
        return ("step.name", "step_index") if self.by_step else ("row", "row_index")

    @property
    def runs(self) -> list[str]:
        """W&B's ids of the study's runs, in the order of the rows: what they were uploaded as, or will be."""
        return [str(_marker(self.report.study.folder / "runs" / name).get("id") or name) for name in self.plan.runs]

    def view_name(self, kind: str) -> str:
        """W&B's name of a view, the same for every attempt: how the one that is there is found again."""
        return f"nw-{hashlib.sha256(f'{kind} {self.name}'.encode()).hexdigest()[:11]}-v"


def packages() -> tuple[ModuleType, ModuleType, ModuleType]:
    """wandb-workspaces' views, reports and filters.

    Raises:
        Refused: where it is not installed.

    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own use of pydantic
            from wandb_workspaces import expr, workspaces
            from wandb_workspaces.reports import v2 as reports
    except ImportError as error:
        raise Refused(f"{NOT_INSTALLED}: {error}") from error
    return workspaces, reports, expr


def specify(board: Dashboard) -> dict[str, Any]:
    """View and report as W&B's server takes them: `title`, `type`, `name`, `spec` and the report's `description`."""
    report = _report(board)._to_model()
    shown = {"view": ("project-view", workspace(board)._to_model(), ""), "report": ("runs", report, report.description)}
    return {
        kind: {
            "entity": board.entity,
            "project": board.project,
            "type": view_type,
            "name": board.view_name(kind),
            "title": model.display_name,
            "description": description,
            "spec": _settled(model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)),
        }
        for kind, (view_type, model, description) in shown.items()
    }


def workspace(board: Dashboard) -> Any:
    """The saved view: the study's runs by step in the roadmap's order, compared with the first step's."""
    ws, _, expr = packages()
    group, index = board.grouping
    runs, score = board.runs, board.plan.metric.key
    settings = ws.RunsetSettings(
        filters=expr.And(expr.Metric("ID").isin([*runs, board.summary])),
        groupby=[expr.Config(group)],
        order=[expr.Ordering(expr.Summary(index), ascending=True)],
        pinned_columns=[
            f"summary:{key}" for key in (score, f"delta_{score}", "gmacs", "params_m", "images_per_second", "status")
        ],
        baseline_run=runs[0],
    )
    sections = [
        ws.Section(name=name, panels=panels, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=2, rows=2))
        for name, panels in _sections(board).items()
    ]
    return ws.Workspace(
        entity=board.entity,
        project=board.project,
        name=_title(board),
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MOST_RUNS),
        runset_settings=settings,
    )


def _report(board: Dashboard) -> Any:
    """The report: the question, the table, what a reader must know beside it, and the panels."""
    _, wr, expr = packages()
    group, index = board.grouping
    order = [wr.OrderBy(name=wr.SummaryMetric(index), ascending=True)]
    mine = expr.And(expr.Metric("ID").isin(board.runs))
    trained = wr.Runset(name="runs", filters=mine, groupby=[f"config.{group}"], order=order)
    summary = wr.Runset(name="table", filters=expr.And(expr.Metric("ID").isin([board.summary])))
    said = [wr.P(redact_text(note)) for note in board.report.notes]
    table, *others = _sections(board).items()
    blocks = [wr.H2("The roadmap's table"), wr.PanelGrid(runsets=[summary], panels=_tiled(wr, table[1], 24, 12)), *said]
    for name, panels in others:
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[trained], panels=_tiled(wr, panels, 12, 10))]
    question = redact_text(board.plan.question)
    return wr.Report(
        entity=board.entity, project=board.project, title=_title(board), description=question, blocks=blocks, width="fluid"
    )


def _sections(board: Dashboard) -> dict[str, list[Any]]:
    """The panels by what they are about; the first section is the summarising run's, the others the runs'."""
    _, wr, _ = packages()
    many = {"max_runs_to_show": MOST_RUNS}
    grouped = {"groupby": wr.Config(board.grouping[0]), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", **many}
    word = "step" if board.by_step else "row"

    def bars(title: str, metric: str, unit: str) -> Any:
        return wr.BarPlot(title=title, metrics=[metric], title_x=unit, max_bars_to_show=MOST_RUNS, **grouped)

    def curves(title: str, metric: str, unit: str) -> Any:
        return wr.LinePlot(title=title, x="epoch", y=[metric], title_x="epoch", title_y=unit, **grouped)

    metric = board.plan.metric
    difference = f"difference to the parent by {word}, run by run of equal seed"
    against = {"x": wr.SummaryMetric("gmacs"), "y": wr.SummaryMetric(metric.key)}
    return {
        "Table": [wr.WeavePanelSummaryTable(table_name=TABLE_KEY), _intervals(wr, metric)],
        f"{metric.label.capitalize()} by {word}": [
            bars(f"{metric.label} by {word}: mean and standard deviation over seeds", metric.key, metric.heading),
            bars(difference, f"delta_{metric.key}", f"points of {metric.label}"),
            wr.ScatterPlot(title=f"multiply-adds against {metric.label}", **against),
        ],
        "Curves": [
            curves(f"training loss by {word}", "train_loss", "loss"),
            curves(f"validation loss by {word}", "val_loss", "loss"),
            curves(f"{metric.label} by {word} and epoch", metric.key, metric.heading),
        ],
        "Speed and settings": [
            bars(f"training throughput by {word}", "images_per_second", "images a second"),
            wr.RunComparer(diff_only="split"),
        ],
    }


def _intervals(wr: ModuleType, metric: Metric) -> Any:
    """Each row's difference to its parent, between the ends of its interval."""
    return wr.LinePlot(
        title="difference to the parent with its 95 % interval, by row of the table",
        x="row_number",
        y=["row_delta", "row_delta_low", "row_delta_high"],
        title_x="row of the table",
        title_y=f"points of {metric.label}",
    )


def _tiled(wr: ModuleType, panels: list[Any], width: int, height: int) -> list[Any]:
    """The panels side by side as far as a report's 24 columns go."""
    across = 24 // width
    for place, panel in enumerate(panels):
        panel.layout = wr.Layout(x=place % across * width, y=place // across * height, w=width, h=height)
    return panels


def _title(board: Dashboard) -> str:
    return f"Roadmap: {board.name}"[:128]


def _settled(spec: Any, path: str = "") -> Any:
    """The specification with ids from their places, where wandb-workspaces draws them anew each time."""
    if isinstance(spec, list):
        return [_settled(item, f"{path}/{place}") for place, item in enumerate(spec)]
    if not isinstance(spec, dict):
        return spec
    drawn = {key for key in ("id", "__id__") if isinstance(spec.get(key), str)}
    named = hashlib.sha256(path.encode()).hexdigest()[:12]
    return {key: named if key in drawn else _settled(value, f"{path}/{key}") for key, value in spec.items()}


def save(report: Report, entity: str | None, project: str) -> int:
    """Bring the summarising run, the view and the report to the server, or up to date there.

    Raises:
        Refused: without a login or an answer of the server, before anything is sent or written.
        UploadFailed: where the server goes away later.

    """
    try:
        server = connect(address())
    except Unavailable as error:
        raise Refused(f"{error}; nothing was saved (--json and --offline need no server)") from error
    entity = entity or server.entity
    summary = summarise(report, entity, project)
    if not summary.uploaded:
        outcome, arrived = upload(summary, server)
        if not arrived:
            print(f"{summary.shown.id}: {outcome}")
            return EXIT_FAILED
    print(f"table: {summary.marker['url']}")
    board = Dashboard(report, entity, project, summary.marker["id"])
    try:
        urls = {kind: _upsert(server, board, kind, content) for kind, content in specify(board).items()}
    except Unavailable as error:
        raise UploadFailed(f"{error}; the same command goes on from here") from error
    for kind, url in urls.items():
        print(f"{kind}: {url}")
    folder, urls = report.study.folder / "wandb", {"table": summary.marker["url"], **urls}
    with writing(f"{folder}:"):  # where things are
        write_atomic(folder / "dashboard.json", json.dumps(urls, indent=2) + "\n")
    _say_missing(board)
    return 0


def _upsert(server: Server, board: Dashboard, kind: str, content: dict[str, Any]) -> str:
    """Save a view in place of the one that has its name, where there is one; returns where it is shown."""
    where = {key: content[key] for key in ("entity", "project", "type", "name")}
    project = ask(server.url, server.key, _FIND, where).get("project") or {}
    try:
        there = [edge["node"]["id"] for edge in (project.get("allViews") or {}).get("edges", [])][:1]
        spec = redact_text(json.dumps(content["spec"]))
        sent = {**where, **{key: content[key] for key in ("title", "description")}, "spec": spec}
        answer = ask(server.url, server.key, _SAVE, sent | ({"id": there[0]} if there else {}))
        view_id = str(answer["upsertView"]["view"]["id"])
    except (KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"{server.url} did not save the {kind}") from error
    page = server.page(board.entity, board.project, "").rsplit("/runs/", 1)[0]
    if kind == "view":
        return f"{page}?nw={content['name'].removeprefix('nw-').removesuffix('-v')}"
    return f"{page}/reports/{re.sub(r'[^A-Za-z0-9]+', '-', content['title'])}--{view_id.rstrip('=')}"


def _say_missing(board: Dashboard) -> None:
    """A view of runs that are not there is empty: say how they come."""
    names = board.plan.runs
    missing = sum(_marker(board.report.study.folder / "runs" / name).get("server") != address() for name in names)
    if missing:
        print(
            f"{missing} of {len(names)} runs are not on {address()} as far as their folders say: "
            f"python -m roadmap.replay {board.report.study.folder}"
        )


def _marker(run: Path) -> dict[str, Any]:
    return read_json_object(run / MARKER)
