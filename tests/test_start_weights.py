"""Weights that a run keeps, and weights that a run starts from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import pytest
import timm
import torch
from conftest import QUICK
from records import made, write
from runs import executed, images_of
from safetensors.torch import load_file, save_file

import roadmap.timm
from roadmap.base.errors import EXIT_FAILED, EXIT_STOPPED, Refused
from roadmap.config.compose import compose
from roadmap.config.effects import following
from roadmap.config.identity import decisive, identity, plain
from roadmap.config.schema import EngineConfig, EngineName
from roadmap.model.start import start_hash
from roadmap.model.weights import TWINS
from roadmap.record.folder import RunFolder
from roadmap.record.result import dump_result, load_result
from roadmap.record.study import dump_plan, load_plan
from roadmap.record.weights import weights_file
from roadmap.run.given import load_given, try_outline
from roadmap.run.preflight import check_jobs
from roadmap.run.start import resolved
from roadmap.sweep.engines.base import Ending
from roadmap.sweep.engines.queue import run_once
from roadmap.sweep.plan import plan
from roadmap.tasks.choose import choose_task

SHORT = [*QUICK, "data.image_size=32", "recipe.epochs=1", "recipe.warmup_epochs=0"]


def trained(folder, *overrides):
    """A run, trained in this process; its folder and its result."""
    experiment = resolved(compose(["+step=gelu", *SHORT, f"output={folder}", *overrides]))
    result = executed(experiment)
    return RunFolder.of(experiment, "0" * 16).path, result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, _ = trained(tmp_path_factory.mktemp("run"), "recipe.ema=0.9")
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """The same run in a folder that a test may spoil."""
    return shutil.copytree(run, tmp_path / "study" / "runs" / run.name)


# What a run keeps.


def test_a_run_keeps_the_weights_that_were_scored_as_safetensors(run):
    kept, network = load_file(run / "weights.safetensors"), roadmap.timm.load_trained(run)
    assert not (run / "weights.pt").exists()
    assert kept.keys() == network.state_dict().keys()
    assert all(torch.equal(weight, kept[name]) for name, weight in network.state_dict().items())
    assert not any(name.startswith("module") for name in kept)


def test_weights_of_an_earlier_version_still_load(copy):
    weights = load_file(copy / "weights.safetensors")
    torch.save(weights, copy / "weights.pt")
    (copy / "weights.safetensors").unlink()
    network = roadmap.timm.load_trained(copy)
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())


def test_a_record_names_its_classes_and_one_without_reads_as_it_was_written(run):
    written = json.loads((run / "result.json").read_text())
    assert written["class_names"] == [str(digit) for digit in range(10)]
    older = {key: value for key, value in written.items() if key != "class_names"}
    assert load_result(older, run).class_names is None
    assert dump_result(load_result(older, run)) == older


def test_weights_of_a_copied_record_are_those_of_the_run_itself(copy, tmp_path):
    copied = tmp_path / "other" / "runs" / copy.name
    copied.mkdir(parents=True)
    RunFolder(copied).copy_record(RunFolder(copy))  # their `study` is "single", the folder that the run was trained in
    with pytest.raises(Refused, match="keep_weights"):
        weights_file(copied)
    copy.parent.parent.rename(tmp_path / "single")
    assert weights_file(copied) == tmp_path / "single" / "runs" / copy.name / "weights.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "cannot be read"),
        (lambda file: file.write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda file: file.unlink(), "keep_weights=true"),
        (lambda file: (file.parent / "result.json").unlink(), "no finished run"),
    ],
)
def test_weights_that_are_not_whole_are_refused(copy, spoil, message):
    spoil(copy / "weights.safetensors")
    with pytest.raises(Refused, match=message):
        roadmap.timm.load_trained(copy)


# What a run starts from.


def started(folder, init, *overrides):
    """A run that starts from these weights, as its command resolves it; its result and its network before training."""
    experiment = resolved(compose(["+step=gelu", *SHORT, f"output={folder}", f"init={init}", *overrides]))
    classes = images_of(experiment).classes
    task = choose_task(experiment, classes)
    network = task.network(experiment.model, experiment.reference)
    return experiment, network, load_given(experiment, classes, task, network)


def same(network, weights):
    return all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())


def test_a_run_starts_from_another_runs_weights_whatever_they_are_called(run, tmp_path):
    weights = load_file(run / "weights.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "other.pt")
    torch.save({"model": weights}, tmp_path / "another.pth")
    shutil.copy(run / "weights.safetensors", tmp_path / "copy.safetensors")
    identities = set()
    for init in (run, tmp_path / "other.pt", tmp_path / "another.pth", tmp_path / "copy.safetensors"):
        experiment, network, anew = started(tmp_path, init)
        assert same(network, weights)
        assert anew == []
        identities.add(identity(experiment, "0" * 16))
    assert len(identities) == 1  # the same weights, wherever they lie
    assert identities.isdisjoint({identity(compose(["+step=gelu", *SHORT]), "0" * 16)})
    weights["head.fc.bias"][0] += 1e-3
    save_file(weights, tmp_path / "copy.safetensors")
    experiment, _, _ = started(tmp_path, tmp_path / "copy.safetensors")
    assert identity(experiment, "0" * 16) not in identities


def test_the_first_update_is_of_the_weights_that_it_starts_from(run, tmp_path):
    folder, result = trained(tmp_path, f"init={run}")
    assert result.init == {"weights": start_hash(str(run), 32)}
    first = (folder / "updates.csv").read_text().splitlines()[1]
    again = (run / "updates.csv").read_text().splitlines()[1]
    assert first.split(",")[:2] == again.split(",")[:2]
    assert float(first.split(",")[2]) < float(again.split(",")[2])  # the loss
    assert RunFolder(folder).result().start == result.init


def test_a_classifier_of_other_classes_is_made_anew(run, tmp_path, tiny_images):
    _, network, anew = started(tmp_path, run, "data=folder", f"data.path={tiny_images}", "recipe.batch_size=4")
    assert anew == ["head.fc is made anew: 2 outputs in place of 10 outputs"]
    weights = load_file(run / "weights.safetensors")
    kept = {name: weight for name, weight in network.state_dict().items() if not name.startswith("head.fc.")}
    assert all(torch.equal(weight, weights[name]) for name, weight in kept.items())
    assert network.head.fc.weight.shape[0] == 2


def test_as_many_classes_of_other_names_are_other_classes(copy, tmp_path):
    record = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(record | {"class_names": [f"class {i}" for i in range(10)]}))
    _, network, anew = started(tmp_path, copy)
    assert anew == ["head.fc is made anew: its classes are others"]
    assert not torch.equal(network.head.fc.weight, load_file(copy / "weights.safetensors")["head.fc.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("stem.layer.conv.weight"), r"missing: stem\.layer\.conv\.weight"),
        (lambda w: w.update(other=torch.zeros(2)), r"left over: other"),
        (
            lambda w: w.update({"stem.layer.conv.weight": torch.zeros(8, 3, 7, 7)}),
            r"of another shape: stem\.layer\.conv\.weight \(8 x 3 x 7 x 7 there, 8 x 3 x 4 x 4 here\)",
        ),
        (
            lambda w: w["stem.layer.conv.weight"].fill_(float("nan")),
            r"stem\.layer\.conv\.weight hold numbers that are not finite",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name_with_both_sides(run, tmp_path, change, message):
    weights = load_file(run / "weights.safetensors")
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(Refused, match=message):
        started(tmp_path, tmp_path / "w.safetensors")


class Code:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_that_would_run_code_is_refused_and_runs_none(run, tmp_path, capsys):
    torch.save({"w": torch.zeros(1), "code": Code()}, tmp_path / "w.pt")
    with pytest.raises(Refused, match="cannot be read: it holds more than tensors"):
        started(tmp_path, tmp_path / "w.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("nowhere", "there is no such folder"),
        ("nowhere.safetensors", "there is no such file"),
        ("weights.ckpt", r"must be a run's folder, FILE\.safetensors, FILE\.pt, FILE\.pth or timm:NAME"),
        (__file__, "it is a file of another kind"),
        ("timm:", "timm:NAME"),
        ("timm:resnet5O", "no such model"),
        ("timm:resnet50.a99_in1k", "no weights of that name"),
        ("timm:convnext_atto/../x", "timm:NAME"),
        (".", "no finished run"),
    ],
)
def test_what_names_no_weights_is_refused(init, message, tmp_path):
    with pytest.raises(Refused, match=message):
        started(tmp_path, init)


def test_a_start_that_is_filled_in_by_hand_is_refused(tmp_path):
    with pytest.raises(Refused, match="no setting 'init_hash'"):
        compose(["+step=gelu", "init_hash=0123456789abcdef"])
    with pytest.raises(Refused, match="one start"):
        compose(["+step=gelu", "init=a.pt", "after=gelu-s0-1a2b3c4d"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnext_atto.d2_in1k", ["+step=separate_downsampling", "scale=atto"]),
        ("resnet50.a1_in1k", ["+step=resnet", "scale=tiny"]),
        ("resnet10t.c3_in1k", ["reference=resnet10t"]),
    ],
)
def test_timms_weights_start_the_two_ends_and_references(name, words, hub, tmp_path):
    model = hub(name)
    experiment = resolved(compose([*words, "data.image_size=64", "recipe=smoke", f"output={tmp_path}", f"init=timm:{name}"]))
    classes = [str(i) for i in range(1000)]
    task = choose_task(experiment, classes)
    network = task.network(experiment.model, experiment.reference).eval()
    assert load_given(experiment, classes, task, network) == []
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(images), model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("step", "scale"), [(step, scale) for step, scales in TWINS.items() for scale in scales])
def test_timms_weights_fit_both_ends_and_grn_at_every_scale(step, scale):
    """By names and shapes: a classifier of other classes is made anew, and nothing else is missing or left over."""
    name = TWINS[step][scale]
    words = [f"+step={step}", f"scale={scale}", f"init=timm:{name}"]
    if timm.is_model_pretrained(name):
        try_outline(compose(words))
    else:
        with pytest.raises(Refused, match=f"init=timm:{name}: timm .* has no weights of it"):
            try_outline(compose(words))


def test_weights_that_cannot_be_fetched_are_refused(hub, tmp_path):
    with pytest.raises(Refused, match=r"init=timm:convnext_atto\.d2_in1k: timm could not fetch its weights"):
        resolved(compose(["+step=separate_downsampling", "scale=atto", "init=timm:convnext_atto.d2_in1k", f"output={tmp_path}"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+step=separate_downsampling", "scale=femto"], "stem.layer.conv.weight .40 x 3 x 4 x 4 there, 48 x 3 x 4 x 4 here"),
        (["+step=resnet", "scale=atto"], "left over: stem.0.bias"),
        (["reference=resnet18"], "missing: conv1.weight"),
        (["+step=separate_downsampling", "scale=atto", "recipe.batch_size=5000"], "recipe.batch_size=5000: larger than"),
    ],
)
def test_weights_of_timms_that_do_not_fit_are_refused_before_they_are_fetched(words, message, monkeypatch, tmp_path):
    monkeypatch.setattr("roadmap.model.reference.pretrained", lambda *_: pytest.fail("fetched"))
    with pytest.raises(Refused, match=message):
        check_jobs([*words, "init=timm:convnext_atto.d2_in1k", f"output={tmp_path}"], [], multirun=False)


# A row that starts from another row's run.

ROWS = """# @package _global_
study:
  name: transfer
  question: Does it pay to start from a trained network?
  seeds: [0, 1]
  rows:
    - {name: longer, step: gelu, after: first, compare: scratch}
    - {name: scratch, step: gelu, set: [model.drop_path=0.1]}
    - {name: first, step: gelu}
