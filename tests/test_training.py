"""Training: faithful to the recipe, equal bit for bit when repeated, and able to go on where it stopped."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import QUICK
from runs import executed, prepared, same, stopped, train, weights

from roadmap.base.errors import Diverged, Refused, StorageFault
from roadmap.base.signals import Stop
from roadmap.config.compose import compose
from roadmap.config.identity import identity
from roadmap.config.schema import Compile, Device, Precision, StepConfig
from roadmap.model.cost import cost
from roadmap.model.layers import LayerScale
from roadmap.record.folder import RunFolder
from roadmap.record.result import dump_result
from roadmap.tasks.choose import choose_task
from roadmap.train import checkpoint, recipe
from roadmap.train.compiling import compile_network, pick_compile
from roadmap.train.precision import pick_precision
from roadmap.train.ranks import Ranks, pick_device

EVERYTHING = [
    "recipe.mixup=0.8", "recipe.cutmix=1.0", "recipe.randaugment=rand-m9-mstd0.5-inc1", "recipe.random_erasing=0.25",
    "model.drop_path=0.3", "recipe.epochs=2", "recipe.batch_size=256", "recipe.micro_batch=128", "recipe.ema=0.9",
]  # fmt: skip


def composed(tmp_path, *overrides, step="gelu"):
    return compose([f"+step={step}", *QUICK, f"output={tmp_path}", *overrides])


def trainer(tmp_path, *overrides, step="gelu"):
    return prepared(composed(tmp_path, *overrides, step=step))


@pytest.mark.parametrize("step", ["resnet", "separate_downsampling"])
def test_two_runs_are_equal_bit_for_bit_and_two_seeds_are_not(tmp_path, step):
    settings = [*EVERYTHING, "recipe.epochs=1"]
    first, again, other = (trainer(tmp_path, *settings, f"seed={seed}", step=step) for seed in (3, 3, 4))
    lines = [train(run) for run in (first, again, other)]
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
    for a, b in zip(lines[0], lines[1], strict=True):
        assert {k: a[k] for k in ("train_loss", "val_loss", "top1")} == {k: b[k] for k in ("train_loss", "val_loss", "top1")}


def test_the_number_of_workers_changes_no_bit(tmp_path):
    """Mixup and stochastic depth draw in the main process, whose generators the loader's processes do not move."""
    alone, helped = (trainer(tmp_path, *EVERYTHING, "recipe.epochs=1", f"data.workers={workers}") for workers in (0, 2))
    assert train(alone)[0]["train_loss"] == train(helped)[0]["train_loss"]
    assert same(weights(alone), weights(helped))


@pytest.mark.parametrize("step", ["resnet", "separate_downsampling"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, step):
    whole = trainer(tmp_path / "a", *EVERYTHING, step=step)
    expected = train(whole)
    lines = []
    for updates in (1, 2, 3):  # in the first epoch, over its end, in the second
        run = trainer(tmp_path / "b", *EVERYTHING, step=step)
        assert run.state.resume() == []
        lines += stopped(run, updates)
    last = trainer(tmp_path / "b", *EVERYTHING, step=step)
    last.state.resume()
    lines += train(last)
    assert same(weights(whole), weights(last))
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in expected]
    assert [line["top1"] for line in lines] == [line["top1"] for line in expected]


def test_a_streamed_run_goes_on_with_the_images_on_the_device_to_the_same_bits(tmp_path):
    kinds = ["data.pipeline=stream"], ["data.pipeline=device"]
    whole = trainer(tmp_path / "a", *EVERYTHING, *kinds[0])
    assert whole.data.name == "stream"
    expected = train(whole)
    stopped(trainer(tmp_path / "b", *EVERYTHING, *kinds[0]), 2)
    last = trainer(tmp_path / "b", *EVERYTHING, *kinds[1])
    last.state.resume()
    assert [line["train_loss"] for line in train(last)] == [line["train_loss"] for line in expected[-last.recipe.epochs :]]
    assert same(weights(whole), weights(last))


def test_parameter_groups(tmp_path):
    run = trainer(tmp_path, step="separate_downsampling")
    groups = {group["weight_decay"]: {id(p) for p in group["params"]} for group in run.step.optimizer.param_groups}
    assert set(groups) == {0.0, 0.05}
    for name, parameter in run.network.named_parameters():
        assert (id(parameter) in groups[0.0]) == (parameter.ndim == 1), name
    gammas = [m.gamma for m in run.network.modules() if isinstance(m, LayerScale)]
    assert gammas
    assert all(id(gamma) in groups[0.0] for gamma in gammas)


