"""The recipe's coordinates: each does what its name says, at any length of training, and nothing that it does not say."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import runs
import torch
from conftest import QUICK
from PIL import Image
from runs import ALONE, train
from torch import nn
from torchvision.transforms import ColorJitter, TrivialAugmentWide

from roadmap.base.errors import Refused
from roadmap.base.signals import Stop
from roadmap.config.compose import compose
from roadmap.config.effects import ineffective_settings
from roadmap.config.identity import decisive, identity
from roadmap.config.overrides import group_options
from roadmap.config.schema import OF_OBJECTS, Interpolation, Optimizer, Pipeline, Precision
from roadmap.config.steps import known_steps
from roadmap.data.batches import BatchPlan
from roadmap.data.images import sources
from roadmap.data.pipeline import input_pipeline
from roadmap.data.transforms import train_transform, val_transform
from roadmap.model.network import build_network, network_of
from roadmap.train import recipe as parts
from roadmap.train.progress import Bar
from roadmap.train.update import Update

CPU = torch.device("cpu")
SGD = ["recipe.optimizer=sgd", "recipe.lr=0.1", "recipe.lr_batch=256", "recipe.weight_decay=1e-4", "recipe.decay_spares=none"]
STEPPED = [*SGD, "recipe.schedule=step", "recipe.warmup_epochs=0"]


def composed(*overrides, step="resnet"):
    return compose([f"+step={step}", *QUICK, "runtime.compile=none", *overrides])


def prepared(tmp_path, *overrides, step="resnet"):
    return runs.prepared(composed(f"output={tmp_path}", *overrides, step=step))


def weights(run):
    return {name: value.detach().clone() for name, value in run.network.named_parameters()}


def rates(recipe, updates_per_epoch, group=0):
    """The rate of every update."""
    optimizer = parts.optimizer(recipe, nn.Linear(2, 2))
    schedule = parts.schedule(recipe, optimizer, updates_per_epoch)
    found = []
    for update in range(recipe.epochs * updates_per_epoch):
        schedule.step_update(update)
        found.append(optimizer.param_groups[group]["lr"])
    return found


# --- optimizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_the_first_hundred_updates_of_sgd_are_torchs_own(tmp_path, momentum, nesterov):
    """Rate, momentum and decay, over milestones too: torch's plain optimizer and scheduler in a loop of five lines."""
    settings = [f"recipe.momentum={momentum}", f"recipe.nesterov={nesterov}", "model.drop_path=0", "recipe.milestones=[0.3,0.6]"]
    run = prepared(tmp_path, *STEPPED, *settings, "recipe.epochs=10", "recipe.batch_size=64", "data.image_size=32")
    network = run.network.double().train()  # in float32 a hundred updates make something of a last bit
    by_hand = copy.deepcopy(network)
    ours = parts.optimizer(run.recipe, network)
    schedule, step = parts.schedule(run.recipe, ours, run.data.updates), Update(network, ours, run.task, Precision.float32, ALONE)
    sgd = torch.optim.SGD(by_hand.parameters(), 0.1 * 64 / 256, momentum, weight_decay=1e-4, nesterov=nesterov, foreach=False)
    updates = run.data.updates
    theirs = torch.optim.lr_scheduler.MultiStepLR(sgd, [round(3.0 * updates), round(6.0 * updates)], 0.1)
    whole = itertools.islice(run.data.epoch(0), 10)
    batches = [batch._replace(images=batch.images[:16].double(), targets=batch.targets[:16]) for batch in whole]
    for update in range(100):
        batch = batches[update % 10]
        schedule.step_update(update)
        step([batch], lambda _: None)
        sgd.zero_grad()
        nn.CrossEntropyLoss(label_smoothing=0.1)(by_hand(batch.images), batch.targets).backward()
        sgd.step()
        theirs.step()
    expected = dict(by_hand.named_parameters())
    for name, value in weights(run).items():
        assert torch.allclose(value, expected[name], rtol=0, atol=1e-10), name
    assert ours.param_groups[0]["lr"] == pytest.approx(0.1 * 64 / 256 * 0.01)


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_every_optimizer_learns_goes_on_to_the_same_bits_and_holds_back(tmp_path, optimizer):
    rate = {"sgd": 0.1, "lamb": 2e-2, "lion": 3e-4}.get(optimizer, 3e-3)
    settings = [f"recipe.optimizer={optimizer}", f"recipe.lr={rate}", "recipe.epochs=4", "recipe.lr_batch=64"]
    whole = prepared(tmp_path / "whole", *settings)
    lines = train(whole)
    assert lines[-1]["train_loss"] < lines[0]["train_loss"] - 0.1
    first = prepared(tmp_path / "parts", *settings)
    with Bar(1, 0, "", show=False) as bar:
        list(itertools.islice(first.train(bar, Stop()), 2))
        first.state.save()
    again = prepared(tmp_path / "parts", *settings)
    again.state.resume()
    assert again.state.epoch == 2
    train(again)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    before, batch = weights(again), next(again.data.epoch(0))
    for poison in (float("nan"), 1.0):
        again.step([batch._replace(images=batch.images * poison)], lambda _: None)
    assert all(torch.equal(value, weights(again)[name]) for name, value in before.items())


