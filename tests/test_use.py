"""A trained network in use: scored as in training, asked about pictures, handed to other tools."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import runs
import timm
import torch
from conftest import QUICK
from PIL import Image
from records import made
from safetensors.torch import load_file

import roadmap
import roadmap.timm
from roadmap import build_model, export, predict, score
from roadmap.base.errors import Refused
from roadmap.cli import COMMANDS
from roadmap.config.compose import compose
from roadmap.config.identity import decisive
from roadmap.data.images import sources
from roadmap.use.export import exported, write
from roadmap.use.named import asked, check_asked, check_classes, check_named
from roadmap.use.trained import Trained, find_trained

SHORT = [*QUICK, "data.image_size=32", "recipe.epochs=2", "recipe.warmup_epochs=0"]
ATTO = ["scale=atto", "recipe=smoke", "runtime.threads=1", "data.image_size=32", "recipe.epochs=1", "recipe.warmup_epochs=0"]


def trained(folder, *overrides):
    return runs.trained(compose([*overrides, f"output={folder}"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of the digits, of toggles of its own."""
    return trained(tmp_path_factory.mktemp("run"), "+step=layer_norm", *SHORT, "data.held_out=0.1", "recipe.ema=0.9")


@pytest.fixture(scope="module")
def end(tmp_path_factory):
    """A network that is timm's convnext_atto."""
    return trained(tmp_path_factory.mktemp("end"), "+step=separate_downsampling", *ATTO)


