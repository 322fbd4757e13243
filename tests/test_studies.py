"""Studies as data: which networks they train, which differences they ask for, and what they share."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from conftest import QUICK
from records import editing, made, write

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.identity import decisive, plain
from roadmap.model.cost import cost_of
from roadmap.model.layout import layout
from roadmap.model.network import network_of
from roadmap.record.folder import RunFolder
from roadmap.report.columns import markdown
from roadmap.report.records import load
from roadmap.report.report import Report
from roadmap.report.statistics import analyse
from roadmap.run.preflight import cost_of_run
from roadmap.sweep.design import orders
from roadmap.sweep.earlier import check_folder
from roadmap.sweep.plan import plan
from roadmap.sweep.preview import preview
from roadmap.tracking.summary import difference_to_parent

CHANGES = [
    "stage_ratio", "patchify_stem", "depthwise", "increase_width", "inverted_bottleneck", "move_up_depthwise", "kernel_7",
    "gelu", "fewer_activations", "fewer_norms", "layer_norm", "separate_downsampling",
]  # fmt: skip


def planned(name, *overrides):
    return plan([f"+study={name}", "scale=atto", "recipe=short", *overrides])


def model(found, row):
    return found.rows[row][0].experiment.model


@pytest.fixture(scope="module")
def ends():
    return [compose(["scale=atto", f"+step={step}"]).model for step in ("resnet", "separate_downsampling")]


def test_leave_one_out_takes_each_change_back_and_nothing_else(ends):
    found = planned("leave_one_out")
    assert [*found.rows] == ["separate_downsampling", *(f"without_{name}" for name in CHANGES)]
    assert [variant.label for variant in found.design.variants][:2] == ["the whole network", "without stage ratio"]
    start, end = ends
    taken_back = []
    for name in CHANGES:
        row = model(found, f"without_{name}")
        differs = [f.name for f in dataclasses.fields(row) if getattr(row, f.name) != getattr(end, f.name)]
        assert differs
        assert all(getattr(row, key) == getattr(start, key) for key in differs)
        taken_back += differs
    assert len(taken_back) == len(set(taken_back))  # no toggle belongs to two changes
    assert model(found, "without_kernel_7").kernel_size == 3
    both = dataclasses.replace(end, **{key: getattr(start, key) for key in taken_back})
    assert layout(both) == layout(start)  # and all together they are the whole way


def test_add_one_in_sets_each_change_alone(ends):
    found = planned("add_one_in")
    start, end = ends
    for name in CHANGES:
        row = model(found, f"only_{name}")
        differs = [f.name for f in dataclasses.fields(row) if getattr(row, f.name) != getattr(start, f.name)]
        assert differs
        assert all(getattr(row, key) == getattr(end, key) for key in differs)
    assert {variant.parent for variant in found.design.variants} == {None, "resnet"}


def test_at_scale_base_the_width_belongs_to_one_change():
    found = plan(["+study=leave_one_out", "scale=base"])
    assert model(found, "without_increase_width").width == 64
    assert model(found, "without_stage_ratio").width == 128
    assert model(found, "without_stage_ratio").depths == [3, 24, 36, 3]


def test_only_the_steps_that_are_named():
    found = planned("leave_one_out", "study.steps=[gelu,kernel_7]")
    assert [*found.rows] == ["separate_downsampling", "without_kernel_7", "without_gelu"]
    with pytest.raises(Refused, match=r"study.steps=\['kernel_5'\]: none of them changes a toggle for good"):
        planned("leave_one_out", "study.steps=[kernel_5]")
    with pytest.raises(Refused, match="no step 'gelo'"):
        planned("interactions", "study.steps=[gelo]")
    found = planned("roadmap", "study.steps=[patchify_stem,gelu,kernel_9]")  # each against the nearest before it that is there
    assert {variant.name: variant.parent for variant in found.design.variants} == {
        "patchify_stem": None,
        "kernel_9": "patchify_stem",
        "gelu": "patchify_stem",
    }
    assert "kernel_size" in found.study_plan().rows[2].toggles


def test_orders_come_with_their_reverses():
    found = orders("abcd", 6)
    assert len(found) == 6
    assert all(sorted(order) == list("abcd") for order in found)
    assert all(found[i + 1] == tuple(reversed(found[i])) for i in (0, 2, 4))
    assert found == orders("abcd", 6)
    with pytest.raises(Refused, match=r"study\.orders=5: must be an even number"):
        planned("orderings", "study.orders=5")


def test_shapley_values_of_a_known_game_and_sets_are_trained_once(tmp_path, ends):
    """Accuracy is a sum over changes and an interaction of two, which it shares between them."""
    found = planned("orderings", "study.steps=[patchify_stem,gelu,layer_norm]", "study.orders=400", f"output={tmp_path}")
    assert len(found.rows) == 8  # all sets of three
    assert len(found.points) == 16
    assert layout(model(found, "resnet")) == layout(ends[0])
    worth = {"patchify_stem": 1.0, "gelu": 2.0, "layer_norm": -0.5}

    def accuracy(row):
        names = set(row.split("+")) & worth.keys()
        return 50 + sum(worth[name] for name in names) + 3.0 * ({"gelu", "layer_norm"} <= names)

    shifts = (-0.001, 0.001)  # two seeds with next to no noise
    analysis = analyse(recorded(found, {row: [accuracy(row) + shift for shift in shifts] for row in found.rows}))
    values = {estimate.effect.name: estimate.value for estimate in analysis.estimates}
    assert values == pytest.approx({"patchify_stem": 1.0, "gelu": 3.5, "layer_norm": 1.0})  # all six orders, each once
    assert sum(values.values()) == pytest.approx(accuracy("patchify_stem+gelu+layer_norm") - 50)
    assert all(estimate.half_width < 0.01 for estimate in analysis.estimates)  # which orders were drawn adds no doubt


def test_few_orders_leave_a_doubt_that_all_do_not(tmp_path):
    steps = "study.steps=[patchify_stem,depthwise,gelu,layer_norm]"
    few, every = (planned("orderings", steps, f"study.orders={n}", f"output={tmp_path}") for n in (22, 24))
    assert [len(effect.parts) for effect in few.design.effects] == [11] * 4
    assert not any(effect.parts for effect in every.design.effects)
    for effect in every.design.effects:  # of a set's size all orders' weights are alike
        alone = {row: weight for row, weight in effect.weights.items() if row == effect.name}
        assert alone == {effect.name: pytest.approx(1 / 4)}
        assert sum(effect.weights.values()) == pytest.approx(0)


def test_interactions_of_a_known_game(tmp_path):
    found = planned("interactions", "study.steps=[patchify_stem,gelu,layer_norm]", "study.seeds=[0,1]", f"output={tmp_path}")
    assert len(found.rows) == 1 + 3 + 3
    noise = np.random.default_rng(0).normal(0, 0.01, (7, 2))

    def accuracy(row):
        names = set(row.split("+"))
        return 50 + 2.0 * ("gelu" in names) - 1.0 * ("layer_norm" in names) + 4.0 * ({"gelu", "layer_norm"} <= names)

    values = {row: [accuracy(row) + noise[i, 0], accuracy(row) + noise[i, 1]] for i, row in enumerate(found.rows)}
    study = recorded(found, values)
    analysis = analyse(study)
    found_effects = {estimate.effect.name: (round(estimate.value, 1), estimate.resolved) for estimate in analysis.estimates}
    assert found_effects["gelu"] == (2.0, True)
    assert found_effects["gelu*layer_norm"] == (4.0, True)
    assert found_effects["patchify_stem*gelu"][0] == pytest.approx(0, abs=0.05)
    assert [row["label"] for row in Report.of(study).effect_rows][-1] == "ReLU → GELU x BN → LN"
    assert markdown(Report.of(study)).count("resolved") > 4


def test_equal_cost_within_one_percent():
    from roadmap.model.cost import cost

    found = planned("equal_flops", "study.steps=[resnet,depthwise,inverted_bottleneck,separate_downsampling]")
    costs = [cost(points[0].experiment.model, 10, 32).conv_linear for points in found.rows.values()]
    assert all(abs(value / costs[0] - 1) < 0.01 for value in costs)
    assert [variant.parent for variant in found.design.variants] == [None, "resnet", "depthwise", "inverted_bottleneck"]
    assert "model.width=32.5" in found.rows["depthwise"][0].command
    found = planned("equal_flops", "study.steps=[resnet,depthwise,increase_width]")  # at one cost the last two are one network
    assert found.rows["depthwise"] == found.rows["increase_width"]
    assert len(found.points) == 2 * 5
    assert [effect.name for effect in found.design.effects] == ["depthwise"]
    assert any("increase_width has the network of its parent" in warning for warning in found.warnings)


def test_equal_cost_counts_the_heads():
    found = plan(["+study=equal_flops", "study.steps=[resnet,depthwise]", "task=segmentation", "scale=atto"])
    both = [cost_of_run(points[0].experiment, [str(i) for i in range(11)]).conv_linear for points in found.rows.values()]
    assert abs(both[1] / both[0] - 1) < 0.01


def test_a_report_of_ones_own(tmp_path):
    (tmp_path / "own/study").mkdir(parents=True)
    text = """# @package _global_