@pytest.mark.parametrize("optimizer", [name for name in Optimizer if name.facts.fused])
def test_an_overflow_in_the_first_update_leaves_no_trace(tmp_path, optimizer):
    """float16's scaler begins too high, as a rule: what it skips must not be in the momentum."""
    run = prepared(tmp_path, f"recipe.optimizer={optimizer}", "recipe.precision=float16")
    batch, before = next(run.data.epoch(0)), weights(run)
    hook = run.network.head.fc.weight.register_hook(lambda gradient: gradient * float("inf"))
    run.step([batch], lambda _: None)
    hook.remove()
    state = [value for of_weight in run.step.optimizer.state.values() for value in of_weight.values()]
    assert all(not value.any() for value in state)
    assert all(torch.equal(value, weights(run)[name]) for name, value in before.items())


def test_the_default_optimizer_is_timms_adamw_to_the_bit(tmp_path):
    """As it was before there was a choice: the same groups in the same order."""
    run = prepared(tmp_path, step="separate_downsampling")
    old = parts.create_optimizer_v2(
        copy.deepcopy(run.network), opt="adamw", lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8, fused=True
    )
    found = run.step.optimizer
    assert type(found) is type(old)
    assert len(found.param_groups) == len(old.param_groups) == 2
    for group, expected in zip(found.param_groups, old.param_groups, strict=True):
        assert [weight.shape for weight in group["params"]] == [weight.shape for weight in expected["params"]]
        for key in expected.keys() - {"params", "lr", "initial_lr"}:
            assert group[key] == expected[key], key


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [[], ["recipe.layer_decay=0.7"]])
@pytest.mark.parametrize(
    ("spared", "spares"),
    [
        ("vectors", lambda name, weight: weight.ndim == 1),
        ("norm_bias", lambda name, weight: weight.ndim == 1 and "gamma" not in name),
        ("none", lambda name, weight: False),
    ],
)
def test_what_weight_decay_spares(spared, spares, layers):
    experiment = composed(f"recipe.decay_spares={spared}", "recipe.weight_decay=0.03", *layers, step="separate_downsampling")
    network = build_network(experiment.model, 10)
    groups = parts.optimizer(experiment.recipe, network).param_groups
    decays = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    for name, weight in network.named_parameters():
        assert decays[id(weight)] == (0.0 if spares(name, weight) else 0.03), name


def scale_of_layers(step, scale):
    """The rate of each weight as a share of the head's, by its name."""
    experiment = compose([f"+step={step}", f"scale={scale}", "recipe.layer_decay=0.5"])
    with torch.device("meta"):
        network = build_network(experiment.model, 10)
    groups = parts.optimizer(experiment.recipe, network).param_groups
    scales = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    return {name: scales[id(weight)] for name, weight in network.named_parameters()}


