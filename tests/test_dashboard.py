"""W&B's view, report and sweep file, and TensorBoard: what they name is what runs log, and what is read back is the record."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from roadmap import dashboard as dashboard_door
from roadmap.base.errors import Refused
from roadmap.base.paths import CONF
from roadmap.config.compose import compose
from roadmap.config.identity import plain
from roadmap.config.schema import StepConfig
from roadmap.config.steps import known_steps
from roadmap.record.folder import RunFolder
from roadmap.report.columns import table_columns, table_csv
from roadmap.report.records import load
from roadmap.report.report import Report
from roadmap.tracking.tracker import open_tracker
from roadmap.tracking.wandb import dashboard, summary_run
from roadmap.tracking.wandb.process import Uploader
from roadmap.tracking.wandb.run import MARKER, WandbRun

sys.path.append(str(Path(__file__).parent / "faults"))
from fake_wandb import KEY, serving
from records import made, write

SUMMARY = ("top1", "top5", "gmacs", "params_m", "delta_top1", "status", "images_per_second")
DIGITS = Path(__file__).parent.parent / "experiments" / "digits"
SWEEP = CONF / "wandb" / "sweep.yaml"


@pytest.fixture
def folder(tmp_path):
    for name in ("study.json", "records.jsonl"):
        shutil.copy(DIGITS / name, tmp_path / name)
    return tmp_path


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["dashboard", *map(str, arguments)])
    return dashboard_door.main()


def test_the_specification_names_what_runs_log(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    files = [folder / "one.json", folder / "two.json"]
    for file in files:
        assert call(monkeypatch, folder, "--json", file) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    specification = json.loads(files[0].read_text())
    assert set(specification) == {"view", "report"}
    text = json.dumps(specification["view"])
    summaries = set(re.findall(r"summary:(\w+)", text))
    assert {"top1", "gmacs", "delta_top1", "images_per_second"} <= summaries <= {*SUMMARY, "step_index", "row_index"}
    for word in ("step.value.name", "step_index", "train_loss", "val_loss", "Run Comparer"):
        assert word.lower().replace(" ", "") in text.lower().replace(" ", "")
    run = next(iter(load(DIGITS).results))
    assert run in text
    assert json.loads((DIGITS / "study.json").read_text())["question"] in json.dumps(specification["report"])


def test_the_roadmap_s_table_is_read_back_from_w_and_b(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    assert call(monkeypatch, folder, "--offline") == 0
    assert call(monkeypatch, folder, "--offline") == 0  # once
    (offline,) = folder.rglob("offline-run-*")
    (table,) = offline.rglob("*.table.json")
    content = json.loads(table.read_text())
    report = Report.read(folder)
    label = table_columns(report.study.plan, ["label"])[0]
    assert [row[0] for row in content["data"]] == [label.text(row) for row in report.rows]
    column = content["columns"].index("top1_mean")
    assert [row[column] for row in content["data"]] == [row["top1_mean"] for row in report.rows]
    reader = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(offline)]
    said = subprocess.run(reader, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.count('"row_number"') >= 16
    assert "sep. d.s. conv" not in said or "table" in said


def test_without_a_login_nothing_is_saved(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    before = sorted(folder.rglob("*"))
    with pytest.raises(Refused, match="not logged in"):
        call(monkeypatch, folder)
    assert sorted(folder.rglob("*")) == before


def test_every_command_of_the_sweep_file_is_a_run():
    """Written out as W&B's agent does: `${args_no_hyphens}` becomes key=value."""
    sweep = OmegaConf.to_container(OmegaConf.load(SWEEP), resolve=False)
    assert sweep["parameters"]["+step"]["values"] == list(known_steps())
    assert sweep["parameters"]["seed"]["values"] == [0, 1, 2, 3, 4]
    for step in known_steps():
        words = {"+step": step, "seed": 2}
        line = []
        for word in sweep["command"]:
            line += [f"{k}={v}" for k, v in words.items()] if word == "${args_no_hyphens}" else [word]
        experiment = compose(line[line.index("roadmap.run") + 1 :])
        assert (experiment.step.name, experiment.seed, experiment.logger, experiment.wandb.mode) == (step, 2, "wandb", "online")


