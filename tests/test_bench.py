"""The bench: both sides run the same step, the arithmetic of its columns holds, and the report takes them over."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import torch
from test_report import VALUES, study
from timm.models import ConvNeXt, ResNet

from roadmap.base.errors import OutOfMemory, Refused
from roadmap.bench.__main__ import main
from roadmap.bench.measure import in_turn, spread
from roadmap.bench.timm_loop import timm_network
from roadmap.config.compose import compose
from roadmap.config.steps import known_steps
from roadmap.model.cost import cost
from roadmap.model.layout import layout
from roadmap.model.network import build_network
from roadmap.report.columns import markdown
from roadmap.report.records import load
from roadmap.report.report import Report
from roadmap.tasks.choose import builder
from roadmap.tasks.dense.cost import dense_cost

ARGUMENTS = [
    "--scale", "atto", "--image-size", "32", "--batch-size", "4", "--classes", "10", "--rounds", "2", "--seconds", "0.01",
]  # fmt: skip


def bench(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "roadmap.bench", *arguments], capture_output=True, text=True, cwd=cwd, timeout=240
    )


def test_columns_their_arithmetic_and_the_table_that_takes_them_over(tmp_path):
    done = bench(*ARGUMENTS, "--steps", "resnet,layer_norm", "--output", str(tmp_path), "--profile", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "bench.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["step"] for row in rows] == ["resnet", "layer_norm"]
    for row in rows:
        check_arithmetic(row)
    assert "geometric mean" in done.stdout
    assert "| step" in (tmp_path / "bench.md").read_text()
    assert "convolution_backward" in (tmp_path / "profile-layer_norm.txt").read_text()
    check_report(tmp_path, (tmp_path / "bench.csv").read_text())


def check_arithmetic(row):
    words = ("step", "head", "recipe", "scale", "precision", "compiled", "device")
    number = {key: float(value) for key, value in row.items() if value and key not in words}
    assert number["ours_train_least"] <= number["ours_train"] <= number["ours_train_most"]
    for name in ("timm_best", "timm_default"):
        assert number[f"ratio_{name}_least"] <= number[f"ratio_{name}"] <= number[f"ratio_{name}_most"]
        assert number[f"{name}_train"] > 0
    for key in ("ours_inference", "ours_latency_ms", "timm_best_inference"):
        assert number[key] > 0
    model = compose([f"+step={row['step']}", "scale=atto"]).model
    assert number["gmacs"] == pytest.approx(cost(model, 10, 32).conv_linear / 1e9)
    assert number["share_of_peak"] == pytest.approx(6 * number["gmacs"] * number["ours_train"] / number["peak_tflops"] / 1e3)


def check_report(folder, measured):
    (folder / "bench.csv").unlink()
    study(folder, VALUES)
    plain = markdown(Report.of(load(folder)))
    (folder / "bench.csv").write_text(measured.replace("\nresnet,", "\na,").replace("\nlayer_norm,", "\nd,"))
    found = load(folder)
    rows = {row["label"]: row for row in Report.of(found).rows}
    assert rows["a"]["ours_train"] > 0
    assert rows["b"]["ours_train"] is None
    assert Report.of(found).rows[0]["ours_latency_ms"] == rows["a"]["ours_latency_ms"]
    table = markdown(Report.of(found))
    assert "training, img/s" in table
    assert "training, img/s" not in plain
    assert "Speeds are those of bench.csv: CPU" in table
    plain_file = (folder / "bench.csv").read_text()
    (folder / "bench.csv").write_text(plain_file.replace(",none,paper,", ",upernet,ade20k_160k,"))
    with pytest.raises(Refused, match="measured with head upernet; the study is scored by top-1"):
        load(folder)
    (folder / "bench.csv").write_text(plain_file)
    about = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**about, "image_size": 64}))
    with pytest.raises(Refused, match="measured at scale atto, 32 px; the study is at scale atto, 64 px"):
        load(folder)


@pytest.mark.parametrize(
    ("head", "size", "longer"), [("mask_rcnn", 64, 102), ("cascade_mask_rcnn", 64, 102), ("upernet", 64, 64)]
)
def test_a_head_is_measured_on_its_steps(head, size, longer, tmp_path, monkeypatch):
    arguments = [
        "--task",
        head,
        "--recipe",
        "dense_short",
        "--scale",
        "atto",
        "--image-size",
        size,
        "--classes",
        "3",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    quick = ["--rounds", "1", "--seconds", "0.01", "--threads", "1", "--steps", "inverted_bottleneck", "--output", tmp_path]
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments + quick)])
    assert main() == 0
    (row,) = csv.DictReader((tmp_path / "bench.csv").read_text().splitlines())
    assert (row["head"], row["compiled"]) == (head, "none")
    task = "segmentation" if head == "upernet" else "detection"
    chosen = compose(["+step=inverted_bottleneck", "scale=atto", f"task={task}", f"head={head}", "recipe=dense_short"])
    macs = dense_cost(builder(chosen.head.name), chosen.model, None, chosen.head, 3, (size, longer)).macs
    number = {key: float(row[key]) for key in ("gmacs", "ours_train", "peak_tflops", "share_of_peak", "ours_inference")}
    assert number["gmacs"] == pytest.approx(macs / 1e9)
    assert number["share_of_peak"] == pytest.approx(6 * macs * number["ours_train"] / number["peak_tflops"] / 1e12)
    assert number["ours_inference"] > number["ours_train"] > 0
    assert f"{head} of dense_short, {longer} x {size} px" in (tmp_path / "bench.md").read_text()
    assert "timm_best_train" not in row
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, ["--scale", "atto", "--image-size", size, *quick, "--resume"])])
    with pytest.raises(Refused, match=f"was measured with head {head}, not none"):
        main()


def test_what_cannot_be_measured_ends_in_one_sentence(tmp_path, monkeypatch):
    def no_room(*_):
        raise RuntimeError("CUDA error: out of memory\nand so on")

    monkeypatch.setattr("roadmap.bench.step.measure", no_room)
    line = ["bench", "--scale", "atto", "--steps", "gelu", "--batch-size", "1000", "--device", "cpu", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(OutOfMemory, match=r"^gelu: no room for --batch-size 1000: CUDA error: out of memory$"):
        main()
    (tmp_path / "bench.csv").touch()
    monkeypatch.setattr(sys, "argv", [*line, "--resume"])
    with pytest.raises(Refused, match=r"--resume: \S*bench\.csv cannot be read"):
        main()


def test_contenders_take_turns():
    order = []
    in_turn({name: lambda name=name: order.append(name) for name in "ab"}, torch.device("cpu"), 3, 0.0)
    assert "".join(order) == "ab" + "ab" * 3
    assert spread("speed", [3.0, 1.0, 2.0]) == {"speed": 2.0, "speed_least": 1.0, "speed_most": 3.0}


@pytest.mark.parametrize("step", known_steps())
def test_timm_has_the_same_step(step):
    """The same parameters, in the same number of the same shapes; timm's own model at the ends."""
    experiment = compose([f"+step={step}", "scale=tiny"])
    with torch.device("meta"):
        theirs, ours = timm_network(step, "tiny", experiment.model, 10), build_network(experiment.model, 10)
    assert isinstance(theirs, {"resnet": ResNet, "separate_downsampling": ConvNeXt}.get(step, torch.nn.Module))
    assert not any(
        type(module).__module__ == "roadmap.model.layers" and type(module).__name__ != "Block" for module in theirs.modules()
    )
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert count[0] == count[1]
    assert layout(experiment.model)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--against", "timm_bset"], "timm_best"),
        (["--rounds", "0"], "at least 1"),
        (["--steps", "gelu,nope"], "nope"),
        (["--image-size", "8"], "data.image_size=8"),
        (["--device", "tpu"], "'tpu' (choose from 'auto', 'cpu', 'cuda')"),
        (["--output", "/proc/of/nobody"], "--output /proc/of/nobody: /proc is not a folder"),
        (["--batch-size", "1"], "at least 2"),
        (["--task", "upernet", "--against", "timm_best"], "--against timm_best: not with --task upernet"),
        (["--task", "mask_rcnn", "--data", "photographs"], "--data photographs: not with --task mask_rcnn"),
        (["--task", "mask_rcnn", "--compile", "blocks"], "runtime.compile=blocks: must be auto or none with task=detection"),
        (["--recipe", "dense_short"], "--recipe dense_short: with --task alone"),
        (["--task", "mask"], "'mask' (choose from 'none', 'mask_rcnn'"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, says, tmp_path):
    done = bench("--output", str(tmp_path / "out"), *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "out").exists()