def test_schedule_is_linear_then_cosine_per_update(tmp_path):
    run = trainer(
        tmp_path, "recipe.epochs=10", "recipe.warmup_epochs=2", "recipe.lr=1.0", "recipe.lr_batch=64", "recipe.min_lr=1e-3"
    )
    schedule = recipe.schedule(run.recipe, run.step.optimizer, 10)
    rates = []
    for update in range(101):
        schedule.step_update(update)
        rates.append(run.step.optimizer.param_groups[0]["lr"])
    assert rates[0] == 0.0
    assert rates[10] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx((1.0 + 1e-3) / 2)
    assert rates[100] == pytest.approx(1e-3)
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))


def test_a_run_learns_and_follows_its_schedule(tmp_path):
    """The digits study's own recipe: far above chance after three epochs, at the rates of the formula."""
    experiment = compose(["+study=digits", "+step=resnet", f"output={tmp_path}", "runtime.progress=false"])
    run = prepared(experiment)
    lines = train(run)
    assert lines[-1]["top1"] > 80
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    updates, warmup, last = 99, 33, 98
    cosine = 1e-6 + (2e-3 - 1e-6) * (1 + math.cos(math.pi * (last - warmup) / (updates - warmup))) / 2
    assert [line["lr"] for line in lines] == pytest.approx([2e-3 * 32 / 33, lines[1]["lr"], cosine])
    assert not run.network.training  # evaluated last
    statistics = run.network.stem.layer.norm.running_mean.clone()
    run.evaluate(run.network, Stop())
    assert torch.equal(statistics, run.network.stem.layer.norm.running_mean)


def break_forward(run):
    run.network.stages[2].blocks[0].branch[1].conv.register_forward_hook(lambda *_: _[2] * float("inf"))
    return r"the loss is nan in step gelu, epoch 1, update 1; stages\.2\.blocks\.0\.branch\.1\.conv is the first layer to put out"


def break_gradient(run):
    run.network.stages[1].blocks[0].branch[2].conv.weight.register_hook(lambda gradient: gradient * float("inf"))
    where = r"stages\.1\.blocks\.0\.branch\.2\.conv\.weight is the first"
    return rf"the norm of the gradient is \w+ in step gelu, epoch 1, update 1; {where}"


@pytest.mark.parametrize(
    ("precision", "fault"), [("float32", break_forward), ("float16", break_forward), ("float32", break_gradient)]
)
def test_what_is_not_finite_is_named_and_does_not_reach_the_weights(tmp_path, fault, precision):
    run = trainer(tmp_path, f"recipe.precision={precision}", "recipe.micro_batch=32")
    before = weights(run)
    said = fault(run)
    with pytest.raises(Diverged, match=said):
        train(run)
    after = weights(run)
    assert all(torch.equal(before[name], after[name]) for name in before if "running" not in name and "tracked" not in name)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_update_that_is_not_finite_holds_back_those_under_way(tmp_path, precision):
    """On a GPU the loop hears of a fault some updates late; the weights must not move meanwhile."""
    run = trainer(tmp_path, f"recipe.precision={precision}")
    batch = next(run.data.epoch(0))
    before = weights(run)
    for poisoned in (True, False):
        numbers = run.step([batch._replace(images=batch.images * float("nan")) if poisoned else batch], lambda k: None)
        assert numbers[:2].isfinite().all() != poisoned
    assert all(
        torch.equal(before[name], after)
        for name, after in weights(run).items()
        if "running" not in name and "tracked" not in name
    )


def test_float16_scales_the_loss_and_diverges_when_no_scale_helps(tmp_path):
    run = trainer(tmp_path, "recipe.precision=float16", "recipe.epochs=1", "recipe.batch_size=256")
    run.step.scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**40, growth_interval=1000
    )  # overflows, then halves until it fits
    (line,) = train(run)
    assert 0 < line["train_loss"] < 5
    assert run.step.scaler.get_scale() < 2.0**40
    other = trainer(tmp_path, "recipe.precision=float16", "recipe.batch_size=256", "seed=1")
    other.step.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    other.network.head.fc.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Diverged, match="update 3"):  # 4, 2, 1, and below
        train(other)


def test_averaged_weights_are_scored(tmp_path):
    run = trainer(tmp_path, "recipe.ema=0.9", "recipe.epochs=1")
    start = weights(run)
    (line,) = train(run)
    average = run.state.average.module.state_dict()
    assert not same(weights(run), average)
    assert line["top1_without_ema"] == run.evaluate(run.network, Stop())["top1"]
    assert line["val_loss"] == run.evaluate(run.state.average.module, Stop())["val_loss"]
    name = "head.fc.weight"
    drift = [(tensor - start[name]).norm() for tensor in (average[name], run.network.state_dict()[name])]
    assert 0 < drift[0] < drift[1]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks there