@pytest.fixture
def photos(tmp_path):
    """Two classes of noise."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, level in (("dark", 0), ("light", 128)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(random.integers(level, level + 128, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


# Scores.


def test_a_run_scored_on_its_own_images_has_its_records_scores_to_the_digit(run, command, tmp_path):
    out = command(score, run)
    record = json.loads((run / "result.json").read_text())
    written = json.loads((tmp_path / "scores" / run.name / "score.json").read_text())
    assert written["scores"] == {key: record["scores"][key] for key in ("top1", "top5", "val_loss")}
    assert written["images"] == record["data"]["val"]
    assert f"its record says top-1 {record['scores']['top1']:.2f} %" in out


def test_what_lies_behind_a_score_adds_up_to_it(run, command, tmp_path):
    command(score, run, "--output", tmp_path / "out")
    scores = json.loads((tmp_path / "out" / "score.json").read_text())
    classes = list(csv.DictReader((tmp_path / "out" / "classes.csv").read_text().splitlines()))
    cells = list(csv.reader((tmp_path / "out" / "confusion.csv").read_text().splitlines()))
    matrix = [[int(cell) for cell in row[1:]] for row in cells[1:]]
    assert [row["class"] for row in classes] == [str(digit) for digit in range(10)]
    assert [sum(row) for row in matrix] == [int(row["images"]) for row in classes]
    assert [matrix[i][i] for i in range(10)] == [int(row["right"]) for row in classes]
    right = sum(matrix[i][i] for i in range(10))
    assert 100 * right / scores["images"] == pytest.approx(scores["scores"]["top1"])
    for i, row in enumerate(classes):
        assert float(row["accuracy"]) == pytest.approx(100 * matrix[i][i] / sum(matrix[i]))
        others = {str(j): count for j, count in enumerate(matrix[i]) if j != i}
        if row["mistaken_for"]:
            assert others[row["mistaken_for"]] == max(others.values()) == int(row["mistaken"])
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert min(picture.size) > 300


def test_other_images_of_the_same_classes_keep_the_networks_size_and_colours(run):
    use = asked(find_trained(str(run)).settings, ["data=digits", "data.held_out=0.2"])
    own = find_trained(str(run)).settings.data
    assert (use.data.image_size, use.data.mean, use.data.crop_pct) == (own.image_size, own.mean, own.crop_pct)
    assert use.data.held_out == 0.2
    assert asked(find_trained(str(run)).settings, []).data == own
    assert asked(find_trained(str(run)).settings, ["data=digits", "data.image_size=64"]).data.image_size == 64


def test_images_of_other_classes_are_refused(run, photos):
    network = find_trained(str(run))
    with pytest.raises(Refused, match="10 classes there, 2 here; only there: 0, 1, 2 and 7 more; only here: dark, light"):
        check_classes(network, ("dark", "light"))
    with pytest.raises(Refused, match="in another order"):
        check_classes(network, tuple(str(9 - digit) for digit in range(10)))
    check_classes(network, tuple(str(digit) for digit in range(10)))


def test_weights_of_timms_are_scored_on_ones_own_images(hub, photos, command, tmp_path):
    model = hub("resnet10t.c3_in1k")
    with pytest.raises(Refused, match="on which images"):
        command(score, "timm:resnet10t.c3_in1k")
    with pytest.raises(Refused, match=r"1000 classes there, 2 here; only there: n01440764.*only here: dark, light"):
        command(score, "timm:resnet10t.c3_in1k", "data=folder", f"data.path={photos}")
    for split in ("train", "val"):  # ImageNet's own names, of which its order is the network's
        names = timm.data.ImageNetInfo("imagenet-1k").label_names()
        for name in names:
            (photos.parent / "imagenet" / split / name).mkdir(parents=True)
            picture = Image.fromarray(np.full((8, 8, 3), hash(name) % 255, dtype=np.uint8))
            picture.save(photos.parent / "imagenet" / split / name / f"{split}.png")
    command(score, "timm:resnet10t.c3_in1k", "data=imagenet", f"data.path={photos.parent / 'imagenet'}", "data.image_size=32")
    scores = json.loads((tmp_path / "scores" / "resnet10t.c3_in1k" / "score.json").read_text())
    assert scores["images"] == model.num_classes == 1000
    assert scores["scores"]["top1"] < 5


def test_weights_of_timms_for_one_size_are_scored_at_their_own_or_at_the_size_that_is_asked_for(hub, tmp_path):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    hub(name)
    known = find_trained("timm:vit_tiny_patch16_224", fetch=False)
    assert known.name == name  # which of its weights timm takes
    assert known.settings.data.image_size == 224
    assert all(weight.is_meta for weight in known.network.parameters())
    for size in (224, 64):
        assert known.at(size)(torch.zeros(1, 3, size, size)).shape == (1, 1000)


@pytest.fixture
def silence(monkeypatch, tmp_path):
    """No network and nothing kept: how often the hub was asked."""
    asked = []

    def nobody(url, timeout):
        asked.append(url)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("roadmap.model.reference.get_hf_file_metadata", nobody)
    return asked


def test_weights_without_a_classifier_are_no_use_alone(silence, command):
    Image.new("RGB", (8, 8)).save("x.png")
    for module, words in ((score, ["data=digits"]), (predict, ["x.png"])):
        with pytest.raises(Refused, match=r"timm:convnextv2_atto\.fcmae: has no classes; .*init=timm:convnextv2_atto\.fcmae"):
            command(module, "timm:convnextv2_atto.fcmae", *words)


def test_classes_that_do_not_fit_are_refused_before_weights_are_fetched(silence, command):
    with pytest.raises(Refused, match=r"resnet10t\.c3_in1k: its classes .* 1000 classes there, 10 here"):
        command(score, "timm:resnet10t.c3_in1k", "data=digits")
    with pytest.raises(Refused, match="can be exported"):
        command(export, "timm:resnet10t.c3_in1k")
    with pytest.raises(Refused, match=r"x\.png"):
        command(predict, "timm:resnet10t.c3_in1k", "x.png")
    assert not silence


def test_a_hub_that_does_not_answer_is_asked_once(silence, command, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    said = "timm:resnet10t.c3_in1k: its weights are not on this machine, and https.* does not answer: no route to host"
    with pytest.raises(Refused, match=said):
        command(predict, "timm:resnet10t.c3_in1k", "x.png")
    assert len(silence) == 1


# Pictures.


def test_pictures_are_told_apart_as_in_the_evaluation(run, command, tmp_path):
    network = find_trained(str(run))
    use = asked(network.settings, [])
    reader = sources.reader(use.data, sources.checked_images(use.data, 1), "val")
    for i in range(6):
        reader(i)[0].save(tmp_path / f"{i}.png")
    files = [f"{i}.png" for i in range(6)]
    rows = json.loads(command(predict, run, *files, "--format", "json", "--top", 10))
    assert [row["image"] for row in rows] == [file for file in files for _ in range(10)]
    for file in files:
        own = [row for row in rows if row["image"] == file]
        assert sum(row["probability"] for row in own) == pytest.approx(1, abs=1e-5)
        assert own == sorted(own, key=lambda row: -row["probability"])
    config = timm.data.resolve_data_config(model=network.network)
    transform = timm.data.create_transform(**config)
    with torch.inference_mode():
        outputs = network.network(torch.stack([transform(Image.open(file).convert("RGB")) for file in files])).softmax(-1)
    said = [next(row["class"] for row in rows if row["image"] == file) for file in files]
    assert said == [str(int(index)) for index in outputs.argmax(-1)]
    table = command(predict, run, files[0], "--top", 2, "--format", "csv").splitlines()
    assert (table[0], len(table)) == ("image,class,probability", 3)


def test_pictures_that_cannot_be_read_are_all_named_and_nothing_is_said(run, tmp_path, monkeypatch, capsys):
    Image.new("L", (40, 30)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    (tmp_path / "text.jpg").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(run), "whole.png", "torn.png", "text.jpg", "nowhere.png", "."])
    with pytest.raises(Refused) as refused:
        predict.main()
    assert all(name in str(refused.value) for name in ("torn.png", "text.jpg", "nowhere.png", ".: is a folder"))
    assert "whole.png" not in str(refused.value)
    assert capsys.readouterr().out == ""


# Export.


def outputs_of(network, size=32):
    with torch.inference_mode():
        return network.eval()(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))


def test_the_roadmaps_end_is_exported_as_timms_own_network(end, command, tmp_path):
    out = command(export, end, "--output", tmp_path / "out")
    expected = outputs_of(roadmap.timm.load_trained(end))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("convnext_atto", 10)
    assert config["label_names"] == [str(digit) for digit in range(10)]
    assert "import roadmap.timm" not in out
    program = (
        "import sys, timm, torch\n"
        "folder = sys.argv[1]\n"
        "networks = [timm.create_model(f'local-dir:{folder}', pretrained=True),\n"
        "            timm.create_model('convnext_atto', num_classes=10, checkpoint_path=f'{folder}/model.safetensors')]\n"
        "images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))\n"
        "torch.save([network.eval()(images).detach() for network in networks], sys.argv[2])\n"
        "config = timm.data.resolve_data_config(model=networks[0])\n"
        "print(config['input_size'], config['mean'], config['crop_pct'], config['interpolation'])\n"
        "assert 'roadmap' not in sys.modules\n"
    )
    line = [sys.executable, "-c", program, str(tmp_path / "out"), str(tmp_path / "outputs.pt")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for outputs in torch.load(tmp_path / "outputs.pt"):
        torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-4)
    assert done.stdout.strip() == "[3, 32, 32] [0.5, 0.5, 0.5] 1.0 bicubic"


def test_a_network_between_the_ends_is_exported_with_its_toggles(run, command, tmp_path):
    out = command(export, run, "--output", tmp_path / "out")
    assert "import roadmap.timm; timm.create_model('local-dir:" in out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "roadmap_layer_norm_atto"
    assert config["model_args"] == {"depths": [1, 1, 1, 1], "width": 8}
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert torch.equal(outputs_of(network), outputs_of(roadmap.timm.load_trained(run)))
    weights = str(tmp_path / "out" / "model.safetensors")
    again = timm.create_model("roadmap_layer_norm_atto", num_classes=10, **config["model_args"], checkpoint_path=weights)
    assert torch.equal(outputs_of(again), outputs_of(network))


@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about itself
def test_an_onnx_program_takes_any_number_of_images(run, command, tmp_path):
    pytest.importorskip("onnxscript", reason="needs onnxscript, of the extra exchange")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra exchange")
    command(export, run, "--output", tmp_path / "out", "--onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    network = roadmap.timm.load_trained(run)
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(found), network(images), atol=1e-4, rtol=1e-3)


def test_an_export_takes_no_place_of_other_files(run, command, tmp_path):
    command(export, run, "--output", tmp_path / "out")
    command(export, run, "--output", tmp_path / "out")  # its own may be written anew
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(Refused, match=r"holds thesis\.tex"):
        command(export, run, "--output", tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(run / "weights.safetensors").keys()


# The commands.


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("score", [], "the following arguments are required: RUN"),
        ("score", ["nowhere"], "nowhere: no finished run"),
        ("score", [__file__], "test_use.py: no finished run"),
        ("score", ["RUN", "recipe.epochs=3"], "only data=NAME and settings under data. and runtime."),
        ("score", ["RUN", "data=digit"], "there is no data 'digit'"),
        ("score", ["RUN", "data.path=/nowhere", "data=folder"], "/nowhere"),
        ("score", ["RUN", "runtime.device=tpu"], "runtime.device"),
        ("score", ["timm:resnet5O", "data=digits"], "no such model"),
        ("score", ["RUN", "--output", "/dev/null/x"], "--output /dev/null/x: /dev/null is not a folder that can be written"),
        ("score", ["RUN", "--output", "RUN"], "the run's own folder; must be another, scores/"),
        ("export", ["RUN", "--output", "/dev/null/x"], "--output /dev/null/x: /dev/null is not a folder that can be written"),
        ("predict", ["RUN"], "the following arguments are required: IMAGE"),
        ("predict", ["RUN", "x.png", "--top", "0"], "--top 0: must be at least 1"),
        ("predict", ["RUN", "x.png", "--format", "xml"], "--format xml: allowed: table, csv, json"),
        ("predict", ["RUN", "x.png", "--device", "tpu"], "--device tpu: allowed: auto, cpu, cuda"),
        ("predict", ["RUN", "/dev/null"], "/dev/null: cannot be read: not a regular file"),
        ("predict", ["timm:", "x.png"], "no such model"),
        ("predict", ["RUN", "x.png", "y.png"], "x.png: cannot be read: No such file or directory\ny.png: "),
        ("export", ["nowhere"], "nowhere: no finished run"),
        ("export", ["timm:resnet5O"], "no such model"),
        ("export", ["RUN", "--onxx"], "unrecognized arguments: --onxx"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(run, name, arguments, message, command):
    import importlib

    with pytest.raises(Refused) as refused:
        command(importlib.import_module(COMMANDS[name][0]), *(run if word == "RUN" else word for word in arguments))
    assert message in str(refused.value)


LINES = """
import json, sys
from roadmap import export, predict, score
from roadmap.base.errors import Refused
for name, *words in json.loads(sys.argv[1]):
    sys.argv = [name, *words]
    try:
        {"export": export, "predict": predict, "score": score}[name].main()
    except Refused as error:
        print(json.dumps([str(error), "torch" in sys.modules]))
