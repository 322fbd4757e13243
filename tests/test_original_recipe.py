"""Steps that change recipe or data, and the row before the roadmap: torchvision's first recipe."""

from __future__ import annotations

import json
import re

import pytest
from records import editing
from test_training_studies import with_recipes

from roadmap.base.errors import Refused
from roadmap.config.compose import completed, compose
from roadmap.config.identity import decisive, identity
from roadmap.config.steps import all_steps, known_steps
from roadmap.model.check import compose_run
from roadmap.model.cost import cost
from roadmap.paper.rows import paper_row
from roadmap.record.folder import RunFolder
from roadmap.report.frames import table
from roadmap.report.records import load
from roadmap.run.preflight import check_jobs
from roadmap.sweep.plan import plan
from roadmap.tracking.summary import difference_to_parent
from roadmap.tracking.wandb.run import sorting_keys

IMAGENET = ["data=imagenet", "data.path=/nowhere"]
STEPS = "study.steps=[original_recipe,all]"


def write_step(folder, name, text):
    file = folder / "step" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{text}\n")
    return [folder]


def test_it_is_torchvisions_first_recipe_line_by_line():
    """references/classification/train.py with its defaults, 8 GPUs; weights ResNet50_Weights.IMAGENET1K_V1."""
    found = compose(["+step=original_recipe", "recipe=paper", *IMAGENET])
    assert decisive(found, "f")["recipe"] == {
        "epochs": 90, "batch_size": 256, "micro_batch": 32, "sync_batchnorm": False, "ema": None,
        "optimizer": "sgd", "lr": 0.1, "lr_batch": 256, "weight_decay": 1e-4, "decay_spares": "none",  # momentum 0.9: ours too
        "schedule": "step", "warmup_epochs": 0, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "randaugment": None,
        "random_erasing": 0.0, "crop_scale": [0.08, 1.0], "interpolation": "bilinear", "initialisation": "torchvision",
        "precision": "auto", "min_lr": 1e-6, "betas": [0.9, 0.999], "eps": 1e-8, "mixup_switch_prob": 0.5,  # read by nothing here
    }  # fmt: skip
    recipe = found.recipe
    assert (recipe.momentum, recipe.nesterov, recipe.lr_factor, recipe.peak_lr) == (0.9, False, 0.1, 0.1)
    assert [round(share * 90, 9) for share in recipe.milestones] == [30, 60]
    assert (recipe.dropout, recipe.auto_augment, recipe.clip_grad, recipe.layer_decay) == (0.0, None, None, None)
    assert (found.data.image_size, found.data.hflip, found.data.crop_pct) == (224, 0.5, 0.875)
    assert found.model.drop_path == 0.0
    after = compose(["+step=resnet", "recipe=paper", *IMAGENET]).model
    assert {key for key in vars(after) if getattr(after, key) != getattr(found.model, key)} == {"drop_path"}
    assert cost(found.model).params == 25_557_032


def test_it_stands_before_the_roadmap_and_is_no_network_of_it():
    assert [name for name, step in all_steps().items() if not step.roadmap] == ["original_recipe", *known_steps()]
    assert next(iter(all_steps())) == "original_recipe"
    assert next(iter(known_steps())) == "resnet"
    first, second = compose(["+step=original_recipe"]).step, compose(["+step=resnet"]).step
    assert (first.parent, second.parent, second.group) == (None, "original_recipe", "Training")
    for scale, worth in (("tiny", 2.69), ("base", 2.94)):
        one, other = (paper_row(scale, step) for step in ("original_recipe", "resnet"))
        assert other.score - one.score == pytest.approx(worth)
    assert sorting_keys(RunFolder.of(compose(["+step=resnet"]), "f").path, "original_recipe", None)["step_index"] == -1
    assert sorting_keys(RunFolder.of(compose(["+step=resnet"]), "f").path, "resnet", "original_recipe")["step_index"] == 0


@pytest.mark.parametrize("recipe", ["paper", "short", "smoke"])
def test_the_recipe_that_is_chosen_is_that_of_the_roadmap(recipe):
    """`resnet` comes after a step that changes the recipe, and knows nothing of it."""
    said = compose([f"recipe={recipe}", "+step=resnet"]).recipe
    assert said == compose([f"recipe={recipe}", "+step=gelu"]).recipe
    assert said.name == recipe
    assert "optimizer" not in decisive(compose([f"recipe={recipe}", "+step=resnet"]), "f")["recipe"]


def test_length_and_batches_are_those_that_are_chosen_but_for_the_papers():
    def budget(*words):
        recipe = compose(["+step=original_recipe", *words]).recipe
        assert recipe.optimizer == "sgd"
        return recipe.epochs, recipe.batch_size, recipe.micro_batch

    assert budget("recipe=paper") == (90, 256, 32)
    assert budget("recipe=short") == budget() == (20, 128, None)
    assert budget("recipe=smoke") == (2, 64, None)
    assert budget("+study=digits") == (3, 32, None)
    assert budget("recipe=paper", "recipe.epochs=5") == (5, 256, 32)
    assert compose(["+step=original_recipe", "recipe.lr=0.5"]).recipe.lr == 0.5
    assert compose(["+step=original_recipe", "+study=digits"]).recipe.lr == 0.1  # the study's is for AdamW