def test_tensorboard_holds_each_epoch_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment = compose(["+step=gelu", "scale=atto", "logger=tensorboard", f"output={tmp_path}"])
    folder = RunFolder.of(experiment, "0" * 16)
    folder.path.mkdir(parents=True)
    for attempt in (2, 3):  # the second repeats the last epoch of the first, as after a kill
        folder.forget_epochs(attempt - 2)
        tracker = open_tracker(experiment, folder)
        for epoch in range(attempt - 2, attempt):
            line = {"epoch": epoch, "train_loss": 2.0 - epoch, "top1": 10.0 * epoch + attempt, "top1_without_ema": None}
            folder.add_epoch(line)
            tracker.update()
        if attempt == 3:
            write(folder.path, made(top1=13.0, gmacs=0.5))
        tracker.close()
    read = EventAccumulator(str(folder.path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("top1")] == [(0, 2.0), (1, 13.0), (2, 23.0)]
    assert [event.step for event in read.Scalars("train_loss")] == [0, 1, 2]
    assert [event.value for event in read.Scalars("final/gmacs")] == [0.5]


def test_without_tensorboard_a_run_goes_on(tmp_path, monkeypatch, caplog):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    experiment = compose(["+step=gelu", "scale=atto", "logger=tensorboard", f"output={tmp_path}"])
    folder = RunFolder.of(experiment, "0" * 16)
    folder.path.mkdir(parents=True)
    tracker = open_tracker(experiment, folder)
    tracker.update()
    tracker.close()
    assert [record.message for record in caplog.records] == [
        "logger=tensorboard: tensorboard is not installed (pip install tensorboard); the run goes on without it"
    ]


# --- what is saved on a server, and what a run logs --------------------------------------------------------------------

SECRET = "correct-horse-battery"


@pytest.fixture
def server(folder, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    with serving() as fake:
        for name, value in {"HOME": str(folder), "WANDB_API_KEY": KEY, "WANDB_BASE_URL": fake.url}.items():
            monkeypatch.setenv(name, value)
        yield fake


def run_folder(study, step="gelu", **result):
    """A run of the study that is done, as its folder tells it."""
    composed = plain(compose(["scale=atto", "recipe=smoke", f"+step={step}"]))
    (row,) = (row for row in json.loads((study / "study.json").read_text())["rows"] if row["name"] == step)
    run = study / "runs" / row["runs"][0]
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(composed)))
    write(run, made(run.name, step=StepConfig(**composed["step"]), **{"top1": 50.0, **result}))
    line = {"epoch": 0, "train_loss": 2.0, "val_loss": 1.5, "top1": 50.0, "images_per_second": 9.0, "lr": 0.1}
    (run / "history.jsonl").write_text(json.dumps(line) + "\n")
    return run, composed


def inspect(folder, *arguments):
    reader = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *arguments, "--json", str(folder)]
    return subprocess.run(reader, capture_output=True, text=True, check=True, timeout=60).stdout


def test_saving_twice_is_one_table_one_view_and_one_report(folder, monkeypatch, server, capsys):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("MY_TOKEN", SECRET)
    about = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**about, "question": f"Why {SECRET}?"}))
    assert call(monkeypatch, folder) == 0
    first = capsys.readouterr().out
    assert call(monkeypatch, folder) == 0
    assert capsys.readouterr().out == first
    assert server.inserted == {"study-digits": 1}
    assert sorted(view["type"] for view in server.views.values()) == ["project-view", "runs"]
    urls = json.loads((folder / "wandb" / "dashboard.json").read_text())
    assert all(f"{kind}: {url}" in first for kind, url in urls.items())
    assert urls["view"].startswith(f"{server.url}/me/roadmap?nw=")
    (table,) = (json.loads(text) for name, text in server.files.items() if name.startswith("media/table"))
    assert len(set(table["columns"])) == len(table["columns"])
    study = load(folder)
    wanted = list(csv.DictReader(table_csv(Report.of(study)).splitlines()))
    for key in wanted[0].keys() & set(table["columns"]):
        column = table["columns"].index(key)
        assert ["" if row[column] is None else str(row[column]) for row in table["data"]] == [row[key] for row in wanted]
    assert SECRET in (folder / "study.json").read_text()
    assert not any(SECRET in text or SECRET in path for path, text in server.requests)
    assert not any(SECRET in path.read_text(errors="replace") for path in (folder / "wandb").rglob("*") if path.is_file())
    assert "python -m roadmap.replay" in first


