"""Detection and segmentation as runs: what is refused, which recipe a head and a scale have, how runs train, resume and end."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from runs import executed, find_room, prepared, same, stopped, train, weights
from torch import nn

from roadmap.base.errors import Diverged, OutOfMemory, Refused
from roadmap.config.compose import compose
from roadmap.config.effects import ineffective_settings
from roadmap.config.identity import decisive, identity
from roadmap.config.schema import Head, HeadConfig, Layering, Source, TaskName
from roadmap.record.folder import RunFolder
from roadmap.run.preflight import preflight
from roadmap.tasks.metrics import METRICS
from roadmap.train import recipe as parts
from roadmap.train.ranks import Ranks


@pytest.mark.parametrize(("task", "head"), [("detection", Head.mask_rcnn), ("segmentation", Head.upernet)])
def test_a_task_brings_head_data_and_recipe_where_none_is_named(task, head):
    alone = compose(["+step=gelu", f"task={task}"])
    assert (alone.head.name, alone.data.source, alone.recipe.name) == (head, Source.scenes, "dense_short")
    named = compose(["+step=gelu", f"task={task}", "recipe=coco_1x" if task == "detection" else "recipe=ade20k_160k"])
    assert named.recipe.name != "dense_short"
    assert set(METRICS) == set(TaskName)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=detection", "head=upernet"], "head=upernet: must be mask_rcnn or cascade_mask_rcnn with task=detection"),
        (["task=segmentation", "head=mask_rcnn"], "head=mask_rcnn: must be upernet with task=segmentation"),
        (["task=detection", "head=none"], "head=none: must be mask_rcnn or"),
        (["head=upernet"], "head=upernet: must be none with task=classification"),
        (["by_head=coco_1x-mask_rcnn"], "by_head=.* is taken by itself; set recipe.KEY=VALUE"),
        (["head=unet"], "there is no head 'unet'; .*upernet"),
        (["task=detection", "recipe=short"], r"recipe.label_smoothing=0.1: must be 0.0 with task=detection"),
        (["task=detection", "recipe.mixup=0.8"], "recipe.mixup=0.8: must be 0.0 with task=detection"),
        (["recipe=coco_1x"], r"recipe.short_sides=\[480.*must be \[\] with task=classification"),
        (["data.longest_side=100"], "data.longest_side=100: must be null with task=classification"),
        (["task=detection", "data.longest_side=64"], "data.longest_side=64: must be null, or at least .* data.image_size=96"),
        (["task=detection", "data.pipeline=device"], "data.pipeline=device: must be auto or loader"),
        (["task=detection", "runtime.deterministic=true"], "deterministic=true: must be false .*, or runtime.device=cpu"),
        (["task=detection", "runtime.compile=blocks"], "runtime.compile=blocks: must be auto or none with task=detection"),
        (["task=detection", "recipe.jitter=[0.1,2]"], "recipe.crop_size=null: must be a number of pixels beside recipe.jitter"),
        (["task=detection", "recipe.jitter=[2,0.1]", "recipe.crop_size=64"], "recipe.jitter=.*the lesser first"),
        (["task=detection", "recipe.crop_sides=[400]"], r"recipe.crop_range=\[\]: must be empty without recipe.crop_sides"),
        (["task=detection", "recipe.short_sides=[8]"], r"recipe.short_sides=\[8\]: must be a list of pixels"),
        (["task=detection", "recipe.class_share=0.5"], "recipe.class_share=0.5: must be null with task=detection"),
        (["task=segmentation", "recipe.short_sides=[64]"], r"recipe.short_sides=\[64\]: must be \[\] with task=segmentation"),
        (["task=segmentation", "recipe.micro_batch=1"], "recipe.micro_batch=1: must be at least 2: a BatchNorm"),
        (["task=detection", "recipe.batch_size=1"], "recipe.batch_size=1: must be at least 2: a BatchNorm"),
        (["task=detection", "head.backbone_norm=sync"], "head.backbone_norm=sync: must be trained or frozen without"),
        (["task=segmentation", "head.pools=[0]"], r"head.pools=\[0\]: must be a list"),
        (["task=detection", "head.nms=0"], "head.nms=0.0: must be above 0"),
        (["recipe.updates=9", "recipe.warmup_updates=9"], "recipe.warmup_updates=9: must be less than recipe.updates=9"),
    ],
)
def test_a_task_refuses_what_does_not_fit_it(overrides, says):
    with pytest.raises(Refused, match=says):
        compose(["+step=gelu", *overrides])


def test_a_data_set_without_the_targets_of_the_task_is_refused():
    for overrides in (["task=detection", "data=digits"], ["data=scenes"]):
        with pytest.raises(Refused, match=r"for each picture; a .* is in data="):
            preflight(compose(["+step=gelu", *overrides]))


def test_one_image_at_once_where_no_batchnorm_compares_images():
    for overrides in (["+step=layer_norm"], ["+step=gelu", "head.backbone_norm=frozen"]):
        assert compose([*overrides, "task=detection", "recipe.micro_batch=1"]).recipe.images_at_once == 1
    with pytest.raises(Refused, match="a BatchNorm of backbone or head"):
        compose(["+step=layer_norm", "task=detection", "head=cascade_mask_rcnn", "recipe.micro_batch=1"])


def test_a_warmup_in_updates_ends_before_the_training_or_its_first_milestone():
    few = ["+step=gelu", "task=detection", "recipe.warmup_updates=600"]
    with pytest.raises(Refused, match=r"recipe.warmup_updates=600: must be less than 600; with 400 images the training has 600"):
        preflight(compose(few))
    with pytest.raises(
        Refused, match=r"recipe.warmup_epochs=1: must be less than 0.8; with 400 images the training has 40 updates"
    ):
        preflight(compose(["+step=gelu", "task=detection", "recipe.updates=40"]))
    with pytest.raises(Refused, match="must be less than 300"):
        preflight(compose([*few[:2], "recipe.warmup_updates=300", "recipe.schedule=step", "recipe.milestones=[0.5]"]))


def test_head_and_task_are_part_of_the_identity():
    """And of classification's they are not: `tests/test_config.py` holds its identities."""
    one = compose(["+step=gelu", "task=detection"])
    for other in ("head.channels=64", "head=cascade_mask_rcnn", "head.output_norm=none", "data.longest_side=200"):
        assert identity(compose(["+step=gelu", "task=detection", other]), "f") != identity(one, "f")
    assert not {"task", "head"} & decisive(compose(["+step=gelu"]), "f").keys()


