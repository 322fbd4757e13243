"""Studies of training: rows of recipe and data, the other roadmaps, steps under several recipes, published numbers."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from records import editing
from test_studies import recorded

from roadmap.base.errors import Refused
from roadmap.config import compose as composing
from roadmap.config.compose import compose, with_settings
from roadmap.config.identity import decisive, identity
from roadmap.config.steps import all_steps, known_steps
from roadmap.model.check import compose_run
from roadmap.paper.published import read_published
from roadmap.report.columns import markdown
from roadmap.report.frames import effects, table
from roadmap.report.records import load
from roadmap.report.report import Report
from roadmap.report.statistics import analyse
from roadmap.report.write import write_report
from roadmap.sweep.design import changes, set_between
from roadmap.sweep.plan import plan

TECHNIQUES = [
    "adamw", "cosine", "length", "label_smoothing", "randaugment", "mixup", "cutmix", "random_erasing", "stochastic_depth",
]  # fmt: skip
PAPER = ["data=imagenet", "data.path=/nowhere", "recipe=paper"]
DIGITS = ["+study=digits_training", "study.seeds=[0,1]"]


def own_study(folder, text):
    (folder / "study").mkdir(parents=True, exist_ok=True)
    (folder / "study" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    return [folder]


def with_recipes(found, values):
    """The study with these results by row and seed, each record with the recipe and the data of its run."""
    recorded(found, values)
    points = {point.folder.path.name: point.experiment for point in found.points}
    with editing(found.folder) as lines:
        for line in lines:
            whole = decisive(points[line["run"]], "f")
            line |= {"recipe": whole["recipe"], "data": whole["data"], "pipeline": "loader"}
    return load(found.folder)


# --- rows of one's own -----------------------------------------------------------------------------------------------

ROWS = """
study:
  name: mine
  seeds: [0, 1]
  rows:
    - {name: plain, step: gelu, label: as it is}
    - {name: hard, step: gelu, set: [recipe.label_smoothing=0], compare: plain, label: hard targets}
    - {name: half, step: gelu, set: [recipe.precision=bfloat16, data.crop_pct=0.9, model.kernel_size=3], compare: hard}