@pytest.mark.parametrize("step", known_steps())
def test_layers_of_a_decaying_rate_are_not_degenerate(step):
    """Stem, then three blocks a layer within each stage, then the head: one rule for every step."""
    scales = scale_of_layers(step, "tiny")
    depths = compose([f"+step={step}"]).model.depths
    layers = 2 + sum(math.ceil(depth / 3) for depth in depths)
    assert set(scales.values()) == {0.5**layer for layer in range(layers)}
    assert {scale for name, scale in scales.items() if name.startswith("stem.")} == {0.5 ** (layers - 1)}
    assert {scale for name, scale in scales.items() if name.startswith("head.")} == {1.0}
    of_stage = [{scale for name, scale in scales.items() if name.startswith(f"stages.{i}.")} for i in range(4)]
    assert all(min(later) > max(earlier) for earlier, later in itertools.pairwise(of_stage))


def test_layers_are_the_papers_twelve_where_it_fine_tunes():
    """Appendix A.2: groups of three blocks. What lies between two stages goes with the blocks after it."""
    scales = scale_of_layers("separate_downsampling", "small")
    number = {name: -round(math.log2(scale)) for name, scale in scales.items()}
    for block in range(27):
        assert number[f"stages.2.blocks.{block}.branch.0.conv.weight"] == 13 - (3 + block // 3)
    for stage, layer in ((1, 2), (2, 3), (3, 12)):
        assert {n for name, n in number.items() if name.startswith(f"stages.{stage}.downsampling")} == {13 - layer}
    assert (number["stem.layer.conv.weight"], number["stages.0.blocks.2.scale.gamma"], number["head.fc.weight"]) == (13, 12, 0)


def test_a_decaying_rate_keeps_its_schedule():
    recipe = composed("recipe.layer_decay=0.5", "recipe.lr_batch=64", "recipe.lr=1.0", "recipe.min_lr=0").recipe
    network = build_network(composed().model, 10)
    optimizer = parts.optimizer(recipe, network)
    schedule = parts.schedule(recipe, optimizer, 10)
    schedule.step_update(5)  # the warm-up of half an epoch is over
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(1.0)
    assert all(group["lr"] == pytest.approx(group["lr_scale"]) for group in optimizer.param_groups)


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "updates"), [(90, 5), (9, 50), (30, 1)])
def test_milestones_are_shares_of_the_training(epochs, updates):
    recipe = composed(*STEPPED, f"recipe.epochs={epochs}", "recipe.batch_size=256").recipe
    third = epochs * updates // 3
    expected = [0.1] * third + [0.01] * third + [0.001] * third
    assert rates(recipe, updates) == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["schedule=constant"], lambda done: 1.0),
        (["schedule=polynomial"], lambda done: 0.1 + 0.9 * (1 - done)),
        (["schedule=polynomial", "lr_power=2"], lambda done: 0.1 + 0.9 * (1 - done) ** 2),
        (["schedule=cosine"], lambda done: 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2),
        (["schedule=step", "milestones=[0.5]", "lr_factor=0.2"], lambda done: 1.0 if done < 0.5 else 0.2),
    ],
)
def test_schedules_warm_up_and_follow_their_formula(settings, expected, warmup):
    words = [f"recipe.{setting}" for setting in settings]
    recipe = composed(
        *words, f"recipe.warmup_epochs={warmup}", "recipe.epochs=10", "recipe.lr=1", "recipe.lr_batch=64", "recipe.min_lr=0.1"
    ).recipe
    found, warm = rates(recipe, 10), 10 * warmup
    assert found[:warm] == pytest.approx([update / warm for update in range(warm)])
    whole = recipe.schedule == "step"  # its milestones are shares of the whole
    for update in range(warm, 100):
        done = update / 100 if whole else (update - warm) / (100 - warm)
        assert found[update] == pytest.approx(expected(done)), update