def test_equal_blocks_share_compiled_code_and_drop_the_same_images(tmp_path):
    run = trainer(tmp_path, "model.depths=[1,3,1,1]", "model.drop_path=0.5", step="separate_downsampling")
    plain = run.network.stages[1].blocks
    compiled = copy.deepcopy(plain)
    torch._dynamo.utils.counters.clear()
    assert compile_network(compiled, Compile.blocks) == Compile.blocks
    images = torch.randn(8, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    outputs = []
    for blocks in (plain, compiled):
        torch.manual_seed(1)
        outputs.append(blocks.train()(images))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("step", ["resnet", "separate_downsampling"])
def test_stem_and_downsampling_are_compiled_beside_the_blocks(tmp_path, step):
    network = trainer(tmp_path, step=step).network
    compile_network(network, Compile.blocks)
    compiled = {name for name, module in network.named_modules() if module._compiled_call_impl is not None}
    pieces = {"stem", *(f"stages.{i}.blocks.{j}" for i, stage in enumerate(network.stages) for j in range(len(stage.blocks)))}
    separate = {f"stages.{i}.downsampling" for i in (1, 2, 3)} if step == "separate_downsampling" else set()
    assert compiled == pieces | separate


def test_what_auto_compiles(tmp_path):
    def picked(experiment, images, device):
        task = choose_task(experiment, "0123456789")
        cost = functools.partial(task.cost, experiment.model, experiment.reference)
        return pick_compile(experiment.runtime.compile, experiment.recipe, images, cost, torch.device(device))

    digits = composed(tmp_path)
    photographs = compose(["+step=gelu", "data=folder", "data.path=/x", "scale=tiny", "recipe=paper"])
    assert picked(digits, 1083, "cuda") == Compile.none
    assert picked(photographs, 9469, "cuda") == Compile.blocks
    assert picked(photographs, 9469, "cpu") == Compile.none


def test_an_evaluation_that_is_not_finite_is_no_score(tmp_path):
    run = trainer(tmp_path)
    run.network.head.fc.bias.data.fill_(float("nan"))
    with pytest.raises(Diverged, match="evaluation"):
        run.evaluate(run.network, Stop())


def test_weights_that_find_no_room_do_not_cost_the_result(tmp_path, monkeypatch):
    experiment = composed(tmp_path)
    folder = RunFolder.of(experiment, "0" * 16)
    (folder.path / "weights.safetensors" / "in the way").mkdir(parents=True)
    with pytest.raises(StorageFault, match=r"weights\.safetensors"):
        executed(experiment)
    assert folder.result().done


def test_a_state_of_another_precision_is_refused(tmp_path):
    trainer(tmp_path, "recipe.precision=auto").state.save()
    other = trainer(tmp_path, "recipe.precision=auto")
    other.state.about["precision"] = "bfloat16"
    with pytest.raises(Refused, match="float32 and would go on in bfloat16"):
        other.state.resume()


def test_mixup_and_cutmix_take_turns_by_whole_batches(tmp_path):
    run = trainer(tmp_path, "recipe.mixup=0.8", "recipe.cutmix=1.0")
    torch.manual_seed(0)
    kinds = []
    for i in range(40):
        recipe_seed(i)
        images, targets = run.task.mixing(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]), torch.tensor([1, 2]))
        values = images.unique()
        kinds.append("cutmix" if set(values.tolist()) <= {0.0, 1.0} else "mixup")
        assert targets.sum(1).tolist() == pytest.approx([1.0, 1.0])
        assert targets.min() == pytest.approx(0.1 / 10)  # label smoothing
    assert 10 < kinds.count("cutmix") < 30


def recipe_seed(i):
    from roadmap.data.batches import seed_all

    seed_all(0, i)


def test_label_smoothing_without_mixing(tmp_path):
    loss = trainer(tmp_path).task.criterion(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.1 * 100 / 2)


def test_evaluation_counts_every_image_once(tmp_path):
    run = trainer(tmp_path, "recipe.batch_size=100")
    with torch.no_grad():
        run.network.head.fc.weight.zero_()
        run.network.head.fc.bias.copy_(torch.arange(10.0))
    scores = run.evaluate(run.network, Stop())
    read = run.data.val.dataset.load
    targets = [read(i)[1] for i in range(714)]
    assert scores["top1"] == pytest.approx(100 * targets.count(9) / 714)
    assert scores["top5"] == pytest.approx(100 * sum(t >= 5 for t in targets) / 714)


