"""The step beyond the paper: ConvNeXt V2. Its weights against timm's are in `test_model.py`, its tracing in `test_export.py`."""

from __future__ import annotations

import csv
import io
import sys

import pytest
import torch
from test_studies import recorded

from roadmap import cost
from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.identity import decisive, differences, plain
from roadmap.config.schema import Spared
from roadmap.config.steps import all_steps, known_steps, networks
from roadmap.model.cost import cost as counted
from roadmap.model.front import build_model
from roadmap.model.layers import LayerScale, ResponseNorm2d
from roadmap.paper.rows import paper_row
from roadmap.report.frames import table
from roadmap.report.notes import notes
from roadmap.report.statistics import analyse
from roadmap.sweep.plan import plan
from roadmap.train.recipe import spared_by_name

ENDS = "study.steps=[separate_downsampling,grn]"


def write_step(folder, name, text):
    file = folder / "step" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{text}\n")


def test_it_is_no_row_of_the_roadmap_unless_it_is_asked_for(tmp_path):
    plain_rows = plan(["+study=digits", f"output={tmp_path}"])
    asked = plan(["+study=digits", "study.steps=[all,grn]", f"output={tmp_path}"])
    assert [*asked.rows] == [*plain_rows.rows, "grn"]
    assert len(plain_rows.rows) == 16
    for row, points in plain_rows.rows.items():  # the same runs, with the same identities
        assert [point.folder.path for point in asked.rows[row]] == [point.folder.path for point in points]
    row = asked.study_plan().row("grn")
    assert (row.variant.parent, row.variant.group, row.variant.adopted) == ("separate_downsampling", "Beyond the Paper", True)
    assert set(row.toggles) == {"block_part", "layer_scale"}
    left_out = plan(["+study=leave_one_out", "study.steps=[grn]", "scale=atto", "data=digits", f"output={tmp_path}"])
    assert [*left_out.rows] == ["grn", "without_grn"]
    assert left_out.study_plan().row("without_grn").toggles == ("layer_scale", "block_part")


def test_what_builds_on_it_is_beyond_the_roadmap_and_what_builds_beside_it_is_not(tmp_path):
    write_step(tmp_path, "wider_grn", "defaults: [grn, _self_]\nmodel: {kernel_size: 9}")
    write_step(tmp_path, "kernel_13", "defaults: [separate_downsampling, _self_]\nmodel: {kernel_size: 13}")
    steps = all_steps(tmp_path)
    assert [name for name, step in steps.items() if step.roadmap in ("", "beyond")][-3:] == ["kernel_13", "grn", "wider_grn"]
    assert [*known_steps(tmp_path)] == [*known_steps(), "kernel_13"]
    assert [*networks(tmp_path)][-2:] == ["grn", "wider_grn"]
    assert steps["kernel_13"].adopted
    built = compose(["+step=wider_grn"], [tmp_path])
    assert (built.model.block_part, built.step.roadmap, built.step.parent) == ("grn", "beyond", "grn")


def test_its_toggle_leaves_identities_as_they_were():
    end, beyond = compose(["+step=separate_downsampling"]), compose(["+step=grn"])
    assert "block_part" not in decisive(end, "f")["model"]
    assert decisive(beyond, "f")["model"]["block_part"] == "grn"
    assert differences(plain(end.model), plain(beyond.model)) == ["block_part: None / grn", "layer_scale: 1e-06 / None"]


def test_response_norm_is_the_papers_formula_and_changes_nothing_at_first():
    torch.manual_seed(0)
    norm, x = ResponseNorm2d(6), torch.randn(3, 6, 4, 5)
    assert torch.equal(norm(x), x)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    for image, out in zip(x, norm(x), strict=True):
        norms = [channel.square().sum().sqrt() for channel in image]
        mean = sum(norms) / 6
        for i in range(6):
            expected = norm.weight[i] * (image[i] * norms[i] / (mean + 1e-6)) + norm.bias[i] + image[i]
            torch.testing.assert_close(out[i], expected)
    assert torch.autograd.gradcheck(norm.double(), x[:1].double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_response_norm_sums_in_float32_and_keeps_type_and_format(dtype):
    norm, x = ResponseNorm2d(4), torch.full((1, 4, 64, 64), 8.0)
    torch.nn.init.ones_(norm.weight)
    x[:, 1] = 16.0  # its squares sum to 2^20: infinite in float16
    low = x.to(dtype, memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype):
        out = norm(low)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.float(), norm(x), rtol=0.02, atol=0.0)


def test_layer_scale_is_out_and_every_block_has_its_norm():
    network = build_model("grn", "atto")
    norms = [module for module in network.modules() if isinstance(module, ResponseNorm2d)]
    assert [norm.weight.numel() for norm in norms] == [160] * 2 + [320] * 2 + [640] * 6 + [1280] * 2
    assert not any(isinstance(module, LayerScale) for module in network.modules())
    part = {f"stages.0.blocks.0.branch.1.part.{leaf}" for leaf in ("weight", "bias")}
    assert part < spared_by_name(Spared.norm_bias, network)


def test_its_cost_is_the_end_of_the_roadmaps_and_two_passes_over_what_it_normalises():
    for scale in ("tiny", "base"):
        end, beyond = (counted(compose([f"scale={scale}", f"+step={step}"]).model) for step in ("separate_downsampling", "grn"))
        row = paper_row(scale, "grn")
        assert (beyond.params, round(beyond.conv_linear / 1e9, 4)) == (row.params, row.gmacs)
        assert (beyond.conv_linear, beyond.activations) == (end.conv_linear, end.activations)
    stages = zip((3, 3, 27, 3), (128, 256, 512, 1024), (56, 28, 14, 7), strict=True)
    assert beyond.by_operator["response_norm"] == sum(2 * depth * 4 * width * side**2 for depth, width, side in stages)


def test_the_cost_table_has_it_where_it_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cost", "--scale", "atto", "--format", "csv", "--steps", "grn,gelu"])
    assert cost.main() == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["step"], row["note"]) for row in rows] == [("gelu", ""), ("grn", "beyond the paper")]
    assert float(rows[1]["gmacs_norm"]) > 0.009
    monkeypatch.setattr(sys, "argv", ["cost", "--steps", "all,gnr"])
    with pytest.raises(Refused, match=r"--steps: there is no network 'gnr'.*Did you mean 'grn'"):
        cost.main()


def test_the_table_has_its_published_number_and_no_difference_across_papers(tmp_path):
    planned = plan(["+study=digits", ENDS, "study.seeds=[0,1]", f"output={tmp_path}"])
    study = recorded(planned, {"separate_downsampling": [90.0, 91.0], "grn": [91.0, 93.0]})
    rows = {row["step"]: row for row in table(planned.folder).to_dict("records")}
    assert (rows["grn"]["paper_top1"], rows["separate_downsampling"]["paper_top1"]) == (82.5, 81.97)
    assert rows["grn"]["paper_delta"] is None
    assert any("ConvNeXt V2 trained supervised" in note for note in notes(study, analyse(study)))