def test_a_warm_up_starts_where_it_is_told_to():
    said = [f"recipe.{setting}" for setting in ("warmup_start=0.25", "warmup_epochs=2", "epochs=10", "lr=1", "lr_batch=64")]
    assert rates(composed(*said).recipe, 10)[:21] == pytest.approx([0.25 + 0.75 * update / 20 for update in range(21)])


# --- clipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["norm", "value"])
def test_clipping_bounds_the_gradient_and_not_its_record(tmp_path, mode, precision):
    settings = ["recipe.clip_grad=1e-3", f"recipe.clip_mode={mode}", f"recipe.precision={precision}", "recipe.warmup_epochs=0"]
    run = prepared(tmp_path, *settings)
    batch = next(run.data.epoch(0))
    norm = next(norm for _ in range(30) if (norm := run.step([batch], lambda _: None)[1]))  # 0: float16's scaler skips it
    gradient = torch.cat([weight.grad.flatten() for weight in run.network.parameters()])
    assert norm > 0.1  # of the gradient as it was
    if mode == "norm":
        assert gradient.norm().item() == pytest.approx(1e-3, rel=1e-3)
    else:
        assert gradient.abs().max().item() == pytest.approx(1e-3)
        assert gradient.norm() > 2e-3


# --- the start, dropout ----------------------------------------------------------------------------------------------


def test_weights_start_as_the_recipe_says():
    model = composed("model.width=32", step="patchify_stem").model
    torch.manual_seed(0)
    paper, theirs = (network_of(model, None, 10, 32, initialisation=kind) for kind in ("paper", "torchvision"))
    for ours, other in zip(paper.modules(), theirs.modules(), strict=True):
        if isinstance(ours, nn.Conv2d):
            fan_out = ours.weight.shape[0] * ours.weight[0, 0].numel()
            assert ours.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert other.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
            assert other.bias is None or not other.bias.any()
    bound = theirs.num_features**-0.5
    assert theirs.head.fc.weight.abs().max().item() == pytest.approx(bound, rel=0.05)
    assert theirs.head.fc.bias.any()
    assert not paper.head.fc.bias.any()
    theirs.reset_classifier(4)
    assert theirs.head.fc.weight.abs().max().item() == pytest.approx(bound, rel=0.05)