def test_a_studys_own_recipe_gives_the_step_its_own_too(tmp_path):
    study = tmp_path / "study" / "long.yaml"
    study.parent.mkdir()
    study.write_text(
        "# @package _global_\ndefaults: [override /recipe: paper, _self_]\nstudy: {name: long}\nrecipe: {epochs: 30}\n"
    )
    recipe = compose(["+study=long", "+step=original_recipe"], [tmp_path]).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (30, 256, "sgd")
    assert completed(["+study=long", "+step=gelu"], [tmp_path]) == ["+study=long", "+step=gelu"]


def test_a_tasks_own_recipe_gives_the_step_its_own_too(tmp_path):
    own = tmp_path / "step" / "brief"
    own.mkdir(parents=True)
    own.with_suffix(".yaml").write_text("# @package _global_\ndefaults: [gelu, _self_]\nrecipe: {weight_decay: 0.01}\n")
    (own / "dense_short.yaml").write_text("epochs: 3\n")
    assert compose(["+step=brief", "task=detection"], [tmp_path]).recipe.epochs == 3
    assert compose(["+step=brief"], [tmp_path]).recipe.epochs == 20
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "found.yaml").write_text("# @package _global_\ndefaults:\n  - override /task: detection\n  - _self_\n")
    assert compose(["+study=found", "+step=brief"], [tmp_path]).recipe.epochs == 3


def test_a_sweep_of_what_has_settings_of_its_own_is_refused_and_others_are_not():
    with pytest.raises(Refused, match=r"\+step=original_recipe: cannot be swept beside recipe=paper"):
        completed(["+step=original_recipe,resnet", "recipe=paper"])
    with pytest.raises(Refused, match="run it alone"):
        completed(["+step=original_recipe", "recipe=short,paper"])
    swept = ["+step=original_recipe,resnet", "recipe=short"]
    assert completed(swept) == swept
    check_jobs([*swept, "scale=atto"], [], multirun=True)


# --- studies ---------------------------------------------------------------------------------------------------------


def test_a_study_has_it_where_it_is_asked_for(tmp_path):
    asked = plan(["+study=digits", STEPS, f"output={tmp_path}"])
    plain = plan(["+study=digits", f"output={tmp_path}"])
    assert [*asked.rows] == ["original_recipe", *plain.rows]
    assert len(plain.rows) == 16
    for row, points in plain.rows.items():  # the same runs, with the same identities
        assert [point.folder.path for point in asked.rows[row]] == [point.folder.path for point in points]
    found, without = asked.study_plan(), plain.study_plan()
    assert (found.row("resnet").variant.parent, without.row("resnet").variant.parent) == ("original_recipe", None)
    assert (found.row("resnet").variant.group, without.row("resnet").variant.group) == ("Training", "")
    assert (found.epochs, found.recipe) == (3, "short")
    assert found.effects[0].weights == {"resnet": 1.0, "original_recipe": -1.0}
    assert {"drop_path", "recipe.optimizer", "recipe.schedule", "recipe.lr"} < set(found.row("resnet").toggles)
    assert without.row("resnet").toggles == ()
    assert all("." not in toggle for row in found.rows[2:] for toggle in row.toggles)
    for kind in ("leave_one_out", "add_one_in"):
        rows = plan([f"+study={kind}", "scale=atto", f"output={tmp_path}"]).rows
        assert not any("original" in row for row in rows)


def test_the_committed_studys_plan_is_what_it_was(tmp_path):
    committed = json.loads((compose.__globals__["CONF"].parent / "experiments/digits/study.json").read_text())
    plan(["+study=digits", f"output={tmp_path}"]).write()
    assert json.loads((tmp_path / "digits" / "study.json").read_text())["rows"] == committed["rows"]


def test_the_command_of_a_run_gives_its_settings_again(tmp_path):
    found = plan(["+study=roadmap", "study.steps=[original_recipe,resnet]", "recipe=paper", "recipe.batch_size=64",
                  "recipe.micro_batch=32", f"output={tmp_path}"])  # fmt: skip
    for point in found.points:
        again = compose_run([word for word in point.command if "=" in word])
        assert identity(again, "f") == identity(point.experiment, "f")
    assert found.first.recipe.epochs == 300
    assert found.rows["original_recipe"][0].experiment.recipe.epochs == 90


def test_a_row_whose_update_has_more_images_than_there_are_is_refused(tmp_path):
    write_step(tmp_path, "bulk", "defaults: [gelu, _self_]\nrecipe: {batch_size: 2048}")
    with pytest.raises(Refused, match=r"recipe\.batch_size=2048"):
        plan(["+study=digits", "study.steps=[gelu,bulk]", f"output={tmp_path}"], [tmp_path])