@pytest.mark.parametrize(
    ("recipe", "head", "scale", "lr", "decay", "layers", "drop_path"),
    [
        ("coco_1x", "mask_rcnn", "tiny", 1e-4, 0.95, 6, 0.4),
        ("coco_3x", "mask_rcnn", "tiny", 1e-4, 0.95, 6, 0.4),
        ("coco_3x", "cascade_mask_rcnn", "tiny", 2e-4, 0.7, 6, 0.4),
        ("coco_3x", "cascade_mask_rcnn", "small", 2e-4, 0.7, 12, 0.6),
        ("coco_1x", "cascade_mask_rcnn", "base", 2e-4, 0.8, 12, 0.7),
        ("ade20k_160k", "upernet", "tiny", 1e-4, 0.9, 6, 0.4),
        ("ade20k_160k", "upernet", "small", 1e-4, 0.9, 12, 0.3),
        ("ade20k_160k", "upernet", "base", 1e-4, 0.9, 12, 0.4),
        ("ade20k_160k", "upernet", "xlarge", 8e-5, 0.9, 12, 0.1),
    ],
)
def test_recipes_have_the_papers_values_for_each_head_and_scale(recipe, head, scale, lr, decay, layers, drop_path):
    """Appendix A.3; stochastic depth of XL is not given there."""
    task = "segmentation" if head == "upernet" else "detection"
    experiment = compose(["+step=gelu", f"task={task}", f"head={head}", f"recipe={recipe}", f"scale={scale}"])
    found = experiment.recipe
    assert (found.peak_lr, found.layer_decay, found.decay_layers) == (lr, decay, layers)
    assert found.layering == (Layering.stages if head == "upernet" else Layering.layers)
    if scale != "xlarge":
        assert experiment.model.drop_path == drop_path
    said = compose(["+step=gelu", f"task={task}", f"head={head}", f"recipe={recipe}", f"scale={scale}", "recipe.lr=0.5"])
    assert said.recipe.lr == 0.5


def rates(overrides, updates_per_epoch, at):
    """The rate of one weight at these updates, over the peak rate."""
    recipe = compose(["+step=gelu", *overrides]).recipe
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.SGD([weight], lr=recipe.peak_lr)
    schedule = parts.schedule(recipe, optimizer, updates_per_epoch)
    found = []
    for update in at:
        schedule.step_update(update)
        found.append(optimizer.param_groups[0]["lr"] / recipe.peak_lr)
    return found


def test_the_rates_of_the_papers_recipes():
    """COCO: 500 updates from 1e-3 of the rate, a tenth after epochs 8 and 11. ADE20K: 1500 from 1e-6, then linear to 0."""
    coco = rates(["task=detection", "recipe=coco_1x"], 7392, [0, 250, 500, 8 * 7392 - 1, 8 * 7392, 11 * 7392])
    assert coco == pytest.approx([1e-3, 0.5005, 1, 1, 0.1, 0.01])
    ade = rates(["task=segmentation", "recipe=ade20k_160k"], 1263, [0, 750, 1500, 80750, 160000])
    assert ade == pytest.approx([1e-6, 0.5, 1, 0.5, 0], abs=1e-6)


def test_settings_that_the_head_does_not_read_are_named():
    words = ["+step=gelu", "task=detection", "head.pools=[1]", "recipe.decay_layers=12", "data.crop_pct=0.9", "recipe.updates=5"]
    said = ineffective_settings(compose(words), [*words, "recipe.epochs=2"])
    assert [line.split(" has no effect")[0] for line in said] == [
        "recipe.epochs", "recipe.decay_layers", "head.pools", "data.crop_pct"
    ]  # fmt: skip
    assert HeadConfig().pools == [1, 2, 3, 6]