study:
  name: mine
  question: Is a large kernel still worth it without LayerNorm?
  seeds: [0, 1]
  rows:
    - {name: full, step: fewer_norms, label: kernel 7}
    - {name: small, step: fewer_norms, set: [model.kernel_size=3], compare: full, label: kernel 3}
    - {name: smaller, step: fewer_norms, set: [model.kernel_size=1, model.stem=conv_pool], compare: small}
"""
    (tmp_path / "own/study/mine.yaml").write_text(text)
    found = plan(["+study=mine", "scale=atto", f"output={tmp_path}"], [tmp_path / "own"])
    assert [(point.name, point.experiment.model.kernel_size) for point in found.points] == [
        ("full-s0", 7), ("full-s1", 7), ("small-s0", 3), ("small-s1", 3), ("smaller-s0", 1), ("smaller-s1", 1),
    ]  # fmt: skip
    about = found.study_plan()
    assert [row.toggles for row in about.rows] == [(), ("kernel_size",), ("stem", "kernel_size")]
    assert [effect.weights for effect in about.effects] == [{"small": 1.0, "full": -1.0}, {"smaller": 1.0, "small": -1.0}]
    single = compose(list(found.points[2].command[2:]), [tmp_path / "own"])
    assert single == found.points[2].experiment  # its command is that run and no other
    for spoil, says in (
        ("compare: full", "compare: ful"),
        ("step: fewer_norms, set", "step: fewer_norm, set"),
        ("model.kernel_size=3", "recipe.lr=-3"),
        ("model.kernel_size=3", "recipe.name=mine"),
        ("model.kernel_size=3", "data.held_out=0.1"),
        ("model.kernel_size=3", "recipe=paper"),
        ("model.kernel_size=3", "model.kernelsize=3"),
        ("model.kernel_size=3", "model.kernel_size=4"),
        ("model.kernel_size=3", "model.norm=instance"),
        ("name: small,", "name: full,"),
    ):
        (tmp_path / "own/study/mine.yaml").write_text(text.replace(spoil, says))
        with pytest.raises(Refused):
            plan(["+study=mine", "scale=atto", f"output={tmp_path}"], [tmp_path / "own"])


def test_references_stand_beside_the_steps(tmp_path):
    """Swin as the paper has it: costed by torch, in the table with the paper's number, in no effect and not in the noise."""
    swin = "swin_tiny_patch4_window7_224"
    settings = ["study.steps=[resnet,gelu]", "study.seeds=[0,1,2]", f"output={tmp_path}", "data.image_size=32"]
    found = planned("roadmap", *settings, f"study.references=[{swin}]")
    assert list(found.rows) == ["resnet", "gelu", swin]
    assert f"reference={swin}" in found.rows[swin][0].command
    assert not any(word.startswith("+step") for word in found.rows[swin][0].command)
    assert f"{swin}" in preview(found, found.points)
    values = {"resnet": [50.0, 51.0, 52.0], "gelu": [60.0, 61.1, 62.0], swin: [10.0, 90.0, 40.0]}
    study, alone = recorded(found, values), planned("roadmap", *settings)
    without = recorded(alone, values)
    assert [e.effect.name for e in analyse(study).estimates] == [e.effect.name for e in analyse(without).estimates]
    assert analyse(study).estimates == analyse(without).estimates
    assert analyse(study).measured.deviation == analyse(without).measured.deviation
    (line,) = [line for line in markdown(Report.of(study)).splitlines() if "swin" in line]
    assert "(reference)" in line
    assert "81.30" in line