@pytest.mark.parametrize("reference", [None, "resnet10t"])
def test_dropout_reaches_the_classifier(reference):
    model = composed("model.drop_path=0").model
    network = network_of(model, reference, 10, 32, drop_rate=0.99).train()
    images = torch.rand(2, 3, 64, 64)
    assert not torch.allclose(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


# --- augmentation ----------------------------------------------------------------------------------------------------

POLICIES = ["trivial", "original", "originalr", "v0", "v0r", "v0-mstd0.5", "3a", "augmix-m5-w4-d2"]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_makes_pictures_and_is_alone(policy):
    experiment = composed(f"recipe.auto_augment={policy}", "recipe.crop_scale=[1,1]", "data.hflip=0")
    picture = Image.effect_noise((40, 40), 60).convert("RGB")
    transform, plain = train_transform(experiment.data, experiment.recipe), train_transform(experiment.data, composed().recipe)
    made = [transform(picture) for _ in range(20)]
    assert all(one.shape == plain(picture).shape and one.dtype == torch.uint8 for one in made)
    assert any(not torch.equal(one, made[0]) for one in made[1:])
    with pytest.raises(Refused, match=r"recipe\.auto_augment=.*: must be null beside recipe\.randaugment=rand-m9"):
        composed(f"recipe.auto_augment={policy}", "recipe.randaugment=rand-m9-mstd0.5-inc1")


def test_colour_jitter_and_interpolation_reach_the_pictures():
    base = ["recipe.color_jitter=0.4", "recipe.interpolation=bilinear"]
    for policy in ([], ["recipe.randaugment=rand-m9-mstd0.5-inc1"], ["recipe.auto_augment=trivial"]):
        experiment = composed(*base, *policy)
        kinds = [type(part) for part in train_transform(experiment.data, experiment.recipe).transforms]
        assert ColorJitter in kinds
        assert (TrivialAugmentWide in kinds) == (policy == ["recipe.auto_augment=trivial"])
    picture = Image.effect_noise((50, 50), 60).convert("RGB")
    bicubic, bilinear = (val_transform(experiment.data, kind)(picture) for kind in Interpolation)
    assert not torch.equal(bicubic, bilinear)
    found = sources.checked_images(experiment.data, 64)
    ours, plain = (
        next(input_pipeline(BatchPlan(experiment.data, one, 0, found, CPU)).evaluation()).images
        for one in (experiment.recipe, composed().recipe)
    )
    assert not torch.equal(ours, plain)


@pytest.mark.parametrize("setting", ["auto_augment=v0", "color_jitter=0.4", "interpolation=bilinear"])
def test_pictures_that_only_timm_makes_are_refused_elsewhere_and_auto_takes_the_loader(monkeypatch, setting):
    for pipeline in ("device", "stream"):
        with pytest.raises(Refused, match=rf"data\.pipeline={pipeline}: must be loader or auto with recipe\.{setting}"):
            composed(f"recipe.{setting}", f"data.pipeline={pipeline}")
    monkeypatch.setattr("roadmap.data.pipeline._pick", lambda *_: Pipeline.device)  # as auto would on a GPU
    experiment = composed(f"recipe.{setting}")
    found = sources.checked_images(experiment.data, 64)
    assert input_pipeline(BatchPlan(experiment.data, experiment.recipe, 0, found, CPU)).name == Pipeline.loader


# --- refusals, warnings, identity ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("optimizer=adam", r"recipe\.optimizer: invalid value 'adam'.*adamw"),
        ("optimizer=null", r"recipe\.optimizer"),
        ("schedule=linear", r"recipe\.schedule: invalid value 'linear'.*cosine, step, polynomial, constant"),
        ("momentum=1", r"recipe\.momentum=1.*at least 0 and below 1"),
        ("momentum=-0.1", "at least 0"),
        ("nesterov=0.9", r"recipe\.nesterov"),
        ("decay_spares=bias", "vectors, norm_bias, none"),
        ("layer_decay=1", r"recipe\.layer_decay=1.*above 0 and below 1"),
        ("clip_grad=0", r"recipe\.clip_grad=0.*above 0"),
        ("clip_mode=agc", "norm, value"),
        ("milestones=[]", r"recipe\.milestones=\[\].*shares of the training"),
        ("milestones=[0.6,0.3]", "each larger than the one before"),
        ("milestones=[30,60]", "between 0 and 1"),
        ("milestones=0.5", r"recipe\.milestones=0\.5: must be a list, recipe\.milestones=\[\.\.\.\]"),
        ("lr_factor=0", "above 0 and below 1"),
        ("lr_power=0", "above 0"),
        ("dropout=1", r"recipe\.dropout=1"),
        ("initialisation=kaiming", "paper, torchvision"),
        ("auto_augment=rand-m9", r"RandAugment is recipe\.randaugment"),
        ("auto_augment=v1", "original, originalr, v0, v0r, 3a"),
        ("auto_augment=v0-mstdx", r"recipe\.auto_augment=v0-mstdx"),
        ("color_jitter=1.5", "at most 1"),
        ("interpolation=nearest", "bicubic, bilinear"),
        ("layer_decai=0.7", "layer_decay"),
    ],
)
def test_a_bad_coordinate_is_refused_with_what_is_allowed(setting, says):
    with pytest.raises(Refused, match=says):
        composed(f"recipe.{setting}")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["optimizer=sgd", "momentum=0", "nesterov=true"], r"recipe\.nesterov=true: must be false without recipe\.momentum"),
        (["optimizer=lion", "precision=float16"], r"recipe\.optimizer=lion: must be one of adamw, sgd with"),
        (["schedule=step", "milestones=[0.2,0.9]", "warmup_epochs=0.5"], r"after the warm-up, which ends at 0\.25 of"),
    ],
)
def test_coordinates_at_odds_are_refused(settings, says):
    with pytest.raises(Refused, match=says):
        composed(*(f"recipe.{setting}" for setting in settings))