"""


def test_a_row_sets_recipe_and_data_as_a_run_does(tmp_path):
    own = own_study(tmp_path / "own", ROWS)
    found = plan(["+study=mine", "scale=atto", f"output={tmp_path}"], own)
    assert [row.toggles for row in found.study_plan().rows] == [
        (), ("recipe.label_smoothing",), ("kernel_size", "recipe.label_smoothing", "recipe.precision", "data.crop_pct"),
    ]  # fmt: skip
    for row, words in (("hard", ["recipe.label_smoothing=0"]), ("plain", [])):
        single = compose_run(["+study=mine", "scale=atto", "+step=gelu", *words], own)
        assert identity(single, "f") == identity(found.rows[row][0].experiment, "f")
    assert compose([word for word in found.rows["half"][1].command if "=" in word], own) == found.rows["half"][1].experiment


def test_rows_say_in_what_they_were_trained_otherwise(tmp_path):
    found = plan(["+study=mine", "scale=atto", f"output={tmp_path}"], own_study(tmp_path / "own", ROWS))
    study = with_recipes(found, {"plain": [80.0, 81.0], "hard": [82.0, 83.5], "half": [70.0, 71.0]})
    (note,) = [note for note in Report.of(study).notes if note.startswith("hard targets")]
    assert note == "hard targets differs from as it is in recipe.label_smoothing (0, was 0.1)."
    assert table(found.folder).set_index("step").loc["hard", "delta_top1"] == pytest.approx(2.25)
    with editing(found.folder) as lines:
        for line in lines:  # what no row declares
            line["recipe"]["weight_decay"] = 0.5 if "hard" in line["run"] else 0.05
    with pytest.raises(Refused, match=r"recipe differs.*weight_decay"):
        load(found.folder)


def test_a_row_of_another_precision_is_comparable_where_it_says_so(tmp_path):
    found = plan(["+study=mine", "scale=atto", f"output={tmp_path}"], own_study(tmp_path / "own", ROWS))
    with_recipes(found, {"plain": [80.0, 81.0], "hard": [82.0, 83.5], "half": [70.0, 71.0]})
    with editing(found.folder) as lines:
        lines[-1]["precision"] = lines[-2]["precision"] = "bfloat16"
    load(found.folder)
    with pytest.raises(Refused, match=r"data\.held_out=0\.1'\]: allowed"):
        plan(["+study=mine"], own_study(tmp_path / "own", ROWS.replace("recipe.label_smoothing=0]", "data.held_out=0.1]")))


def test_settings_are_typed_and_checked_in_every_room():
    experiment = compose(["+step=gelu"])
    said = ["recipe.optimizer=sgd", "recipe.betas=[0.8,0.9]", "recipe.randaugment=null", "data.hflip=0.25", "model.norm=layer"]
    changed = with_settings(experiment, said)
    assert changed == compose(["+step=gelu", *said])
    for wrong in ("recipe.lr=fast", "recipe.lr=-1", "data.hflip=2", "recipe.optimiser=sgd", "recipe.optimizer=adam"):
        with pytest.raises(Refused):
            with_settings(experiment, [wrong])


# --- the roadmap of training -----------------------------------------------------------------------------------------


def test_the_techniques_lead_from_the_original_recipe_to_the_one_that_is_chosen():
    def at(step, *words):
        return compose([f"+step={step}", *words])

    steps = all_steps()
    assert [name for name, step in steps.items() if step.roadmap == "training"] == TECHNIQUES
    assert [steps[name].parent for name in TECHNIQUES] == ["original_recipe", *TECHNIQUES[:-1]]
    assert all(steps[name].adopted for name in TECHNIQUES)
    assert not set(TECHNIQUES) & known_steps().keys()
    for recipe in (PAPER, ["recipe=short"], ["recipe=digits"]):
        for word in ([], ["recipe.epochs=30"]):
            assert set_between(at("stochastic_depth", *recipe, *word), at("resnet", *recipe, *word)) == {}
    chain = zip(["original_recipe", *TECHNIQUES], TECHNIQUES, strict=False)
    assert {step: [*set_between(at(before, *PAPER), at(step, *PAPER))] for before, step in chain} == {
        "adamw": [f"recipe.{key}" for key in ("batch_size", "micro_batch", "lr", "lr_batch", "weight_decay", "optimizer",
                                              "decay_spares", "initialisation")],
        "cosine": ["recipe.warmup_epochs", "recipe.schedule"],
        "length": ["recipe.epochs"],
        "label_smoothing": ["recipe.label_smoothing"],
        "randaugment": ["recipe.randaugment", "recipe.interpolation"],
        "mixup": ["recipe.mixup"],
        "cutmix": ["recipe.cutmix"],
        "random_erasing": ["recipe.random_erasing"],
        "stochastic_depth": ["model.drop_path"],
    }  # fmt: skip
    assert [at(step, *PAPER).recipe.epochs for step in ("adamw", "cosine", "length")] == [90, 90, 300]
    assert [at(step, "recipe=digits").recipe.epochs for step in ("original_recipe", "adamw", "cosine", "length")] == [2, 2, 2, 6]
    assert [at(step, *PAPER).recipe.batch_size for step in ("original_recipe", "adamw")] == [256, 4096]


def test_every_rule_works_on_techniques_as_on_networks(tmp_path):
    words = [*DIGITS, f"output={tmp_path}"]
    names = {
        "roadmap": ["original_recipe", *TECHNIQUES],
        "leave_one_out": ["stochastic_depth", *(f"without_{name}" for name in TECHNIQUES)],
        "add_one_in": ["original_recipe", *(f"only_{name}" for name in TECHNIQUES)],
    }
    start, end = (
        compose(["recipe=digits", "scale=atto", "data=digits", f"+step={name}"]) for name in ("original_recipe", "resnet")
    )
    for kind, rows in names.items():
        found = plan([*words, f"study.kind={kind}"])
        assert [*found.rows] == rows
        assert found.study_plan().epochs == 0  # they are not equally long
    without = plan([*words, "study.kind=leave_one_out"])
    for name in TECHNIQUES:
        between = set_between(end, without.rows[f"without_{name}"][0].experiment)
        assert between
        assert all(new == dict(set_between(end, start))[key][1] for key, (_, new) in between.items())
    assert without.study_plan().row("without_length").toggles == ("recipe.epochs",)
    pairs = plan([*words, "study.kind=interactions", "study.steps=[mixup,cutmix,length]"])
    assert len(pairs.rows) == 1 + 3 + 3
    assert len(plan([*words, "study.kind=orderings", "study.orders=4", "study.steps=[mixup,adamw]"]).rows) == 4
    mixed = plan([*words, "study.steps=[training,all]"])  # the whole paper
    assert [*mixed.rows][:2] == ["original_recipe", "resnet"]
    assert mixed.rows["resnet"][0].folder == mixed.rows["stochastic_depth"][0].folder  # the same run, trained once


def test_what_no_study_of_training_can_ask_is_refused(tmp_path):
    words = ["scale=atto", "recipe=short", f"output={tmp_path}"]
    with pytest.raises(Refused, match="step 'length' leaves the network of its parent"):
        plan(["+study=training", *words])
    with pytest.raises(Refused, match="mixup changes nothing under these settings; leave it out"):
        plan(["+study=training", *words, "study.kind=add_one_in", "study.steps=[adamw,mixup]"])
    with pytest.raises(Refused, match=r"must be of one roadmap .* now torchvision, training"):
        plan(["+study=training", *words, "study.kind=add_one_in", "study.steps=[adamw,torchvision_ema]"])
    with pytest.raises(Refused, match=r"must be of one roadmap"):
        plan(["+study=training", *words, "study.kind=leave_one_out", "study.steps=[adamw,gelu]"])
    with pytest.raises(Refused, match=r"there is no step 'trainin'.*training"):
        plan(["+study=training", *words, "study.steps=[trainin]"])
    with pytest.raises(Refused, match=r"only study\.kind=steps_x_recipes has several recipes"):
        plan(["+study=roadmap", *words, "study.recipes=[short,smoke]"])


def test_a_technique_of_ones_own_follows_the_last(tmp_path):
    (tmp_path / "step").mkdir()
    text = "# @package _global_\ndefaults: [stochastic_depth, _self_]\nstep: {label: EMA}\nrecipe: {ema: 0.9}\n"
    (tmp_path / "step" / "averaging.yaml").write_text(text)
    rows = plan([*DIGITS, f"output={tmp_path}"], [tmp_path]).study_plan().rows
    assert (rows[-1].variant.name, rows[-1].variant.parent, rows[-1].toggles) == (
        "averaging",
        "stochastic_depth",
        ("recipe.ema",),
    )


def test_a_roadmap_may_not_have_a_steps_name(tmp_path):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "mine.yaml").write_text("# @package _global_\ndefaults: [gelu, _self_]\nstep: {roadmap: gelu}\n")
    with pytest.raises(Refused, match="a step has that name"):
        all_steps(tmp_path)


def test_planted_techniques_come_back(tmp_path):
    """Cumulative: what was planted lies in the intervals, and what is large is resolved."""
    found = plan(["+study=digits_training", f"output={tmp_path}"])
    worth = dict(zip(TECHNIQUES, (20, 5, 10, 0, -4, 0, -8, -2, 0), strict=True))
    means = dict(zip(found.rows, np.cumsum([40.0, *worth.values()]), strict=True))
    noise, seeds = np.random.default_rng(1), 5
    seen = noise.normal(0, 1.0, seeds)  # what a seed adds to all
    study = with_recipes(found, {row: list(mean + seen + noise.normal(0, 0.4, seeds)) for row, mean in means.items()})
    estimates = {estimate.effect.name: estimate for estimate in analyse(study).estimates}
    assert [*estimates] == TECHNIQUES
    inside = [low <= worth[name] <= high for name, e in estimates.items() for low, high in [e.interval]]
    assert sum(inside) >= len(inside) - 1
    assert {name for name, e in estimates.items() if e.resolved} == {name for name, size in worth.items() if abs(size) > 1}
    said = [note for note in Report.of(study).notes if "differs from" in note]
    assert "length differs from warm-up, cosine in recipe.epochs (6, was 2)." in said
    assert "mixup differs from RandAugment in recipe.mixup (0.2, was 0)." in said
    assert len(said) == 8  # stochastic depth is the network's
    assert table(found.folder).set_index("step").loc[["original_recipe", "stochastic_depth"], "paper_top1"].tolist() == [
        76.13,
        78.82,
    ]


@pytest.mark.parametrize(
    ("kind", "planted"),
    [
        ("orderings", {"adamw": 22.5, "length": 12.5, "mixup": -3}),  # Shapley values: each has half of the interaction
        ("interactions", {"adamw": 20, "length": 10, "mixup": -3, "adamw*length": 5, "adamw*mixup": 0, "length*mixup": 0}),
        ("leave_one_out", {"without_adamw": -25, "without_length": -15, "without_mixup": 3}),
    ],
)
def test_planted_techniques_come_back_from_every_rule(tmp_path, kind, planted):
    words = ["study.orders=40", "study.steps=[adamw,length,mixup]", "study.seeds=[0,1,2]", f"output={tmp_path}"]
    found = plan(["+study=digits_training", f"study.kind={kind}", *words])
    worth, noise = {"adamw": 20.0, "length": 10.0, "mixup": -3.0}, np.random.default_rng(0)

    def score(row):
        there = {name for name in worth if (name in row.split("+")) != (kind == "leave_one_out" and name not in row)}
        return 50 + sum(worth[name] for name in there) + 5 * ({"adamw", "length"} <= there)

    study = with_recipes(found, {row: list(score(row) + noise.normal(0, 0.2, 3)) for row in found.rows})
    values = {estimate.effect.name: estimate.value for estimate in analyse(study).estimates}
    assert values == pytest.approx(planted, abs=0.6)


# --- steps x recipes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    return plan(["+study=digits_steps_x_recipes", f"output={tmp_path_factory.mktemp('crossed')}"])


def test_every_step_stands_under_both_recipes(crossed):
    steps = [*known_steps()]
    assert [*crossed.rows] == [*steps, *(f"{name}_original_recipe" for name in steps)]
    original = compose(["+study=digits_steps_x_recipes", "+step=original_recipe"])
    for name in steps:
        ours, theirs = crossed.rows[name][0].experiment, crossed.rows[f"{name}_original_recipe"][0].experiment
        assert theirs.recipe == original.recipe
        assert {key for key in set_between(ours, theirs) if key.startswith("model.")} == {"model.drop_path"}
    first = crossed.rows["resnet_original_recipe"][0]
    assert identity(first.experiment, first.fingerprint) == identity(original, first.fingerprint)
    about = crossed.study_plan()
    assert about.row("gelu_original_recipe").toggles == about.row("gelu").toggles == ("activation",)
    assert "recipe.optimizer" in about.row("resnet_original_recipe").toggles


def test_one_recipe_is_the_study_digits_run_for_run(crossed):
    committed = json.loads((composing.CONF.parent / "experiments/digits/study.json").read_text())
    names = {run for row in committed["rows"] for run in row["runs"]}
    assert names < {point.folder.path.name for point in crossed.points}
    assert len(crossed.points) == 2 * len(names)


def test_planted_interactions_come_back(crossed):
    """Ten studies: what was planted of each step under each recipe lies in 95 % of the intervals, of sides and differences."""
    steps = known_steps()
    random = np.random.default_rng(0)
    gain = {name: np.round(random.normal(1, 2, 2), 1) for name in steps}  # under ours, and under the original recipe
    gain["resnet"], gain["gelu"][:], gain["layer_norm"][:] = np.array([70.0, 60.0]), (9.0, 1.0), (-1.0, -1.0)
    level = {}
    for name, step in steps.items():
        level[name] = gain[name] + level.get(step.parent, 0.0)
    found = []
    for _ in range(10):
        seen, spread = random.normal(0, 1, 5), iter(random.uniform(0.2, 0.8, 32))
        values = {
            f"{name}{'_original_recipe' * side}": list(level[name][side] + seen + random.normal(0, next(spread), 5))
            for name in steps
            for side in (0, 1)
        }
        study = with_recipes(crossed, values)
        rows = effects(crossed.folder).set_index("effect")
        for name in [*steps][1:]:
            row, planted = rows.loc[f"{name}*original_recipe"], gain[name]
            found += [row.low <= planted[0] - planted[1] <= row.high]
            found += [
                row[f"under_{side}_low"] <= planted[i] <= row[f"under_{side}_high"] for i, side in enumerate(("first", "other"))
            ]
            assert row["value"] == pytest.approx(row["under_first"] - row["under_other"])
        assert rows.loc["gelu*original_recipe", "resolved"]
    assert 0.92 < np.mean(found) <= 1
    end, start = level["separate_downsampling"], level["resnet"]
    assert rows.loc["all*original_recipe", "under_first"] == pytest.approx((end - start)[0], abs=1.5)
    assert rows.loc["architecture*original_recipe", "value"] == pytest.approx((end - start).mean(), abs=1.5)
    assert rows.loc["recipe*original_recipe@resnet", "value"] == pytest.approx(10, abs=1.5)
    assert rows.loc["recipe*original_recipe@resnet", "under_first"] == pytest.approx(start[0], abs=1.5)
    assert rows.loc["recipe*original_recipe", "value"] == pytest.approx(((end[0] - end[1]) + 10) / 2, abs=1.5)
    assert len(rows) == 15 + 5
    lines = markdown(Report.of(study)).splitlines()
    assert lines[0].count("under original recipe") == 1
    (gelu,) = [line for line in lines if line.startswith("| ReLU → GELU  ")]
    assert gelu.count("[") == 3
    write_report(crossed.folder)
    drawing = (crossed.folder / "steps_x_recipes.svg").read_text()
    assert "under original recipe" in drawing
    assert "their difference, points of top-1" in drawing
    assert "filled difference: resolved" in drawing


def test_recipes_by_name_and_more_than_two(tmp_path):
    words = [
        "+study=steps_x_recipes",
        "scale=atto",
        "study.steps=[resnet,kernel_9,gelu]",
        "study.seeds=[0]",
        f"output={tmp_path}",
    ]
    found = plan([*words, "study.recipes=[smoke,short,original_recipe]", "recipe=short"])
    assert [point.experiment.recipe.epochs for point in found.points] == [2] * 3 + [20] * 6
    names = [effect.name for effect in found.design.effects]
    assert names[:3] == ["kernel_9*short", "gelu*short", "all*short"]
    assert len(names) == len(set(names)) == 2 * (2 + 5)
    assert found.design.effects[2].weights == {"gelu_smoke": 1, "gelu": -1, "resnet_smoke": -1, "resnet": 1}
    assert found.design.effects[1].label.endswith("(short)")
    for said, why in (
        ("[short]", "must name two that differ"),
        ("[short,short]", "must name two that differ"),
        ("[short,gelu]", r"gelu changes the network too \(model\."),
        ("[short,shrt]", "there is no recipe 'shrt'"),
        ("[short,stochastic_depth]", "must name two that differ"),  # the same recipe by two names
    ):
        with pytest.raises(Refused, match=why):
            plan([*words, f"study.recipes={said}"])


# --- published numbers -----------------------------------------------------------------------------------------------


def test_torchvisions_roadmap_is_data_alone():
    steps = all_steps()
    own = [name for name, step in steps.items() if step.roadmap == "torchvision"]
    published = read_published("torchvision", steps)
    assert len(published.rows) == 13
    assert [row.step for row in published.rows if row.step] == ["original_recipe", *own]
    assert (published.rows[0].score, published.rows[-1].score) == (76.130, 80.858)
    assert published.difference("torchvision_long", "torchvision_trivial_augment") == pytest.approx(1.8)
    assert published.difference("torchvision_ema", "torchvision_weight_decay") is None  # FixRes stands between
    end = compose([f"+step={own[-1]}", *PAPER])
    assert decisive(end, "f")["recipe"] == {
        "epochs": 600, "batch_size": 1024, "micro_batch": 128, "sync_batchnorm": False, "ema": 0.999966, "optimizer": "sgd",
        "lr": 0.5, "lr_batch": 1024, "min_lr": 0.0, "warmup_epochs": 5, "warmup_start": 0.01, "weight_decay": 2e-5,
        "label_smoothing": 0.1,
        "mixup": 0.2, "cutmix": 1.0, "mixup_switch_prob": 0.5, "randaugment": None, "auto_augment": "trivial",
        "random_erasing": 0.1, "crop_scale": [0.08, 1.0], "interpolation": "bilinear", "initialisation": "torchvision",
        "precision": "auto", "betas": [0.9, 0.999], "eps": 1e-8,
    }  # fmt: skip
    assert round(224 / end.data.crop_pct) == 232
    assert (end.recipe.momentum, end.recipe.nesterov, end.model.drop_path) == (0.9, False, 0.0)
    found = changes(end.study.__class__(steps=["torchvision"]), steps, lambda step: compose([f"+step={step}", *PAPER]))
    assert [change.step.name for change in found] == own  # each has a setting of its own


CSV = """# Somebody, A table, 2030: photographs of cats
step,score,std,label
gelu,91.5,0.2,
,91.7,,something else
layer_norm,92,,
"""


def test_numbers_of_ones_own_stand_beside_ours_with_their_source(tmp_path):
    (tmp_path / "cats.csv").write_text(CSV)
    words = ["+study=roadmap", "scale=atto", "study.steps=[gelu,layer_norm]", "study.seeds=[0,1]", f"output={tmp_path}"]
    found = plan([*words, f"study.published={tmp_path / 'cats.csv'}"])
    study = recorded(found, {"gelu": [50.0, 51.0], "layer_norm": [60.0, 61.5]})
    (tmp_path / "cats.csv").unlink()  # the plan holds them
    text = markdown(Report.of(load(found.folder)))
    assert "published, Somebody, A table, 2030: photographs of cats: top-1, %" in text
    assert "91.50 ± 0.20" in text
    assert "paper" not in text
    assert "not comparable with ours" in text
    rows = table(found.folder).set_index("step")
    assert rows["paper_top1"].tolist() == [91.5, 92.0]
    assert rows["paper_delta"].isna().all()  # a row that is none of ours stands between
    assert study.plan.published.rows[1].label == "something else"
    plain = recorded(plan(words), {"gelu": [50.0, 51.0], "layer_norm": [60.0, 61.5]})
    assert "published" not in (plain.folder / "study.json").read_text()
    assert "paper, ResNet-50 to ConvNeXt-T, ImageNet-1K, 300 epochs" in markdown(Report.of(plain))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("# Somebody", "Somebody", "first line must say where the numbers are from"),
        ("step,score,std,label", "step,std,label", "needed .*score"),
        ("step,score,std,label", "step,score,std,colour", "allowed"),
        ("gelu,91.5", "gelo,91.5", r"line 3: there is no step 'gelo'"),
        ("91.5", "high", r"line 3: score=high: must be a number"),
        ("91.5", "nan", "must be finite"),
        ("91.5", "", "score: must be a number, now empty"),
        ("layer_norm,92", "gelu,92", "each step once: gelu"),
        ("layer_norm,92,,", "layer_norm,92", "line 5: 4 values are needed"),
        ("layer_norm,92,,", "layer_norm,92,,,,", "line 5: 4 values are needed"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path, old, new, says):
    (tmp_path / "cats.csv").write_text(CSV.replace(old, new))
    with pytest.raises(Refused, match=says):
        read_published(str(tmp_path / "cats.csv"), known_steps())


def test_a_table_that_is_not_there_is_refused():
    with pytest.raises(Refused, match=r"study\.published=torchvison: did you mean 'torchvision'\?|torchvision"):
        read_published("torchvison", known_steps())


# --- the committed studies -------------------------------------------------------------------------------------------

EXPERIMENTS = composing.CONF.parent / "experiments"


BY_RECIPE = {"gelu_original_recipe": 12.0, "kernel_5_original_recipe": -12.0}  # what the other recipe makes of a step's worth


def planted_means(study):
    """What each row of a twin truly scores: techniques are worth 12, 0 or -12, steps the same under both recipes but two."""
    means = {}
    for number, row in enumerate(study.plan.rows):
        name, parent = row.variant.name, row.variant.parent
        gain = number % 16 % 3 - 1.0 if study.plan.kind == "steps_x_recipes" else (0.0, 12.0, -12.0)[number % 3]
        means[name] = means.get(parent, 70.0) + gain * bool(parent) + BY_RECIPE.get(name, 0.0)
    return means


def twin(study, means, random):
    """The study with the same runs, but these true scores, what a seed adds to all, and noise as each row was seen to have it."""
    seeds, results = random.normal(0, 1, len(study.plan.seeds)), dict(study.results)
    for row in study.plan.rows:
        done = [result for result in study.of(row.variant.name) if result.done]
        spread = max(np.std([result.score for result in done], ddof=1), 0.3) if len(done) > 1 else 1.0
        for run, result in ((run, results[run]) for run in row.runs if results[run].done):
            score = means[row.variant.name] + seeds[study.plan.seeds.index(result.seed)] + random.normal(0, spread)
            results[run] = replace(result, scores={**result.scores, "top1": score})
    return replace(study, results=results)


@pytest.mark.parametrize("name", ["digits_training", "digits_steps_x_recipes"])
def test_twins_of_the_committed_studies_give_back_what_is_planted(name):
    """100 twins: 95 % of the intervals hold what was planted, what is large is resolved, and hardly ever one that is nothing."""
    study, random = load(EXPERIMENTS / name), np.random.default_rng(3)
    means = planted_means(study)
    held, found, alarms = [], [], []
    for _ in range(100):
        estimates = [e for e in analyse(twin(study, means, random)).estimates if e.interval is not None]
        true = [sum(weight * means[row] for row, weight in e.effect.weights.items()) for e in estimates]
        held += [e.interval[0] <= value <= e.interval[1] for e, value in zip(estimates, true, strict=True)]
        found += [e.resolved for e, value in zip(estimates, true, strict=True) if abs(value) > 9.9]
        alarms.append(any(e.resolved for e, value in zip(estimates, true, strict=True) if abs(value) < 1e-9))
    assert len(held) == 100 * {"digits_training": 9, "digits_steps_x_recipes": 18}[name]
    assert sum(abs(value) < 1e-9 for value in true) >= 3
    assert 0.93 < np.mean(held) < 0.975
    assert np.mean(found) > 0.7
    assert np.mean(alarms) < 0.08


@pytest.mark.parametrize("name", ["digits_training", "digits_steps_x_recipes"])
def test_a_finding_s_intervals_are_those_of_its_table(name):
    said = re.findall(r"\[([+-][\d.]+), ([+-][\d.]+)\]", (EXPERIMENTS / name / "README.md").read_text())
    table = (EXPERIMENTS / name / "effects.csv").read_text().splitlines()
    ends = [
        (float(row[f"{side}low"]), float(row[f"{side}high"]))
        for row in csv.DictReader(table)
        for side in ("delta_", "under_first_", "under_other_")
        if row.get(f"{side}low")
    ]
    assert len(said) >= 3
    assert {(float(low), float(high)) for low, high in said} <= {(round(low, 1), round(high, 1)) for low, high in ends}