def test_a_reference_has_the_study_s_stochastic_depth_whatever_timm_s_own_is():
    for rate in (0.0, 0.3):
        experiment = compose(["reference=swin_tiny_patch4_window7_224", f"model.drop_path={rate}"])
        network = network_of(experiment.model, experiment.reference, 10, experiment.data.image_size)
        drawn = [module.drop_prob for module in network.modules() if hasattr(module, "drop_prob")]
        assert max(drawn, default=0.0) == pytest.approx(rate)


def test_a_reference_in_a_file_takes_no_step_s_place(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text("# @package _global_\nreference: resnet10t\nstudy: {name: mine}\n")
    with pytest.raises(Refused, match="set in a file"):
        compose(["+study=mine", "+step=gelu"], [tmp_path])


def test_the_cost_of_the_paper_s_references():
    for name, gmacs in (("swin_tiny_patch4_window7_224", 4.49), ("swin_base_patch4_window7_224", 15.43)):
        experiment = compose([f"reference={name}", "data.image_size=224", "data=folder", "data.path=."])
        assert round(cost_of(experiment.model, experiment.reference, 1000, 224).conv_linear / 1e9, 2) == gmacs


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["study.references=[swin_tiny]"], "no such model; it has "),
        (["study.references=[vgg11]"], "does not build it with drop_path_rate=0.1"),
        (["study.references=['hf_hub:a/b']"], "letters, digits and _"),
        (["study.references=[resnet18,resnet18]"], "a name of its own"),
        (["reference=resnet18"], "a study names its references in study.references"),
    ],
)
def test_references_that_cannot_be_trained_are_refused(overrides, said):
    with pytest.raises(Refused, match=re.escape(said)):
        planned("roadmap", "study.steps=[resnet]", *overrides)