@pytest.mark.parametrize(("pixels", "at_once"), [(32, 128), (96, 32)])
def test_small_images_are_evaluated_more_at_once_than_they_are_trained_on(tmp_path, pixels, at_once):
    run = trainer(tmp_path, "recipe.batch_size=32", f"data.image_size={pixels}")
    numbers = [len(batch.targets) for batch in run.data.evaluation()]
    assert numbers == [at_once] * (714 // at_once) + [714 % at_once]


def test_fewer_evaluations_change_no_bit_of_the_result(tmp_path):
    settings = "recipe.epochs=4", "recipe.ema=0.9"
    every = executed(composed(tmp_path / "every", *settings))
    third = composed(tmp_path / "third", *settings, "runtime.evaluate_every=3")
    result, lines = executed(third), RunFolder.of(third, "0" * 16).history()
    assert (result.run, result.scores, result.train_loss) == (every.run, every.scores, every.train_loss)
    assert ["top1" in line and "top1_without_ema" in line for line in lines] == [False, False, True, True]
    assert all(line["train_loss"] > 0 and line["lr"] > 0 for line in lines)


def test_a_run_leaves_its_whole_record(tmp_path):
    experiment = composed(tmp_path)
    result = executed(experiment)
    folder = RunFolder.of(experiment, "0" * 16)
    assert {p.name for p in folder.path.iterdir()} == {
        "config.yaml",
        "history.jsonl",
        "log.txt",
        "result.json",
        "updates.csv",
        "weights.safetensors",
    }
    assert folder.path.parent == tmp_path / "single" / "runs"
    written = json.loads((folder.path / "result.json").read_text())
    assert written == dump_result(result)
    last = folder.history()[-1]
    assert (result.status, result.scores["top1"], result.scores["top5"]) == ("done", last["top1"], last["top5"])
    assert len(folder.history()) == 2
    assert written["versions"]["torch"] == torch.__version__.split("+")[0] or written["versions"]["torch"] == torch.__version__
    assert set(written["git"]) == {"commit", "dirty"}
    assert written["data"]["fingerprint"] == "0" * 16
    started = time.monotonic()
    assert executed(experiment) == result  # read, not repeated
    assert time.monotonic() - started < 0.5


def test_a_reference_is_trained_like_a_step(tmp_path):
    """Timm's ConvNeXt in place of ours: the same size, cost and schedule; only what it is differs."""
    recipe = ["scale=atto", "recipe=smoke", "data.image_size=32", "runtime.progress=false", f"output={tmp_path}"]
    experiment = compose(["reference=convnext_atto", *recipe])
    result = executed(experiment)
    own = compose(["+step=separate_downsampling", *recipe])
    counted = cost(own.model, 10, 32)
    assert result.done
    assert result.step == StepConfig("convnext_atto", None, "convnext_atto")
    assert result.model == {"reference": "convnext_atto", "drop_path": own.model.drop_path}
    assert (result.gmacs, result.params_m) == (counted.conv_linear / 1e9, counted.params / 1e6)
    assert result.activations_m == counted.activations / 1e6
    assert result.gmacs_total is None
    assert "kernel_size" not in RunFolder.of(experiment, "0" * 16).path.joinpath("config.yaml").read_text()
    assert RunFolder.of(experiment, "0" * 16).path.name.startswith("convnext_atto-s0-")
    assert identity(own, "0" * 16) != identity(experiment, "0" * 16)


def test_a_run_that_diverges_is_a_result(tmp_path):
    experiment = compose(["+step=layer_norm", *QUICK, f"output={tmp_path}", "data.std=[1e-40,1e-40,1e-40]"])
    result = executed(experiment)
    assert result.status == "diverged"
    assert result.score is None
    assert "update" in result.reason


def test_devices_and_precisions():
    assert pick_device(Device.cpu).type == "cpu"
    assert pick_precision(Precision.auto, torch.device("cpu")) == Precision.float32
    assert pick_precision(Precision.auto, torch.device("cuda")) == Precision.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(Refused, match="no GPU"):
            pick_device(Device.cuda)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [["recipe.precision=float16"], ["recipe.ema=0.9", "recipe.micro_batch=32"], ["runtime.compile=blocks"]]
)
def test_the_loop_never_waits_for_the_gpu(tmp_path, settings, never_waiting):
    experiment = compose(["+step=separate_downsampling", *QUICK, *EVERYTHING[:5], f"output={tmp_path}", *settings])
    device = pick_device(Device.cuda)
    run = prepared(experiment, Ranks(device))
    batches = run.data.epoch(0)
    for _ in range(3):  # warm
        run.readings.push(run._step(batches))
    with never_waiting():
        for _ in range(9):
            run.readings.push(run._step(batches))
    assert all(math.isfinite(number) for reading in run.readings.drain() for number in reading)


