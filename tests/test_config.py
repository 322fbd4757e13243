"""Configuration: the step files are the roadmap, a run's identity is its content, idle settings are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from roadmap.base.errors import Refused
from roadmap.base.paths import CONF
from roadmap.config import compose as composing
from roadmap.config.compose import compose
from roadmap.config.effects import following, ineffective_settings
from roadmap.config.identity import decisive, identity
from roadmap.config.schema import Norm, Stem, TaskConfig
from roadmap.config.steps import Step, all_steps, known_steps, order
from roadmap.data.images import sources
from roadmap.model.check import compose_run
from roadmap.model.layout import layout

ORDER = [
    "resnet", "stage_ratio", "patchify_stem", "depthwise", "increase_width", "inverted_bottleneck", "move_up_depthwise",
    "kernel_5", "kernel_7", "kernel_9", "kernel_11", "gelu", "fewer_activations", "fewer_norms", "layer_norm",
    "separate_downsampling",
]  # fmt: skip


def test_the_chain_of_parents_is_the_order_of_the_paper():
    steps = known_steps()
    assert list(steps) == ORDER
    assert [name for name, step in steps.items() if not step.adopted] == ["kernel_9", "kernel_11"]
    assert steps["gelu"].parent == steps["kernel_11"].parent == "kernel_7"


def test_order_of_branches_that_are_as_long():
    tree = [Step(name, parent, name, "") for name, parent in [("a", None), ("c", "a"), ("b", "a"), ("d", "b"), ("e", "c")]]
    ordered = order(tree)
    assert ordered[0].name == "a"
    assert sum(step.adopted for step in ordered) == 3
    assert [s.name for s in ordered if s.parent in ("b", "c")] == [
        {"b": "d", "c": "e"}[s.name] for s in ordered if s.parent == "a"
    ]


def test_the_command_line_wins_over_the_step():
    model = compose(["+step=separate_downsampling", "model.kernel_size=3", "model.norm=batch"]).model
    assert (model.kernel_size, model.norm, model.stem) == (3, Norm.batch, Stem.patchify)


def test_leave_one_out_is_the_step_without_its_change():
    with_pool = compose(["+step=separate_downsampling", "model.stem=conv_pool"]).model
    assert layout(with_pool).stem.max_pool
    assert layout(with_pool).stages == layout(compose(["+step=separate_downsampling"]).model).stages


def test_a_step_of_ones_own_needs_no_python(tmp_path):
    step = tmp_path / "mine" / "step" / "kernel_13.yaml"
    step.parent.mkdir(parents=True)
    step.write_text(
        "# @package _global_\ndefaults: [separate_downsampling, _self_]\n"
        "step: {label: mine, group: Ours}\nmodel: {kernel_size: 13}\n"
    )
    experiment = compose(["+step=kernel_13"], [tmp_path / "mine"])
    assert experiment.model.kernel_size == 13
    assert (experiment.step.label, experiment.step.parent) == ("mine", "separate_downsampling")
    steps = known_steps(tmp_path / "mine")
    assert list(steps) == [*ORDER, "kernel_13"]
    assert steps["kernel_13"].adopted


def test_a_step_must_change_the_network(tmp_path):
    for name, change in (("same", "kernel_size: 7"), ("repeat", "stem: patchify")):
        step = tmp_path / "step" / f"{name}.yaml"
        step.parent.mkdir(exist_ok=True)
        step.write_text(f"# @package _global_\ndefaults: [kernel_7, _self_]\nmodel: {{{change}}}\n")
    for name in ("same", "repeat"):
        with pytest.raises(Refused, match="leaves the network of its parent 'kernel_7' as it was"):
            compose_run([f"+step={name}"], [tmp_path])
    with pytest.raises(Refused, match="must change it"):
        compose_run(["+step=increase_width", "scale.convnext_width=64"])


def test_what_a_command_sets_hides_no_step():
    hidden = compose_run(["+step=kernel_9", "model.kernel_size=7"])
    assert hidden.model == compose(["+step=kernel_7"]).model
    with pytest.raises(Refused, match=r"at scale tiny with scale\.convnext_width=64, its"):
        compose_run(["+step=increase_width", "scale.convnext_width=64", "model.kernel_size=5", "seed=3"])


@pytest.mark.parametrize("extra", [
    ["scale=base"],
    ["+study=digits", "output=/x"],
    ["recipe=paper", "data=imagenet", "data.path=/x"],
    ["model.kernel_size=3", "scale.convnext_width=64", "recipe.lr=0.1", "model.depths=[1,1,2,1]"],
])  # fmt: skip
def test_a_step_is_its_change_to_its_parent_as_hydra_composes_it(extra, monkeypatch):
    words = [(*extra, f"+step={step}") for step in all_steps()]
    quick = [composing.compose_unchecked(word, ()) for word in words]
    monkeypatch.setattr(composing, "_on_parent", lambda overrides: None)
    for word, experiment in list(zip(words, quick, strict=True))[::3]:
        composing.compose_unchecked.cache_clear()
        assert repr(composing.compose_unchecked(word, ())) == repr(experiment)
    composing.compose_unchecked.cache_clear()


BASE = ["+step=gelu", "scale=atto"]


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model.kernel_size=5", "recipe.lr=1e-4", "recipe.epochs=30", "data.image_size=64", "recipe.precision=bfloat16"],
)
def test_identity_changes_with_what_changes_the_result(override):
    one, other = compose(BASE), compose([*BASE, override])
    assert identity(one, "f") != identity(other, "f")


@pytest.mark.parametrize(
    "override",
    ["output=/elsewhere", "logger=wandb", "runtime.device=cpu", "data.workers=3", "runtime.threads=2", "wandb.project=x"],
)
def test_identity_stays_with_everything_else(override):
    one, other = compose(BASE), compose([*BASE, override])
    assert identity(one, "f") == identity(other, "f")


def test_stream_and_device_make_the_same_pictures_and_so_the_same_run():
    stream, device, loader = (identity(compose([*BASE, f"data.pipeline={kind}"]), "f") for kind in ("stream", "device", "loader"))
    assert stream == device != loader


def test_identity_follows_the_data_and_not_the_steps_name():
    one = compose(BASE)
    assert identity(one, "f") != identity(one, "g")
    other = compose(["+step=kernel_7", "scale=atto", "model.activation=gelu"])
    assert identity(one, "f") == identity(other, "f")
    assert identity(replace(one, seed=5), "f") != identity(one, "f")


def test_the_task_is_part_of_the_identity_where_it_is_not_classification():
    """Runs from before there was a choice keep their folders; the digits study's first one stands for them."""
    one = compose(["+study=digits", "+step=resnet"])
    fingerprint = sources.fingerprint(one.data, sources.checked_images(one.data, one.recipe.batch_size))
    name = f"resnet-s0-{identity(one, fingerprint)}"
    assert f'"{name}"' in (CONF.parent / "experiments" / "digits" / "study.json").read_text()
    assert identity(replace(one, task=TaskConfig("another")), fingerprint) != identity(one, fingerprint)