def test_a_run_of_another_study_is_taken_over(tmp_path):
    """Both ends of the roadmap are rows of other studies too."""
    settings = [*QUICK, "study.seeds=[0]", f"output={tmp_path}"]
    (point,) = plan(["+study=roadmap", *settings, "study.steps=[resnet]"]).points
    result = made(point.folder.path.name, 50.0, study="roadmap", seconds=1.0)
    with point.folder.claimed() as mine:
        mine.write_config(point.experiment)
        mine.add_epoch({"epoch": 0, "top1": 50.0})
        mine.write_result(result)
    found = plan(["+study=add_one_in", *settings, "study.steps=[gelu]"])
    assert "1 in another study" in preview(found, found.points)
    assert [p.reuse_result() for p in found.points] == [True, False]
    taken = found.points[0].folder
    assert taken.result() == dataclasses.replace(result, study="add_one_in", trained_in="roadmap")
    assert taken.history() == [{"epoch": 0, "top1": 50.0}]
    assert RunFolder(point.folder.path).result() == result
    assert not found.points[0].reuse_result()


def test_a_run_s_difference_is_to_the_row_that_the_study_compares_it_with(tmp_path):
    """While it trains, for dashboards: in a leave-one-out that is the whole network, not the step's parent."""
    found = planned("leave_one_out", "study.steps=[gelu]", "study.seeds=[0,1]", f"output={tmp_path}")
    found.write()
    (whole, _), (without, _) = found.rows["separate_downsampling"], found.rows["without_gelu"]
    result = made(without.folder.path.name, 48.0, step=without.experiment.step)
    assert difference_to_parent(without.folder, result) is None
    whole.folder.path.mkdir(parents=True)
    write(whole.folder.path, made(whole.folder.path.name, 50.0))
    assert difference_to_parent(without.folder, result) == -2.0
    assert difference_to_parent(without.folder, dataclasses.replace(result, seed=1)) is None