@pytest.fixture
def found(tmp_path):
    found = plan(["+study=digits", "study.steps=[original_recipe,resnet,stage_ratio]", "study.seeds=[0,1]", f"output={tmp_path}"])
    with_recipes(found, {"original_recipe": [60, 61], "resnet": [80, 82], "stage_ratio": [81, 82]})
    with editing(found.folder) as lines:
        for line in lines:
            line["pipeline"] = "loader" if "original" in line["run"] else "device"
    return found


def test_rows_differ_in_what_is_declared(found):
    rows = table(found.folder).set_index("step")
    assert rows.loc["resnet", "delta_top1"] == pytest.approx(20.5)
    assert rows.loc["resnet", "paper_delta"] == pytest.approx(2.69)
    assert rows.loc["original_recipe", "paper_top1"] == 76.13


@pytest.mark.parametrize(
    ("run", "room", "key", "value", "says"),
    [
        ("original", "recipe", "epochs", 4, "recipe differs between .*epochs: 3 and 4"),
        ("stage_ratio", "recipe", "lr", 1.0, r"may differ in depths; they have recipe\.lr: 1\.0 and 0\.002"),
        ("resnet-s1", "recipe", "lr", 1.0, r"may differ in nothing; they have recipe\.lr"),
        ("original", "data", "image_size", 64, "data differs"),
        ("original", "model", "kernel_size", 5, r"they have model\.kernel_size"),
    ],
)
def test_and_in_nothing_else(found, run, room, key, value, says):
    with editing(found.folder) as lines:
        for line in lines:
            if run in line["run"]:
                line[room][key] = value
    with pytest.raises(Refused, match=says):
        load(found.folder)


def test_runs_of_two_pipelines_are_compared_only_where_one_has_no_choice(found):
    load(found.folder)
    with editing(found.folder) as lines:
        lines[-1]["pipeline"] = "loader"
    with pytest.raises(Refused, match="pipeline differs"):
        load(found.folder)


def test_a_run_is_shown_beside_the_one_that_its_row_is_compared_with(found):
    study = load(found.folder)
    for points in found.rows.values():
        for point in points:
            point.folder.path.mkdir(parents=True)
            result = study.results[point.folder.path.name]
            with point.folder.claimed() as mine:
                mine.write_result(result)
    found.write()
    (resnet, _) = found.rows["resnet"]
    result = study.results[resnet.folder.path.name]
    assert difference_to_parent(resnet.folder, result) == result.score - 60


# --- steps of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [gelu, _self_]\nrecipe: {label_smoothing: 0.0}",
        "defaults: [gelu, _self_]\ndata: {image_size: 48}",
        "defaults: [original_recipe, _self_]\nrecipe: {schedule: cosine}",
    ],
)
def test_a_step_may_change_recipe_or_data(tmp_path, text):
    folders = write_step(tmp_path, "mine", text)
    found = compose_run(["+step=mine"], folders)
    assert found.step.parent in ("gelu", "original_recipe")
    rows = plan(["+study=digits", f"study.steps=[{found.step.parent},mine]", f"output={tmp_path}"], folders).study_plan().rows
    changed = re.findall(r"\{(\w+):", text)[0]
    assert rows[1].toggles == (f"{'data' if 'data' in text else 'recipe'}.{changed}",)


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [gelu, _self_]\nrecipe: {label_smoothing: 0.1}",  # as it is
        "defaults: [gelu, _self_]\nrecipe: {momentum: 0.5}",  # AdamW does not read it
        "defaults: [original_recipe, _self_]\nrecipe: {betas: [0.9, 0.95]}",
        "defaults: [gelu, _self_]\nrecipe: {name: mine}",
        "defaults: [gelu, _self_]\ndata: {workers: 3}",
    ],
)
def test_a_step_must_act_on_network_recipe_or_data(tmp_path, text):
    folders = write_step(tmp_path, "mine", text)
    with pytest.raises(Refused, match=r"step 'mine' leaves the network of its parent .* as it was .*, its recipe and data too"):
        compose_run(["+step=mine"], folders)


def test_whether_a_step_acts_is_asked_under_the_recipe_that_is_chosen(tmp_path):
    folders = write_step(tmp_path, "erase", "defaults: [gelu, _self_]\nrecipe: {random_erasing: 0.25}")
    compose_run(["+step=erase", "recipe=short"], folders)
    with pytest.raises(Refused, match="at scale tiny with recipe=paper"):
        compose_run(["+step=erase", "recipe=paper"], folders)


@pytest.mark.parametrize("text", ["step: {before: gelu}", "defaults: [gelu, _self_]\nstep: {before: gelu}",
                                  "defaults: [resnet, _self_]\nstep: {before: resnet}"])  # fmt: skip
def test_only_one_step_stands_before_the_first(tmp_path, text):
    folders = write_step(tmp_path, "mine", text)
    with pytest.raises(Refused, match=r"before=\w+: must be its parent, a step without parent"):
        compose(["+step=gelu"], folders)
