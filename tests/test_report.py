"""Reports: planted effects come out as planted, holes are shown, nothing incomparable is averaged, hostile text is harmless."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from records import editing, result_file

from roadmap.base.console import printable
from roadmap.base.errors import Refused
from roadmap.base.tables import Column, as_csv, as_latex, as_markdown, as_table
from roadmap.config.recipes import recipe_file
from roadmap.report import frame, pictures
from roadmap.report.columns import latex, markdown, table_csv
from roadmap.report.page import render, write_page
from roadmap.report.records import load
from roadmap.report.report import Report
from roadmap.report.statistics import analyse
from roadmap.report.write import write_report

DIGITS = Path(__file__).parent.parent / "experiments" / "digits"
STEPS = [("a", None, ""), ("b", "a", "First"), ("c", "b", "First"), ("side", "c", "Second"), ("d", "c", "Second")]


def study(folder, values, *, seeds=3, labels=None, change=None):
    """A study with these top-1 values by step; None: diverged; missing: no record."""
    labels = labels or {}
    steps = [{"name": n, "parent": p, "label": labels.get(n, n), "group": g, "adopted": n != "side"} for n, p, g in STEPS]
    rows = [
        {
            **step,
            "step": step["name"],
            "overrides": [],
            "toggles": ["kernel_size"],
            "runs": [f"{step['name']}-s{seed}-0" for seed in range(seeds)],
        }
        for step in steps
    ]
    effects = [
        {"name": row["name"], "label": row["label"], "weights": {row["name"]: 1, row["parent"]: -1}}
        for row in rows
        if row["parent"]
    ]
    about = {
        "study": "planted", "question": "?", "scale": {"name": "atto", "start": "A", "end": "D"}, "data": "digits",
        "image_size": 32, "epochs": 3, "recipe": "short", "seeds": list(range(seeds)), "rows": rows, "effects": effects,
        "kind": "roadmap",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(about))
    lines = []
    for step in steps:
        for seed, value in enumerate(values.get(step["name"], [])):
            lines.append(
                {
                    "run": f"{step['name']}-s{seed}-0", "step": step, "seed": seed,
                    "status": "diverged" if value is None else "done", "top1": value, "gmacs": 0.01 + 0.001 * len(lines),
                    "params_m": 1.0, "images_per_second": 100.0, "scale": "atto",
                    "data": {"fingerprint": "f"}, "recipe": {"lr": 1.0}, "precision": "float32", "history": [],
                }
            )  # fmt: skip
    if change:
        change(lines)
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


VALUES = {
    "a": [50.0, 51.0, 52.0],
    "b": [60.0, 61.0, 62.0],
    "c": [60.5, 61.5, 62.5],
    "side": [61, 62, 63],
    "d": [70.0, 71.0, 72.0],
}


def test_planted_effects(tmp_path):
    analysis = analyse(load(study(tmp_path, VALUES)))
    found = {estimate.effect.name: estimate for estimate in analysis.estimates}
    assert analysis.measured.deviation == pytest.approx(1.0)
    assert {name: e.value for name, e in found.items()} == {"b": 10, "c": 0.5, "side": 0.5, "d": 9.5}
    assert {name: e.resolved for name, e in found.items()} == {"b": True, "c": False, "side": False, "d": True}
    # a little above t(0.975, 4) sqrt(2 / 3), from a table of Student's t
    assert found["b"].half_width == pytest.approx(2.7764 * (2 / 3) ** 0.5, rel=0.02)


def test_missing_and_diverged_rows_are_shown(tmp_path):
    folder = study(tmp_path, {**VALUES, "b": [60.0, None], "c": [None, None, None], "side": []})
    found = load(folder)
    text = markdown(Report.of(found))
    row = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "1, 1 diverged, 1 missing" in row["b"]
    assert "| diverged" in row["c"]
    assert "0, 3 diverged" in row["c"]
    assert "| missing" in row["side (side branch)"]
    rows = {r["step"]: r for r in Report.of(found).rows}
    assert rows["c"]["top1_mean"] is None
    assert rows["d"]["delta_top1"] is None  # its parent has no number
    assert rows["b"]["n"] == 1


def test_the_smallest_effect_is_that_of_the_seeds_that_have_finished(tmp_path):
    planned = markdown(Report.of(load(study(tmp_path / "three", VALUES))))
    (smallest,) = re.findall("With 3 seeds an effect of ([0-9.]+) points", planned)
    begun = markdown(Report.of(load(study(tmp_path / "five", VALUES, seeds=5))))
    assert f"With 3 seeds, the fewest that a row has finished, an effect of {smallest} points" in begun
    one = markdown(Report.of(load(study(tmp_path / "one", {**VALUES, "a": [50.0]}, seeds=5))))  # and b has no interval
    assert f"With 3 seeds, the fewest that a row has finished, an effect of {smallest} points" in one


def test_the_papers_column_stands_beside_no_other_metric(tmp_path):
    """Its top-1 on ImageNet is not what a detector is scored by; the agreement of the differences says whose they are."""
    report = Report.of(load(Path(__file__).parent.parent / "experiments" / "scenes_detection"))
    for text in (markdown(report), latex(report), table_csv(report)):
        assert "box" in text
        assert not re.search("paper_|paper, |78.82|not comparable", text)
    assert "the paper's differences in top-1 on ImageNet-1K over 5 steps" in markdown(report)
    assert "78.82" not in (page := render(report))
    assert "own scale" not in page
    with pytest.raises(Refused, match="no column 'paper_top1'"):
        markdown(report, ["label", "paper_top1"])
    of_top1 = Report.of(load(study(tmp_path, VALUES)))
    assert "The paper's numbers are ImageNet-1K's and not comparable" in markdown(of_top1)
    assert "paper_top1" in table_csv(of_top1)


def test_one_seed_resolves_nothing(tmp_path):
    found = load(study(tmp_path, {k: v[:1] for k, v in VALUES.items()}, seeds=1))
    text = markdown(Report.of(found))
    assert "no difference can be resolved" in text
    assert "resolved |" not in text
    (row,) = [line.split("|") for line in text.splitlines() if line.startswith("| b ")]
    assert "±" not in row[2]


@pytest.mark.parametrize("key", ["recipe", "data", "precision", "scale"])
def test_rows_that_differ_in_more_than_the_model_are_refused(tmp_path, key):
    def change(lines):
        lines[4][key] = {"lr": 2.0} if isinstance(lines[4][key], dict) else "other"

    with pytest.raises(Refused, match=f"{key} differs between a-s0-0 and b-s1-0"):
        load(study(tmp_path, VALUES, change=change))


def test_the_same_records_give_the_same_bytes(tmp_path):
    folders = [study(tmp_path / name, VALUES) for name in ("one", "two")]
    for folder in folders:
        write_report(folder)
    names = ["table.md", "table.csv", "table.tex", "effects.csv", "figure.svg", "figure.png", "figure.pdf", "cost.svg"]
    names += ["throughput.svg", "effects.svg", "records.jsonl"]
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_pictures_that_still_hold_are_not_drawn_again(tmp_path, monkeypatch):
    folder, behind, drawn = study(tmp_path / "one", VALUES), study(tmp_path / "two", VALUES), []

    def draw(report, other) -> dict[str, bytes]:  # the real one takes seconds
        drawn.append(report)
        content = f"{report.study.results['a-s0-0'].score} {other is not None}".encode()
        return {"figure.png": content, "cost.pdf": content, "effects.svg": content}

    def write(**arguments) -> bool:
        drawn.clear()
        write_report(folder, **arguments)
        return bool(drawn)

    monkeypatch.setattr(pictures, "_draw", draw)
    assert write() and not write() and not write(keys=["label", "delta"])
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    (folder / "cost.pdf").unlink()
    assert write()
    for name in ("effects.svg", "figure.png", ".drawn.json"):
        (folder / name).write_bytes(files[name][:-2])
        assert write() and (folder / name).read_bytes() == files[name], name
    assert write(behind=behind) and not write(behind=behind) and write()
    monkeypatch.setattr(pictures, "version", lambda name: "0")  # of a library that draws
    assert write() and not write()
    lines, value = (folder / "records.jsonl").read_text(), VALUES["a"][0]
    (folder / "records.jsonl").write_text(lines.replace(f'"top1": {value}', f'"top1": {value - 9}', 1))
    assert write() and (folder / "figure.png").read_bytes() != files["figure.png"]


def test_the_figure_says_what_the_table_says(tmp_path):
    labels = {"a": "alpha", "side": "off the path"}
    folder = study(tmp_path, {**VALUES, "c": [None] * 3, "b": []}, labels=labels)
    write_report(folder)
    tree = ET.parse(folder / "figure.svg")
    texts = {"".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {
        "alpha",
        "off the path",
        "51.0",
        "62.0",
        "71.0",
        "diverged",
        "missing",
        "First",
        "Second",
        "A to D, step by step",
    } <= texts
    assert any("digits 32 px, 3 epochs" in text for text in texts)
    assert any("hatched" in text for text in texts)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_captions_name_what_differs_from_the_recipe_s_file(tmp_path):
    short = recipe_file("short")
    assert (short["epochs"], short["lr_batch"], short["betas"], short["precision"]) == (20, 128, [0.9, 0.999], "auto")

    def said(name, **changes):
        def change(lines):
            for line in lines:
                line["recipe"] = {key: value for key, value in {**short, **changes}.items() if key != "name"}

        folder = study(tmp_path / f"{len(list(tmp_path.iterdir()))}", VALUES, change=change)
        plan = json.loads((folder / "study.json").read_text()) | {"recipe": name}
        (folder / "study.json").write_text(json.dumps(plan))
        return Report.read(folder).notes[0].split("recipe ")[1].split(", final epoch")[0]

    assert said("short", epochs=3) == "short"  # the epochs are said beside the data
    assert said("short", label_smoothing=0.0, ema=0.99) == "short with ema=0.99, label_smoothing=0"
    assert said("short", milestones=[0.5], updates=90) == "short with milestones=[0.5], updates=90"
    mine = said("mine", mixup=0.5)  # from a folder of the user's own
    assert mine.startswith("mine (the paper's with batch_size=128, micro_batch=null, ")
    assert "mixup=0.5" in mine


def test_captions_name_what_differs_from_the_files_of_data_and_steps(tmp_path):
    digits = {"source": "digits", "image_size": 32, "hflip": 0.0, "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    scale = {"name": "atto", "start": "A", "end": "D", "resnet_depths": [2, 2], "resnet_width": 24, "drop_path": 0.1}
    model = {"stem": "conv_pool", "depths": [2, 2], "width": 24, "activation": "relu", "layer_scale": None, "drop_path": 0.1}

    def said(data=(), toggles=(), overrides=()):
        def change(lines):
            for line in lines:
                line.update(data=digits | {"fingerprint": "f", "val": 9} | dict(data), model=model | dict(toggles))

        folder = study(tmp_path / f"{len(list(tmp_path.iterdir()))}", VALUES, change=change)
        plan = json.loads((folder / "study.json").read_text()) | {"scale": scale}
        for row in plan["rows"]:
            row.update(step="resnet", overrides=list(overrides))
        (folder / "study.json").write_text(json.dumps(plan))
        return Report.read(folder).notes[0].split("with lr=1")[1].split(", final epoch")[0]

    assert said() == ""
    assert said(data={"image_size": 64}) == ""  # beside the data already
    assert said(data={"hflip": 0.5, "held_out": 0.2}) == "; not as in their files: data.hflip=0.5, data.held_out=0.2"
    assert said(data={"longest_side": 64}) == "; not as in their files: data.longest_side=64"
    assert said(toggles={"drop_path": 0.3}) == "; not as in their files: model.drop_path=0.3"
    assert said(toggles={"activation": "gelu"}, overrides=["model.activation=gelu"]) == ""  # what the rows are there for


def test_a_page_is_never_older_than_the_tables_beside_it(tmp_path):
    folder = study(tmp_path, VALUES)
    write_report(folder)
    assert not (folder / "page.html").exists()
    write_page(Report.read(folder))
    study(tmp_path, {**VALUES, "d": [80.0, 81.0, 82.0]})
    write_report(folder)
    assert "81.00 ± 1.00" in (folder / "page.html").read_text()


def test_records_of_a_fuller_study_are_set_aside(tmp_path):
    folder = study(tmp_path, VALUES)
    before = (folder / "records.jsonl").read_bytes()
    write_report(folder)
    assert (folder / "records.jsonl").read_bytes() == before  # what it was made from is left as it is
    first = json.loads(before.splitlines()[0])
    run = folder / "runs" / first["run"]
    run.mkdir(parents=True)
    (run / "result.json").write_text(result_file(json.dumps(first)))
    write_report(folder)
    assert len((folder / "records.jsonl").read_text().splitlines()) == 1
    (aside,) = folder.glob("records.*.jsonl")
    assert aside.read_bytes() == before


def test_runs_of_several_devices_and_commits_are_noted(tmp_path):
    def change(lines):
        lines[3].update(device="some GPU", git={"commit": "abc"})

    found = load(study(tmp_path, VALUES, change=change))
    text = markdown(Report.of(found))
    assert "differ in device: None, some GPU" in text
    assert "commit: None, abc" in text


def test_a_study_without_neighbours_says_nothing_false(tmp_path):
    found = load(study(tmp_path, {"a": VALUES["a"], "d": VALUES["d"]}))
    assert "one seed" not in markdown(Report.of(found))


def test_no_records_no_table(tmp_path):
    with pytest.raises(Refused, match=r"study\.json"):
        write_report(tmp_path)
    with pytest.raises(Refused, match="none of the 15 runs"):
        write_report(study(tmp_path, {}))
    (tmp_path / "records.jsonl").write_text('{"run": "a')
    with pytest.raises(Refused, match="not readable"):
        write_report(tmp_path)


HOSTILE = [
    "=1+1",
    "<script>alert(1)</script>",
    "a|b",
    "x\x1b[31m",
    "\\input{x}",
    "two\nlines",
    "100 % & $5_{}",
    "[l](javascript:x)",
    "e\u0301 Łódź Größe 10 µs <= ²",
    '*~^\\[2em] \\end{tabular} é ü Ł 中 \u202e “q” | "',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_harmless(text):
    columns, rows = (Column("name", "name"), Column("value", "value", "{:.1f}")), [{"name": text, "value": 1.25}]
    cell = next(itertools.islice(csv.reader(io.StringIO(as_csv(rows, columns, ""))), 1, None))[0]
    assert cell == ("'" + text if text[0] in "=+-@" else printable(text))
    shown = as_markdown(rows, columns, "")
    assert "<script" not in shown
    assert len(shown.splitlines()) == 3
    assert shown.splitlines()[2].replace("\\|", "").count("|") == 3
    assert "\x1b" not in shown + as_table(rows, columns, text) + as_latex(rows, columns, text)
    assert "\\input" not in as_latex(rows, columns, "")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (Debian's texlive-latex-recommended)")
def test_latex_compiles(tmp_path):
    labels = dict(zip(("a", "b", "c", "side", "d"), HOSTILE[3:8], strict=True))
    found = load(study(tmp_path, VALUES, labels=labels))
    columns = (Column("name", "[name]"), Column("value", "v_%", "{:.1f}"))
    tables = as_latex([{"name": text, "value": 1.25} for text in HOSTILE], columns, "two\nlines \\input{x}")
    page = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n%s\n\\end{document}\n"
    (tmp_path / "page.tex").write_text(page % (latex(Report.of(found)) + "\n\n" + tables))
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "page.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert "Overfull" not in log


def test_a_hostile_study_is_harmless_in_every_file(tmp_path, capsys):
    """Names of rows, sections, recipe, data, scale and machines, through the whole report."""
    bad = "\x1b]0;x\x07<img src=x onerror=alert(1)> $x ` =1"

    def change(lines):
        for line in lines:
            line.update(device=bad + line["run"], versions={"torch": bad + line["run"]})

    folder = study(tmp_path, VALUES, labels=dict.fromkeys("abcd", bad), change=change)
    about = json.loads((folder / "study.json").read_text())
    about.update(question=bad, recipe=bad, data=bad, scale={"name": bad, "start": bad, "end": bad})
    about["rows"][1]["group"] = bad
    (folder / "study.json").write_text(json.dumps(about))
    _, said = write_report(folder)
    texts = {path.name: path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".csv", ".tex", ".svg")}
    assert {"table.md", "table.csv", "table.tex", "effects.csv", "figure.svg", "effects.svg", "cost.svg"} <= texts.keys()
    assert not [name for name, text in {**texts, "terminal": said}.items() if "\x1b" in text or "\x07" in text]
    assert "<img" not in texts["table.md"]
    for name in ("figure.svg", "effects.svg", "cost.svg", "throughput.svg"):
        assert "img" not in {node.tag.split("}")[1] for node in ET.parse(folder / name).iter()}


def test_frame(tmp_path):
    table = frame(study(tmp_path, VALUES))
    assert list(table["step"]) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["side"] * 3 + ["d"] * 3
    assert table.groupby("step")["top1"].mean()["d"] == 71.0


def digits_scored(folder, score):
    """The digits study with this top-1 in every run."""
    for name in ("study.json", "records.jsonl"):
        shutil.copy(DIGITS / name, folder)
    with editing(folder) as lines:
        for line in lines:
            line["scores"] = {"top1": score}
    return Report.read(folder)


def test_runs_that_all_score_the_same_agree_with_nothing(tmp_path):
    said = markdown(digits_scored(tmp_path, 10.084))
    assert "nan" not in said
    assert "Agreement" not in said
    assert "At chance" in said


def test_a_study_of_which_every_run_diverged_says_why_nothing_is_resolved(tmp_path):
    said = markdown(Report.read(study(tmp_path, {name: [None] * 3 for name in VALUES})))
    assert "No row has two finished runs" in said


def test_a_letter_that_the_font_has_not_is_drawn_without_a_warning(tmp_path):
    folder = study(tmp_path, VALUES, labels={"a": "数字 🙂"})
    write_report(folder)  # pytest raises what is warned of
    assert "数字" in (folder / "table.md").read_text(encoding="utf-8")