@pytest.mark.gpu
def test_a_run_on_a_gpu_learns(tmp_path):
    experiment = compose(["+study=digits", "+step=resnet", f"output={tmp_path}", "runtime.compile=blocks"])
    result = executed(experiment)
    assert (result.precision, result.pipeline, result.compiled) == ("bfloat16", "device", "blocks")
    assert result.score > 80


def test_bfloat16_trains(tmp_path):
    run = trainer(tmp_path, "recipe.precision=bfloat16", "recipe.epochs=1", "recipe.batch_size=256")
    (line,) = train(run)
    assert 0 < line["train_loss"] < 5
    assert all(p.dtype == torch.float32 for p in run.network.parameters())


# Checkpoints.


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for update in (1, 2, 10):
        checkpoint.save(tmp_path, update // 10, update, {"update": update})
    kept = ["epoch-000000-update-00000002.pt", "epoch-000001-update-00000010.pt"]
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == kept
    assert checkpoint.load_newest(tmp_path) == ({"update": 10}, [])
    assert checkpoint.load_newest(tmp_path / "none") == (None, [])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:]])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, damage):
    for update in (1, 2):
        checkpoint.save(tmp_path, 0, update, {"weights": torch.arange(100.0), "update": update})
    newest = tmp_path / "epoch-000000-update-00000002.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    state, faults = checkpoint.load_newest(tmp_path)
    assert state["update"] == 1
    assert len(faults) == 1
    assert newest.name in faults[0]
    (tmp_path / "epoch-000000-update-00000001.pt").write_bytes(b"")
    with pytest.raises(StorageFault, match="no usable checkpoint"):
        checkpoint.load_newest(tmp_path)


def test_the_state_of_another_run_is_refused(tmp_path):
    run = trainer(tmp_path)
    run.state.save()
    other = trainer(tmp_path, "seed=1")
    other.state.folder.path.mkdir(parents=True)
    run.state.folder.checkpoints.rename(other.state.folder.checkpoints)
    with pytest.raises(StorageFault, match=r"another run.*seed: 0 / 1"):
        other.state.resume()


# The whole program.


def command(*arguments, cwd):
    return [sys.executable, "-m", "roadmap.run", *arguments], {"cwd": cwd}


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    arguments, options = command("+step=gelu", *QUICK, "recipe.epochs=5", "recipe.batch_size=64", cwd=tmp_path)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    deadline = time.monotonic() + 90
    while not list(tmp_path.rglob("history.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command goes on from epoch" in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("result.json"))
    before = len(RunFolder(next(tmp_path.rglob("history.jsonl")).parent).history())
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout
    folder = RunFolder(next(tmp_path.rglob("result.json")).parent)
    assert [line["epoch"] for line in folder.history()] == list(range(5))
    assert before < 5
    assert f"epoch {before + 1} " in folder.log.read_text()
    assert folder.log.read_text().count("epoch 1 ") == 1


def test_multirun_from_another_folder(tmp_path):
    arguments, options = command(
        "-m", "+step=resnet,gelu", *QUICK, "recipe.batch_size=256", "runtime.keep_weights=false", cwd=tmp_path
    )
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    assert {json.loads(p.read_text())["step"]["name"] for p in tmp_path.rglob("result.json")} == {"resnet", "gelu"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experiments"]


@pytest.mark.photographs
def test_a_run_on_photographs(tmp_path, photographs):
    arguments, options = command(
        "+step=inverted_bottleneck",
        *QUICK,
        "data=folder",
        f"data.path={photographs}",
        "data.image_size=64",
        "recipe.epochs=1",
        cwd=tmp_path,
    )
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    result = json.loads(next(tmp_path.rglob("result.json")).read_text())
    assert (result["data"]["train"], result["data"]["val"], result["data"]["classes"]) == (640, 160, 10)
    assert len(result["data"]["fingerprint"]) == 16


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path):
    experiment = compose(["+step=gelu", "scale=atto", "recipe=smoke", f"output={tmp_path}", "runtime.device=cuda"])
    result = executed(experiment)
    assert (result.status, result.precision) == ("done", "bfloat16")