"""
REFUSED = [  # what each is refused for
    (["predict", "x", "y.png", "--top", "0"], "--top 0"),
    (["predict", "RUN", "nowhere.png"], "nowhere.png"),
    (["predict", "RUN", "x.png", "--output", "out"], "names classes"),
    (["predict", "RUN", "x.png", "--parts", "mine"], "parts=[mine]"),
    (["score", "RUN", "data=digit"], "'digit'"),
    (["score", "RUN", "data=folder"], "data.path"),
    (["score", "RUN", "data=folder", "data.path=/nowhere"], "/nowhere/train"),
    (["score", "RUN", "data=folder", "data.path=PHOTOS"], "10 classes there, 2 here"),
    (["score", "RUN", "data.held_out=2"], "data.held_out=2"),
    (["score", "RUN", "runtime.device=tpu"], "tpu"),
    (["score", "RUN", "--multi-scale"], "task=segmentation"),
    (["score", "timm:resnet10t", "data=folder", "data.path=/nowhere"], "/nowhere/train"),
    (["score", "BROKEN"], "config.yaml"),
    (["export", "timm:resnet10t"], "is timm's already"),
    (["export", "RUN", "--output", "PHOTOS"], "holds train, val"),
    (["export", "RUN", "--parts", "mine"], "parts=[mine]"),
]


def test_a_setting_of_no_effect_on_a_score_is_named(run):
    words = ["data=digits", "data.classes=3", "data=digits"]
    warnings = check_asked(check_named(str(run)), str(run), words)
    assert [line.split(" ")[0] for line in warnings] == ["data", "data.classes"]


def test_what_can_be_refused_without_torch_is(run, photos, tmp_path):
    shutil.copytree(run, tmp_path / "broken")
    (tmp_path / "broken" / "config.yaml").write_text("data: [")
    Image.new("L", (40, 30)).save(tmp_path / "x.png")
    places = {"RUN": str(run), "BROKEN": "broken", "PHOTOS": str(photos)}
    lines = [[reduce(lambda said, it: said.replace(*it), places.items(), word) for word in line] for line, _ in REFUSED]
    called = [sys.executable, "-c", LINES, json.dumps(lines)]
    done = subprocess.run(called, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(REFUSED), done.stdout
    for (line, words), (message, torch_is_there) in zip(REFUSED, said, strict=True):
        assert words in message and not torch_is_there, (line, message)
    assert not (tmp_path / "exported").exists()


# What is not in a record.


def test_a_toggle_that_a_record_leaves_out_is_off_in_an_export(tmp_path):
    settings = compose(["scale=atto", "+step=grn", "model.block_part=null", "data.image_size=32"])
    model, data = (decisive(settings, "f")[room] for room in ("model", "data"))
    assert "block_part" not in model
    result = made("grn-s0-12345678", model=model, data={**data, "classes": 10})
    network = build_model("grn", "atto", 10, block_part=None).eval()
    network.pretrained_cfg = {"num_classes": 10}
    own = Trained("grn", settings, 10, None, result, network=network, described={})
    given = exported(own)
    assert (given.architecture, given.arguments) == ("roadmap_grn_atto", {"block_part": None})
    write(own, given, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in network.state_dict().items())


@pytest.mark.parametrize(("task", "data", "longest"), [("detection", "coco", 1333), ("segmentation", "ade20k", 2048)])
def test_a_head_is_scored_on_pictures_that_are_not_square(task, data, longest):
    settings = compose(["+step=gelu", f"task={task}", "data=scenes"])
    use = asked(settings, [f"data={data}", "data.path=."])
    assert (use.data.longest_side, use.data.image_size, use.task.name) == (longest, 96, task)
    own = replace(settings, data=use.data)
    assert asked(own, []).data.longest_side == longest