def test_a_finished_study_is_not_replaced_by_another(tmp_path):
    """More rows and seeds are the same study; other settings, fewer of them, and another question are not."""
    settings = ["study.name=mine", "study.steps=[kernel_7,gelu]", "study.seeds=[0,1]", f"output={tmp_path}"]
    first = planned("roadmap", *settings)
    check_folder(first)
    first.write()
    check_folder(planned("roadmap", *settings, "recipe.label_smoothing=0"))  # nothing is done yet
    for point in first.points[:3]:
        point.folder.path.mkdir(parents=True)
        run = point.experiment
        decides = {key: decisive(run, point.fingerprint)[key] for key in ("model", "data", "recipe")}
        write(point.folder.path, made(point.folder.path.name, 50.0, step=run.step, seed=run.seed, **decides))
    for same in ([], ["study.seeds=[0,1,2]"], ["study.steps=[resnet,kernel_7,gelu]"], ["runtime.threads=2"]):
        check_folder(planned("roadmap", *settings, *same))
    for other, says in (
        (["recipe.label_smoothing=0"], "3 of its 3 finished runs .* recipe.label_smoothing: 0.1 / 0.0. .*study.name=mine_2"),
        (["recipe.layer_decay=0.8"], "there / here: recipe.layer_decay: None / 0.8. "),
        (["model.kernel_size=5", "study.seeds=[4]"], "there / here: model.kernel_size: 7 / 5. "),
        (["study.seeds=[0]"], "1 of its 3 .* Not in this sweep: kernel_7 with seed 1; .* --only GLOB"),
        (["study.steps=[gelu]"], "2 of its 3 .* Not in this sweep: kernel_7 with seeds 0, 1"),
        (["study.kind=equal_flops"], "study.kind: roadmap / equal_flops"),
    ):
        with pytest.raises(Refused, match=says):
            check_folder(planned("roadmap", *settings, *other))
    check_folder(planned("roadmap", *settings, "recipe.label_smoothing=0", "study.name=another"))


def test_committed_records_are_a_finished_study_too(tmp_path):
    settings = ["study.steps=[gelu]", "study.seeds=[0]", f"output={tmp_path}"]
    found = planned("roadmap", *settings)
    recorded(found, {"gelu": [50.0]})
    check_folder(planned("roadmap", *settings))
    with pytest.raises(Refused, match="1 of its 1 finished runs"):
        check_folder(planned("roadmap", *settings, "recipe.lr=2e-3"))


def test_runs_of_one_s_own_rows_are_named_by_the_row_and_older_folders_are_found(tmp_path):
    (tmp_path / "own/study").mkdir(parents=True)
    rows = "[{name: k7, step: fewer_norms}, {name: k3, step: fewer_norms, set: [model.kernel_size=3], compare: k7}]"
    (tmp_path / "own/study/kernels.yaml").write_text(f"# @package _global_\nstudy: {{name: kernels, rows: {rows}}}\n")
    words, own = ["+study=kernels", "scale=atto", "study.seeds=[0]", f"output={tmp_path}"], [tmp_path / "own"]
    seven, three = plan(words, own).points
    assert (seven.name, three.name) == ("k7-s0", "k3-s0")
    assert three.folder.path.name.startswith("k3-s0-")
    older = three.folder.path.with_name(three.folder.path.name.replace("k3", "fewer_norms"))
    older.mkdir(parents=True)  # of a version that named it by the step
    assert [point.folder.path for point in plan(words, own).points] == [seven.folder.path, older]
    older.rename(three.folder.path)
    single = compose(["+study=kernels", "scale=atto", "+step=fewer_norms", "model.kernel_size=3", f"output={tmp_path}"], own)
    assert RunFolder.of(single, three.fingerprint).path == three.folder.path  # by hand, the same run
    with pytest.raises(Refused, match=r"study\.row=NAME is a single run's"):
        plan([*words, "study.row=k3"], own)
    with pytest.raises(Refused, match=r"study\.row='\.\./x'"):
        compose(["+step=gelu", "study.row=../x"])


def recorded(found, values):
    """The study with these results in `records.jsonl`: top-1 by row and seed."""
    found.write()
    lines = {}
    for row, points in found.rows.items():
        for point, value in zip(points, values[row], strict=True):
            lines[point.folder.path.name] = {
                "run": point.folder.path.name, "step": plain(point.experiment.step), "seed": point.experiment.seed,
                "status": "done", "top1": value, "gmacs": 0.01, "params_m": 1.0, "images_per_second": 10.0, "scale": "atto",
                "data": {}, "recipe": {}, "precision": "float32", "model": decisive(point.experiment, "")["model"],
                "history": [],
            }  # fmt: skip
    (found.folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    return load(found.folder)


def test_rows_whose_networks_differ_in_more_than_was_declared_are_refused(tmp_path):
    found = planned("leave_one_out", "study.steps=[gelu]", "study.seeds=[0]", f"output={tmp_path}")
    study = recorded(found, {row: [50.0] for row in found.rows})
    assert math.isclose(analyse(study).estimates[0].value, 0)
    with editing(found.folder) as lines:
        lines[1]["model"]["kernel_size"] = 5
    with pytest.raises(Refused, match=r"may differ in activation; they have model.kernel_size: 5 and 7"):
        load(found.folder)