@pytest.mark.parametrize(("override", "says"), [("task=detektion", "detection"), ("taks=detection", "Did you mean 'task'")])
def test_a_task_that_does_not_exist_is_refused(override, says):
    with pytest.raises(Refused, match=says):
        compose(["+step=gelu", override])


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["+step=kernel_7", "model.block_bias=true"], "model.block_bias"),
        (["+step=gelu", "recipe=short", "recipe.mixup_switch_prob=0.3"], "recipe.mixup_switch_prob"),
        (["+step=gelu", "data.path=/x"], "data.path"),
        (["+step=gelu", "wandb.project=x"], "wandb.project"),
        (["+step=gelu", "engine.partition=x"], "engine.partition"),
        (["+step=gelu", "engine=slurm", "engine.address=x"], "engine.address"),
        (["+step=gelu", "engine=ray", "engine.minutes=9"], "engine.minutes"),
        (["+step=gelu", "+study=leave_one_out", "study.orders=8"], "study.orders"),
        (["+step=gelu", "study.rows=[{name: a, step: gelu}]", "study.steps=[gelu]"], "study.steps"),
        (["+step=depthwise", "scale.convnext_width=128"], "scale.convnext_width"),
        (["reference=resnet18", "model.kernel_size=5"], "model.kernel_size"),
    ],
)
def test_a_setting_without_effect_is_named(overrides, key):
    (warning,) = ineffective_settings(compose(overrides), overrides)
    assert warning.startswith(f"{key} has no effect here")


@pytest.mark.parametrize(
    "overrides",
    [
        ["+step=layer_norm", "model.block_bias=true"],
        ["+step=kernel_7", "model.kernel_size=7"],
        ["+step=increase_width", "scale.convnext_width=128"],
        ["+step=gelu", "recipe=paper", "recipe.mixup_switch_prob=0.3"],
        ["+step=gelu", "logger=wandb", "wandb.project=x"],
    ],
)
def test_a_setting_with_effect_is_not(overrides):
    assert ineffective_settings(compose(overrides), overrides) == []