# --- runs ------------------------------------------------------------------------------------------------------------

TINY = [  # two epochs of 4 updates, the second one a part
    "scale=atto", "model.width=8", "model.depths=[1,1,1,1]", "recipe.batch_size=6", "recipe.updates=6", "data.image_size=32",
    "recipe.warmup_updates=1", "head.channels=8", "runtime.threads=1", "runtime.progress=false",
]  # fmt: skip
TASKS = [
    ("detection", "mask_rcnn", "layer_norm"), ("detection", "cascade_mask_rcnn", "gelu"), ("segmentation", "upernet", "resnet")
]  # fmt: skip


def tiny(folder, task, head, step, *overrides):
    return compose([f"+step={step}", f"task={task}", f"head={head}", *TINY, f"output={folder}", *overrides])


def made(folder, *kind):
    return prepared(tiny(folder, *kind))


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_is_stopped_and_goes_on_to_the_same_bits(tmp_path, kind, few):
    whole = made(tmp_path / "a", *kind)
    expected = train(whole)
    stopped(made(tmp_path / "b", *kind), 3)
    last = made(tmp_path / "b", *kind)
    assert last.state.resume() == []
    lines = train(last)
    assert [line["epoch"] for line in expected] == [0, 1]
    assert same(weights(whole), weights(last))
    untimed = ("seconds", "images_per_second")
    assert [{k: v for k, v in line.items() if k not in untimed} for line in lines] == [
        {k: v for k, v in line.items() if k not in untimed} for line in expected
    ]


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_that_finds_no_room_names_the_images_that_fit(tmp_path, kind, few, monkeypatch):
    tried, fault = find_room(monkeypatch, made(tmp_path, *kind, "recipe.batch_size=8"), 2)
    assert re.search("recipe.batch_size=8: .* 2 fit: recipe.micro_batch=2", str(fault))
    assert tried == [8, 4, 2]


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_that_diverges_names_its_layer(tmp_path, kind, few):
    run = made(tmp_path, *kind)
    with torch.no_grad():
        next(run.network.backbone.stages[2].blocks.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"the loss is nan in step .*backbone.stages.2"):
        train(run)


@pytest.mark.parametrize("kind", TASKS)
def test_the_record_of_a_run_has_its_head_its_scores_and_both_costs(tmp_path, kind, few):
    experiment = tiny(tmp_path, *kind, "recipe.updates=2")
    result = executed(experiment)
    assert result.metric == METRICS[experiment.task.name]
    assert result.score is not None
    assert result.head["name"] == kind[1]
    assert 0 < result.gmacs_backbone < result.gmacs
    more = {"box_ap50", "mask_ap"} if kind[0] == "detection" else {"pixel_accuracy"}
    assert more <= result.scores.keys()
    assert result.data["val"] == 10
    assert result.comparable(result)
    again = tiny(tmp_path, *kind, "recipe.updates=2", "head.channels=16")
    other = executed(again)
    assert [key for key, _, _ in result.unshared(other)] == ["head"]
    pictures = RunFolder.of(experiment, "0" * 16).path / "pictures"
    assert {file.name for file in pictures.iterdir()} == {"epoch-0000.jpg", "worst.jpg", "best.jpg"}
    with Image.open(pictures / "best.jpg") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


# --- on a GPU --------------------------------------------------------------------------------------------------------

ON_A_GPU = "runtime.device=cuda", "runtime.compile=none"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TASKS)
def test_a_dense_run_on_a_gpu(tmp_path, kind, few):
    scored_by(kind)
    experiment = tiny(tmp_path, *kind, *ON_A_GPU)
    result = executed(experiment)
    assert (result.status, result.precision) == ("done", "bfloat16")
    assert 0 <= result.score <= 100


@pytest.mark.gpu
def test_a_segmenter_never_waits_for_the_gpu(tmp_path, few, never_waiting):
    experiment = tiny(tmp_path, *TASKS[2], *ON_A_GPU, "recipe.updates=12")
    run = prepared(experiment, Ranks(torch.device("cuda")))
    batch = next(iter(run.data.epoch(0)))
    for _ in range(3):  # warm
        run.readings.push(run._step(iter([batch])))
    with never_waiting():
        for _ in range(9):
            run.readings.push(run._step(iter([batch])))
    assert all(np.isfinite(number) for reading in run.readings.drain() for number in reading)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TASKS)
def test_a_gpu_without_room_for_pictures_names_how_many_fit(tmp_path, kind, few):
    scored_by(kind)
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        large = ["recipe.batch_size=24", "data.image_size=768", "data.longest_side=null", "model.width=64", "head.channels=256"]
        experiment = tiny(tmp_path, *kind, *ON_A_GPU, *large)
        with pytest.raises(OutOfMemory, match=r"recipe.batch_size=24: .* fit: recipe.micro_batch="):
            executed(experiment)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def scored_by(kind):
    """Average precision is computed by a package that a machine may lack."""
    if kind[0] == "detection":
        pytest.importorskip("faster_coco_eval")