"""


@pytest.fixture
def transfer(tmp_path):
    """A folder with a study whose first row starts from its last."""

    def write(text=ROWS):
        (tmp_path / "my" / "study").mkdir(parents=True, exist_ok=True)
        (tmp_path / "my" / "study" / "transfer.yaml").write_text(text)
        return [["+study=transfer", *SHORT, "model.drop_path=0", f"output={tmp_path / 'out'}"], [tmp_path / "my"]]

    return write


def test_a_row_after_another_is_planned_before_its_parent_is_trained(transfer):
    found = plan(*transfer())
    assert list(found.rows) == ["longer", "scratch", "first"]  # the table keeps the order of the study
    for first, longer in zip(found.rows["first"], found.rows["longer"], strict=True):
        assert longer.before is first
        assert longer.experiment.after == str(first.folder.path)
        assert f"after='{first.folder.path}'" in longer.command
        assert longer.experiment.seed == first.experiment.seed
    names = [point.folder.path.name for point in found.points]
    assert len(set(names)) == 6
    other = plan([*transfer()[0], "recipe.weight_decay=0.01"], transfer()[1])  # another parent is another child
    assert set(names).isdisjoint(point.folder.path.name for point in other.points)
    written = json.loads(json.dumps(dump_plan(found.study_plan())))
    assert [row.get("after") for row in written["rows"]] == ["first", None, None]
    assert "start.weights" in written["rows"][0]["toggles"]
    assert "after" not in written["rows"][1]  # plans of studies without it stay as they were
    assert load_plan(written, "study.json") == found.study_plan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("after: first", "after: frist"), "no row 'frist' to start after.*Did you mean 'first'"),
        (("after: first", "after: longer"), "longer after longer: a row cannot start after itself"),
        (("{name: first, step: gelu}", "{name: first, step: gelu, after: longer}"), "a row cannot start after itself"),
        (("{name: first, step: gelu}", "{name: first, step: layer_norm}"), r"longer-s0 after first-s0: not the weights"),
    ],
)
def test_rows_that_cannot_start_as_they_say_are_refused(transfer, change, message):
    with pytest.raises(Refused, match=message):
        plan(*transfer(ROWS.replace(*change)))


def test_a_parent_must_keep_its_weights(transfer):
    overrides, folders = transfer()
    with pytest.raises(Refused, match=r"runtime\.keep_weights=false: must be true"):
        plan([*overrides, "runtime.keep_weights=false"], folders)
    with pytest.raises(Refused, match=r"init=timm:resnet50: must be null beside after"):
        plan([*overrides, "init=timm:resnet50"], folders)


class Recorded:
    """An engine whose runs end as `ends` says, by name: with a result, diverged, or with an exit code."""

    pause, grace = 0.0, 0.2

    def __init__(self, results, room=10):
        self.config, self.results, self.room, self.started = EngineConfig(name=EngineName.local), results, room, []

    @contextmanager
    def open(self, points):
        yield {}

    def capacity(self, under_way):
        return self.room - under_way

    def submit(self, points):
        self.started += [point.name for point in points]
        return [point.name for point in points]

    def poll(self, jobs):
        return {name: self.end(name, point) for name, point in jobs.items()}

    def end(self, name, point):
        how = self.results.get(name, "done")
        if isinstance(how, int):
            return Ending(how)
        point.folder.path.mkdir(parents=True, exist_ok=True)
        result = made(point.folder.path.name, 50.0, status=how, seed=point.experiment.seed)
        write(point.folder.path, result)
        return Ending(0)

    def pending(self, jobs):
        return []

    def cancel(self, jobs, how):
        pass


def sweep(transfer, results, chosen=lambda point: True, **options):
    engine, points = Recorded(results, options.pop("room", 10)), [p for p in plan(*transfer()).points if chosen(p)]
    with nullcontext(lambda over, running: None) as report:
        return engine, {end.point.name: end for end in run_once(engine, points, report, **options)}


@pytest.mark.parametrize("room", [1, 10])
def test_a_run_is_not_submitted_before_the_one_that_it_starts_from_is_done(transfer, room):
    engine, ends = sweep(transfer, {}, room=room)
    for seed in (0, 1):
        assert engine.started.index(f"first-s{seed}") < engine.started.index(f"longer-s{seed}")
    assert len(engine.started) == 6
    assert all(end.code == 0 for end in ends.values())


@pytest.mark.parametrize(
    ("result", "code", "reason"),
    [
        ("diverged", EXIT_FAILED, "not run because first-s0 diverged"),
        (1, EXIT_FAILED, "not run because first-s0 failed: exit code 1"),
        (EXIT_STOPPED, EXIT_STOPPED, "not started: first-s0 was stopped"),
    ],
)
def test_a_run_whose_start_failed_is_not_run_and_says_why(transfer, result, code, reason):
    engine, ends = sweep(transfer, {"first-s0": result})
    assert "longer-s0" not in engine.started
    assert "longer-s1" in engine.started
    assert (ends["longer-s0"].code, ends["longer-s0"].reason.startswith(reason)) == (code, True)
    assert [name for name, end in ends.items() if end.code] == ["first-s0", "longer-s0"][result == "diverged" :]


def test_a_run_that_was_not_run_is_no_second_failure(transfer):
    engine, ends = sweep(transfer, {"first-s0": 1}, max_failures=2)
    assert "longer-s1" in engine.started
    assert sum(end.failed for end in ends.values()) == 2


def test_a_run_alone_needs_the_one_that_it_starts_from(transfer):
    engine, ends = sweep(transfer, {}, lambda point: point.name.startswith("longer"))
    assert engine.started == []
    assert ends["longer-s0"].reason == "not run because first-s0 is not done and not among these runs"


def test_a_run_of_another_study_is_taken_over_as_a_start_only_with_its_weights(transfer):
    (first, _) = plan(*transfer()).rows["first"]
    there = first.folder.path.parents[2] / "other" / "runs" / first.folder.path.name
    there.mkdir(parents=True)
    write(there, made(there.name, 50.0, study="other"))
    assert first.result_elsewhere().path == there
    assert not first.reuse_result(with_weights=True)
    (there / "weights.safetensors").touch()
    assert first.reuse_result(with_weights=True)
    assert weights_file(first.folder.path) == there / "weights.safetensors"


def test_a_sweep_trains_a_row_from_another_rows_weights(transfer, tmp_path):
    overrides, folders = transfer(ROWS.replace("seeds: [0, 1]", "seeds: [0]"))
    line = ["-m", "roadmap.sweep", "--config-dir", str(folders[0]), *overrides]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = plan(overrides, folders)
    (longer,), (first,) = found.rows["longer"], found.rows["first"]
    result = longer.folder.result()
    assert result.init == {"run": first.folder.path.name}
    losses = [float(p.folder.path.joinpath("updates.csv").read_text().split()[1].split(",")[2]) for p in (longer, first)]
    assert losses[0] < losses[1]
    alone = [sys.executable, "-m", "roadmap.run", *longer.command]
    again = subprocess.run(alone, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert "already done" in again.stderr, again.stderr
    assert "longer differs from scratch in start.weights" in done.stdout


# Fine-tuning.

TABLE_6 = {
    "optimizer": "adamw", "lr": 5e-5, "lr_batch": 512, "batch_size": 512, "weight_decay": 1e-8, "betas": [0.9, 0.999],
    "epochs": 30, "schedule": "cosine", "layer_decay": 0.7, "warmup_epochs": 0, "mixup": 0, "cutmix": 0,
    "randaugment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25, "label_smoothing": 0.1, "head_scale": 0.001, "clip_grad": None, "ema": None,
}  # fmt: skip
"""Appendix A.2, ConvNeXt-B and -L from 224 to 384 pixels, row by row; the layer decay is of three blocks."""


def test_finetune_is_the_papers_table_6():
    experiment = compose(["+step=separate_downsampling", "scale=base", "data=imagenet_384", "data.path=x", "recipe=finetune"])
    recipe = plain(experiment.recipe)
    assert {key: recipe[key] for key in TABLE_6} == TABLE_6
    assert (experiment.data.image_size, experiment.data.crop_pct) == (384, 1.0)


def test_fine_tuning_from_nothing_is_said():
    words = ["+step=gelu", "recipe=finetune"]
    (said,) = following(compose(words), words)
    assert said.startswith("recipe=finetune starts from random weights here: init=RUN")
    assert not following(compose([*words, "init=x.pt"]), words)


def test_a_fresh_classifier_is_scaled_and_one_that_is_kept_is_not(run, tmp_path):
    heads = []
    for scale in ("1", "0.001"):
        experiment = compose(["+step=gelu", *SHORT, f"recipe.head_scale={scale}"])
        torch.manual_seed(0)
        heads.append(choose_task(experiment, "0123456789").network(experiment.model, None).head.fc.weight)
    torch.testing.assert_close(heads[1], heads[0] * 0.001)
    _, network, anew = started(tmp_path, run, "recipe.head_scale=0.001")
    assert anew == []
    assert same(network, load_file(run / "weights.safetensors"))


def test_fine_tuning_settings_leave_other_identities_as_they_are():
    assert "head_scale" not in decisive(compose(["+step=gelu"]), "")["recipe"]
    assert "start" not in decisive(compose(["+step=gelu"]), "")
    assert decisive(compose(["+step=gelu", "recipe.head_scale=0.5"]), "")["recipe"]["head_scale"] == 0.5