@pytest.mark.parametrize(
    ("setting", "beside"),
    [
        ("momentum=0.8", []),
        ("nesterov=true", ["optimizer=lamb"]),
        ("betas=[0.9,0.95]", ["optimizer=sgd"]),
        ("eps=1e-6", ["optimizer=lion"]),
        ("milestones=[0.5]", []),
        ("lr_factor=0.5", ["schedule=constant"]),
        ("lr_power=2", ["schedule=step"]),
        ("min_lr=1e-5", ["schedule=constant"]),
        ("clip_mode=value", []),
        ("warmup_start=0.1", ["warmup_epochs=0"]),
        ("decay_spares=none", ["weight_decay=0"]),
    ],
)
def test_a_coordinate_without_effect_is_named(setting, beside):
    words = ["+step=gelu", *(f"recipe.{word}" for word in (*beside, setting))]
    (warning,) = ineffective_settings(compose(words), words)
    assert warning.startswith(f"recipe.{setting.split('=')[0]} has no effect here")


def test_a_coordinate_with_effect_is_not_named():
    words = [
        "+step=gelu", "recipe.optimizer=muon", "recipe.momentum=0.95", "recipe.nesterov=true", "recipe.betas=[0.9,0.95]",
        "recipe.schedule=step", "recipe.milestones=[0.5]", "recipe.lr_factor=0.5", "recipe.clip_grad=1", "recipe.clip_mode=value",
        "recipe.decay_spares=none", "recipe.initialisation=torchvision", "recipe.interpolation=bilinear",
    ]  # fmt: skip
    assert ineffective_settings(compose(words), words) == []
    reference = ["reference=resnet18", "recipe.initialisation=torchvision"]
    (warning,) = ineffective_settings(compose(reference), reference)
    assert warning.startswith("recipe.initialisation has no effect here: resnet18 starts as timm starts it")


CHANGES = [
    "optimizer=sgd", "momentum=0.8", "nesterov=true", "decay_spares=none", "layer_decay=0.7", "clip_grad=1", "clip_mode=value",
    "schedule=step", "milestones=[0.5]", "lr_factor=0.5", "lr_power=2", "dropout=0.1", "initialisation=torchvision",
    "auto_augment=trivial", "color_jitter=0.1", "interpolation=bilinear", "updates=90", "warmup_updates=9", "warmup_start=0.1",
    "decay_layers=12", "head_scale=0.5",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_coordinate_counts_where_it_is_not_the_roadmaps(change):
    """A run that says what is so anyway is the run from before it could be said."""
    plain, key = compose(["+step=gelu"]), change.split("=")[0]
    other = compose(["+step=gelu", f"recipe.{change}"])
    assert identity(plain, "f") != identity(other, "f")
    assert key not in decisive(plain, "f")["recipe"]
    assert decisive(other, "f")["recipe"][key] is not None
    default = getattr(plain.recipe, key)
    said = compose(["+step=gelu", f"recipe.{key}={'null' if default is None else str(default).replace(' ', '')}"])
    assert identity(said, "f") == identity(plain, "f")


def test_every_step_and_scale_keeps_its_recipe():
    """No coordinate is forgotten here: each has a change above, or was there before."""
    recipe = compose(["+step=gelu"]).recipe
    kept = decisive(compose(["+step=gelu"]), "f")["recipe"].keys()
    others = {key for key in vars(recipe) if key != "name"} - kept - OF_OBJECTS.keys()
    assert others == {change.split("=")[0] for change in CHANGES}
    assert {"paper", "short", "smoke"} <= set(group_options("recipe"))


def test_lamb_leaves_clipping_to_the_recipe():
    """timm's clips at a norm of 1 unless it is told not to."""
    recipe = composed("recipe.optimizer=lamb").recipe
    assert parts.optimizer(recipe, nn.Linear(2, 2)).defaults["max_grad_norm"] is None