def test_the_paper_recipe_is_table_5():
    experiment = compose(["+step=gelu", "recipe=paper", "data=imagenet", "data.path=/nowhere"])
    assert decisive(experiment, "f")["recipe"] == {
        "epochs": 300, "batch_size": 4096, "lr": 4e-3, "lr_batch": 4096, "min_lr": 1e-6, "warmup_epochs": 20,
        "weight_decay": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0,
        "mixup_switch_prob": 0.5, "randaugment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25, "crop_scale": [0.08, 1.0],
        "precision": "auto", "micro_batch": 128, "sync_batchnorm": False, "ema": None,
    }  # fmt: skip
    assert (experiment.data.image_size, experiment.data.hflip, experiment.data.crop_pct) == (224, 0.5, 0.875)
    assert experiment.model.drop_path == 0.1
    assert compose(["+step=gelu", "scale=base"]).model.drop_path == 0.5
    assert compose(["+step=gelu", "recipe=paper", "recipe.batch_size=1024"]).recipe.peak_lr == 1e-3


def test_a_batch_size_alone_is_told_the_rate_that_results():
    words = ["+step=gelu", "recipe=paper", "recipe.batch_size=1024"]
    (said,) = following(compose(words), words)
    assert "peak learning rate of 0.001" in said
    assert "recipe.lr_batch=1024 keeps it" in said
    for more in ("recipe.lr_batch=1024", "recipe.lr=0.004"):
        assert not following(compose([*words, more]), [*words, more])
    assert not following(compose(words[:2]), words[:2])


def test_a_length_alone_shortens_a_warm_up_that_has_no_room_and_says_so():
    words = ["+step=gelu", "recipe=short"]
    whole, short = compose(words), compose([*words, "recipe.epochs=2"])
    assert short.recipe.warmup_epochs / 2 == whole.recipe.warmup_epochs / whole.recipe.epochs
    (said,) = following(short, [*words, "recipe.epochs=2"])
    assert f"warmup_epochs={short.recipe.warmup_epochs:g}: the recipe has 3 of {whole.recipe.epochs} epochs" in said
    roomy = [*words, "recipe.epochs=4"]
    assert compose(roomy).recipe.warmup_epochs == 3  # there is room: as it was
    assert not following(compose(roomy), roomy)
    with pytest.raises(Refused, match=r"recipe\.warmup_epochs=3.*recipe\.epochs=2.*recipe\.warmup_epochs=0\.3"):
        compose([*words, "recipe.epochs=2", "recipe.warmup_epochs=3"])


def test_the_configuration_is_found_in_a_wheel_and_from_anywhere(tmp_path):
    """A wheel holds conf/ inside the package (pyproject.toml); lay it out so and run it from another folder."""
    root = CONF.parent
    assert '[tool.hatch.build.targets.wheel.force-include]\nconf = "roadmap/conf"' in (root / "pyproject.toml").read_text()
    shutil.copytree(root / "roadmap", tmp_path / "site" / "roadmap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "conf", tmp_path / "site" / "roadmap" / "conf")
    command = [sys.executable, "-m", "roadmap.run", "+step=gelu", "--cfg", "job"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "activation: gelu" in done.stdout


@pytest.mark.parametrize(
    "module", ["roadmap.config", "roadmap.record", "roadmap.sweep", "roadmap.report", "roadmap.run", "roadmap.cost"]
)
def test_no_torch_where_none_is_needed(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def test_an_edited_file_of_ones_own_is_read_again_in_the_same_process(tmp_path):
    (tmp_path / "step").mkdir()
    file = tmp_path / "step" / "mine.yaml"
    for size, label in ((13, "first"), (15, "second, and longer")):
        file.write_text(
            f"# @package _global_\ndefaults: [kernel_7, _self_]\nstep: {{label: {label!r}}}\nmodel: {{kernel_size: {size}}}\n"
        )
        experiment = compose(["+step=mine"], [tmp_path])
        assert (experiment.model.kernel_size, experiment.step.label) == (size, label)
    file.rename(file.with_stem("other"))
    assert compose(["+step=other"], [tmp_path]).model.kernel_size == 15
    with pytest.raises(Refused, match="there is no step 'mine'"):
        compose(["+step=mine"], [tmp_path])