def test_a_view_takes_up_runs_under_the_ids_that_they_have_on_w_and_b(folder, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    run, _ = run_folder(folder)
    for name in ("resnet", "stage_ratio"):  # a study may be reported before all of its runs are there
        run_folder(folder, name)
    (run / MARKER).parent.mkdir()
    (run / MARKER).write_text(json.dumps({"id": "given-by-an-agent", "server": "x"}))
    assert call(monkeypatch, DIGITS, "--json") == 0
    assert run.name in capsys.readouterr().out
    study = load(DIGITS)
    board = dashboard.Dashboard(Report.of(study), "", "roadmap", "study-digits")
    object.__setattr__(board.report.study, "folder", folder)
    assert "given-by-an-agent" in board.runs
    assert run.name not in board.runs


def test_w_and_b_s_own_models_read_the_specification(folder):
    pytest.importorskip("wandb_workspaces")
    ws, wr, _ = dashboard.packages()
    from wandb_workspaces.reports.v2 import internal as of_reports
    from wandb_workspaces.workspaces import internal as of_views

    study = load(folder)
    board = dashboard.Dashboard(Report.of(study), "me", "roadmap", "study-digits")
    specification = json.loads(json.dumps(dashboard.specify(board)))
    spec = of_views.WorkspaceViewspec.model_validate(specification["view"]["spec"])
    about = {"entity": "me", "project": "roadmap", "display_name": "", "name": "", "id": ""}
    view = ws.Workspace._from_model(of_views.View(**about, spec=spec))
    assert view.runset_settings.baseline_run == study.plan.rows[0].runs[0]
    assert [key.name for key in view.runset_settings.groupby] == ["step.name"]
    assert [(order.item.name, order.ascending) for order in view.runset_settings.order] == [("step_index", True)]
    spec = of_reports.Spec.model_validate(specification["report"]["spec"])
    grids = [block for block in map(wr.interface._lookup, spec.blocks) if isinstance(block, wr.PanelGrid)]
    panels = [panel for section in view.sections for panel in section.panels]
    assert [type(panel) for grid in grids for panel in grid.panels] == [type(panel) for panel in panels]


def test_every_metric_of_a_panel_is_logged(folder):
    """By a run through the real tracker, or by the summarising run, as W&B's reader finds them."""
    _, wr, _ = pytest.importorskip("wandb_workspaces") and dashboard.packages()
    run_folder(folder, "kernel_7", top1=40.0)  # what its difference is to
    run, composed = run_folder(folder, scores={"top5": 99.0}, gmacs=0.5, params_m=1.0, images_per_second=9.0)
    uploader = Uploader(WandbRun.of(composed, run, online=False))
    uploader.update()
    uploader.close()
    (mirror,) = run.glob("wandb/offline-run-*")
    found = json.loads(inspect(mirror, "--summary"))
    logged = found["summary"]
    study = load(DIGITS)
    board = dashboard.Dashboard(Report.of(study), "", "roadmap", "study-digits")
    logged_rows = {key for line in summary_run.lines_of(Report.of(study)) for key in line}
    named = {name for panels in dashboard._sections(board).values() for panel in panels for name in names(panel, wr)}
    assert {"top1", "delta_top1", "gmacs", "train_loss", "val_loss", "images_per_second", "row_delta", "epoch"} <= named
    assert named <= logged.keys() | logged_rows
    assert set(board.grouping) - {"step.name"} <= logged.keys()
    assert found["config"]["step"]["name"] == "gelu"
    assert (logged["step_index"], found["config"]["row"]) == (list(known_steps()).index("gelu"), "gelu")


def names(panel, wr):
    """The metrics that a panel shows."""
    if isinstance(panel, wr.LinePlot):
        return [panel.x, *panel.y]
    if isinstance(panel, wr.ScatterPlot):
        return [panel.x.name, panel.y.name]
    return panel.metrics if isinstance(panel, wr.BarPlot) else []


def test_rows_that_are_no_steps_are_grouped_by_row(folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    about = json.loads((folder / "study.json").read_text().replace('"stage_ratio"', '"only_stage_ratio"'))
    about["rows"][1]["step"] = "resnet"
    (folder / "study.json").write_text(json.dumps(about))
    assert call(monkeypatch, folder, "--json", folder / "one.json") == 0
    runset = json.loads((folder / "one.json").read_text())["view"]["spec"]["section"]["runSets"][0]
    assert [key["name"] for key in runset["grouping"]] == ["row.value"]
    assert [key["key"]["name"] for key in runset["sort"]["keys"]] == ["row_index"]


def test_without_the_package_it_is_refused(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(Refused, match="pip install wandb-workspaces"):
        call(monkeypatch, folder, "--json")


def test_a_difference_that_became_known_later_is_replayed(folder, monkeypatch, server):
    """In a parallel sweep a parent may end after its child: the child's record then holds no difference."""
    from roadmap import replay

    run_folder(folder, "kernel_7", top1=40.0)
    run, _ = run_folder(folder, "gelu", top1=50.0)
    monkeypatch.setattr(sys, "argv", ["replay", str(folder)])
    assert replay.main() == 0
    assert server.runs[run.name]["summary"]["delta_top1"] == 10.0
    before = len(server.requests)
    assert replay.main() == 0  # and the result is still the one that the record holds
    assert len(server.requests) == before


def test_a_run_that_an_agent_asked_for_is_the_agent_s(tmp_path, monkeypatch, server):
    parameters = tmp_path / "config-abc.yaml"
    parameters.write_text("wandb_version: 1\n+step:\n  value: gelu\nseed:\n  value: 0\n")
    asked = {"RUN_ID": "abc", "SWEEP_ID": "swp", "SWEEP_PARAM_PATH": str(parameters), "PROJECT": "theirs", "ENTITY": "me"}
    for name, value in asked.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    experiment = compose(["+step=gelu", "scale=atto", "logger=wandb", "wandb.mode=online", f"output={tmp_path}"])
    folder = RunFolder.of(experiment, "0" * 16)
    folder.path.mkdir(parents=True)
    folder.add_epoch({"epoch": 0, "top1": 1.0})
    tracker = open_tracker(experiment, folder)
    tracker.update()
    write(folder.path, made(top1=1.0))
    tracker.close()
    assert tracker.fault is None
    there = server.runs["abc"]
    assert (there["project"], there["sweep"], there["summary"]["top1"]) == ("theirs", "swp", 1.0)
    assert json.loads(there["config"])["+step"]["value"] == "gelu"


def test_the_agent_s_own_code_writes_the_commands():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = OmegaConf.to_container(OmegaConf.load(SWEEP), resolve=False)
    args = {"+step": {"value": "gelu"}, "seed": {"value": 1}}
    words = create_sweep_command_args({"args": args})
    line = []
    for word in create_sweep_command(sweep["command"]):
        line += words.get(word[2:-1], []) if word.startswith("${") else [word]
    experiment = compose(line[line.index("roadmap.run") + 1 :])
    assert (experiment.step.name, experiment.seed) == ("gelu", 1)


def test_the_sweep_file_is_no_configuration_group():
    """It lies where W&B's users look for it, conf/wandb/, which Hydra takes for a group."""
    assert compose(["+step=gelu", "logger=wandb", "wandb.mode=online"]).wandb.mode == "online"
    for override in ("wandb=sweep", "+wandb=sweep", "wandb={mode:online}"):
        with pytest.raises(Refused, match=re.escape("set one of wandb.mode, wandb.project, wandb.entity")):
            compose(["+step=gelu", override])


def test_event_files_hold_no_secret(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("MY_TOKEN", SECRET)
    experiment = compose(["+step=gelu", "scale=atto", "logger=tensorboard", f"study.name={SECRET}"])
    folder = RunFolder(tmp_path / "gelu-s0-1")
    folder.path.mkdir()
    tracker = open_tracker(experiment, folder)
    write(folder.path, made(top1=1.0))
    tracker.close()
    (file,) = (folder.path / "tensorboard").iterdir()
    assert b"[redacted]" in file.read_bytes()
    assert SECRET.encode() not in file.read_bytes()
