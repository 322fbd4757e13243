"""Parts of one's own: declared in a `parts.py`, named on the command line, and from then on as good as the roadmap's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm
import torch
from conftest import QUICK
from torch import nn

import roadmap.timm
from roadmap import build_model, cost
from roadmap.base.errors import EXIT_REFUSED, Refused
from roadmap.config import parts
from roadmap.config.compose import compose
from roadmap.config.identity import decisive, identity
from roadmap.model import registry
from roadmap.model.check import compose_run
from roadmap.model.cost import cost as counted
from roadmap.model.network import build_network
from roadmap.model.weights import from_timm, to_timm
from roadmap.run.preflight import check_jobs, check_network
from roadmap.sweep.plan import plan
from roadmap.train.recipe import optimizer

PARTS = """
from roadmap.parts import activation, block_part, norm

@activation("silu", cost={"aten::silu": 0})
def silu():
    from torch import nn
    return nn.SiLU()

@norm("group", cost={})
def group(channels):
    from torch import nn
    return nn.GroupNorm(1, channels)

@block_part("squeeze_excitation", cost={"aten::relu": 0, "aten::sigmoid": 0})
def squeeze_excitation(channels):
    from torchvision.ops import SqueezeExcitation
    return SqueezeExcitation(channels, channels // 4)
"""
OWN = "parts=[my]"
SMALL = ["scale=atto", "model.depths=[1,1,1,1]", "model.width=8"]


@pytest.fixture
def my(tmp_path):
    """A folder with parts, and a place for other texts of it."""
    folder = tmp_path / "my"
    folder.mkdir()
    (folder / "parts.py").write_text(PARTS)
    yield folder
    parts._declared.clear()
    compose.__globals__["_compose"].cache_clear()
    compose.__globals__["compose_unchecked"].cache_clear()
    registry._own.clear()


def composed(my, *words):
    return compose_run(["+step=gelu", OWN, *SMALL, *words], [my])


def refused(my, text, *words):
    (my / "parts.py").write_text(text)
    with pytest.raises(Refused) as fault:
        composed(my, *words)
    return str(fault.value)


def kinds(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


# --- the name is a toggle's ------------------------------------------------------------------------------------------


def test_every_kind_of_part_reaches_its_layers(my):
    from torchvision.ops import SqueezeExcitation

    def network(**toggles):
        return build_model("gelu", "atto", 10, config_dirs=[my], parts=["my"], depths=[1, 1, 1, 1], width=8, **toggles)

    assert kinds(network(activation="silu"), nn.SiLU) == kinds(network(), nn.GELU) > 0
    assert kinds(network(norm="group"), nn.GroupNorm) == kinds(network(), nn.BatchNorm2d) > 0
    whole = network(block_part="squeeze_excitation", activation="silu", norm="group").train()
    assert [type(layer[-1]) for layer in whole.stages[0].blocks[0].branch] == [nn.SiLU, SqueezeExcitation, nn.GroupNorm]
    whole(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(weight.grad is not None for weight in whole.parameters())


def test_a_step_and_a_study_of_ones_own_take_the_name(my, tmp_path):
    (my / "step").mkdir()
    (my / "study").mkdir()
    (my / "step" / "silu.yaml").write_text("# @package _global_\ndefaults: [gelu, _self_]\nmodel: {activation: silu}\n")
    rows = "[{name: plain, step: gelu}, {name: se, step: silu, set: [model.block_part=squeeze_excitation], compare: plain}]"
    (my / "study" / "own.yaml").write_text(f"# @package _global_\nstudy: {{name: own, rows: {rows}}}\n")
    found = plan(["+study=own", OWN, *SMALL, f"output={tmp_path}"], [my])
    model = found.rows["se"][0].experiment.model
    assert (model.activation, model.block_part) == ("silu", "squeeze_excitation")
    assert set(found.study_plan().row("se").toggles) == {"activation", "block_part"}
    assert OWN in found.rows["se"][0].command  # so do the runs on Slurm and Ray
    with pytest.raises(Refused, match=r"model\.activation: invalid value 'silu'; allowed: relu, gelu"):
        compose(["+step=silu"], [my])  # nothing is run that is not named


def test_its_cost_is_counted_and_what_it_declares_is_added(my):
    plain = counted(composed(my).model)
    with_part = counted(composed(my, "model.block_part=squeeze_excitation").model)
    widths = [8, 16, 32, 64]
    assert with_part.conv_linear - plain.conv_linear == sum(2 * 4 * w * w for w in widths)  # two layers, at one position
    assert with_part.params - plain.params == sum(2 * 4 * w * w + w + 4 * w for w in widths)
    assert counted(composed(my, "model.activation=silu").model).total == plain.total
    (my / "parts.py").write_text(PARTS.replace('aten::silu": 0', 'aten::silu": 3'))
    dearer = counted(composed(my, "model.activation=silu").model)
    assert dearer.by_operator["own"] > 0
    assert dearer.by_operator["own"] % 3 == 0
    assert dearer.conv_linear == plain.conv_linear


def test_the_cost_table_takes_it(my, monkeypatch, capsys):
    words = ["--scale", "atto", "--steps", "gelu", "--format", "json", "--config-dir", str(my), "--parts", "my"]
    monkeypatch.setattr(sys, "argv", ["cost", *words, "--set", "model.norm=group"])
    assert cost.main() == 0
    assert json.loads(capsys.readouterr().out)[0]["step"] == "gelu"
    monkeypatch.setattr(sys, "argv", ["cost", *words, "--set", "seed=3"])
    with pytest.raises(Refused, match="must be a toggle"):
        cost.main()


def test_timm_builds_it(my):
    (my / "step").mkdir()
    (my / "step" / "silu.yaml").write_text("# @package _global_\ndefaults: [gelu, _self_]\nmodel: {activation: silu}\n")
    roadmap.timm.register([my], parts=["my"])
    assert kinds(timm.create_model("roadmap_silu_atto", num_classes=2), nn.SiLU) > 0
    assert kinds(timm.create_model("roadmap_resnet_atto", block_part="squeeze_excitation"), nn.Sigmoid) > 0


def test_silu_is_timms_own(my):
    """timm's ConvNeXt with its own SiLU, its weights here and back."""
    theirs = timm.create_model("convnext_atto", act_layer="silu", num_classes=10).eval()
    ours = build_model("separate_downsampling", "atto", 10, config_dirs=[my], parts=["my"], activation="silu").eval()
    from_timm(ours, theirs)
    to_timm(ours, theirs)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


# --- its source is part of what a run is -----------------------------------------------------------------------------


def test_the_identity_holds_the_source_where_the_part_is_used(my):
    plain, unused = compose(["+step=gelu", *SMALL]), composed(my)
    assert identity(plain, "f") == identity(unused, "f")
    used = decisive(composed(my, "model.activation=silu"), "f")["model"]["activation"]
    assert used.startswith("silu@")
    (my / "parts.py").write_text(PARTS + "# another\n")
    assert decisive(composed(my, "model.activation=silu"), "f")["model"]["activation"] not in (used, "silu")


def test_an_edited_file_is_checked_again_in_the_same_process(my):
    words = ["model.activation=silu"]
    composed(my, *words)
    said = refused(my, PARTS.replace('"silu"', '"swish"'), *words)
    assert said.startswith("model.activation: invalid value 'silu'; allowed: relu, gelu, swish")
    assert "makes 3; it must make a torch.nn.Module" in str(
        broken_part(my, PARTS.replace("return nn.SiLU()", "return 3"), *words)
    )


def broken_part(my, text, *words):
    (my / "parts.py").write_text(text)
    experiment = composed(my, *words)
    with pytest.raises(Refused) as fault:
        check_network(experiment, ["0", "1"])
    return fault.value


def roadmap_command(*words, cwd):
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.filterwarnings("ignore")
def test_runs_and_sweeps_of_processes_train_it_and_the_network_comes_back(my, tmp_path):
    (my / "study").mkdir()
    rows = "[{name: plain, step: gelu}, {name: silu, step: gelu, set: [model.activation=silu], compare: plain}]"
    (my / "study" / "own.yaml").write_text(f"# @package _global_\nstudy: {{name: own, seeds: [0], rows: {rows}}}\n")
    words = ["--config-dir", "my", OWN, *QUICK, "output=out"]
    done = roadmap_command("roadmap.sweep", "study=own", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "silu" in done.stdout
    again = roadmap_command(
        "roadmap.run", "+study=own", "+step=gelu", "model.activation=silu", "study.row=silu", *words, cwd=tmp_path
    )
    assert "already done" in again.stderr, again.stderr  # the same identity in a process of its own
    (folder,) = (tmp_path / "out" / "own" / "runs").glob("silu-*")
    network = roadmap.timm.load_trained(folder, [my], ["my"])
    assert kinds(network, nn.SiLU) > 0
    own = ["--config-dir", "my", "--parts", "my"]
    for words in (["score", *own], ["export", "--output", "given", *own]):
        done = roadmap_command(f"roadmap.{words[0]}", str(folder), *words[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    given = json.loads((tmp_path / "given" / "config.json").read_text())
    assert given["model_args"]["activation"] == "silu"  # as timm builds it, once the part is registered
    roadmap.timm.register([my], ["my"])
    again = timm.create_model(f"local-dir:{tmp_path / 'given'}", pretrained=True).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in network.state_dict().items())
    done = roadmap_command("roadmap.score", str(folder), cwd=tmp_path)
    assert done.returncode == EXIT_REFUSED
    assert "activation 'silu': a part of one's own; name its folder: --config-dir my --parts my" in done.stderr
    (my / "parts.py").write_text(PARTS + "# another\n")
    with pytest.raises(Refused, match="'silu' is not the one that the run was trained with"):
        roadmap.timm.load_trained(folder, [my], ["my"])


UNSEEN = """
from roadmap.parts import activation, block_part
from torch import nn

@activation("mish", cost={"aten::mish": 0})
def mish():
    return nn.Mish()

class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.norm = nn.Conv2d(channels, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.up = nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * self.up(nn.functional.relu(self.norm(self.down(x.mean((2, 3), keepdim=True))))).sigmoid()

@block_part("gate", cost={"aten::relu": 0, "aten::sigmoid": 0})
def gate(channels):
    return Gate(channels)
"""
RMS = """
import torch
from roadmap.parts import norm

class Rms(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return x * (x.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt() * self.weight

@norm("rms", cost={"aten::pow": 0, "aten::rsqrt": 0})
def rms(channels):
    return Rms(channels)
"""


def test_parts_of_two_folders_in_one_run_are_costed_trained_exported_and_built_by_timm(my, tmp_path):
    """Of kinds that the project has not: a norm within a part, a norm of one's own, an activation that nothing here uses."""
    (my / "parts.py").write_text(UNSEEN)
    for folder in ("other", "steps/step"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "other" / "parts.py").write_text(RMS)
    step = "# @package _global_\ndefaults: [separate_downsampling, _self_]\nstep: {label: RMS}\nmodel: {norm: rms}\n"
    (tmp_path / "steps" / "step" / "rms.yaml").write_text(step)
    folders = ["--config-dir", "my", "--config-dir", "other", "--config-dir", "steps"]
    toggles = ["model.activation=mish", "model.block_part=gate"]
    words = [*folders, "parts=[my,other]", "+step=rms", *toggles, *QUICK, "data.image_size=32", "recipe.updates=2"]
    done = roadmap_command("roadmap.run", *words, "recipe.warmup_updates=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "experiments/single/runs").iterdir()
    record = json.loads((run / "result.json").read_text())
    assert [record["model"][key].split("@")[0] for key in ("activation", "norm", "block_part")] == ["mish", "rms", "gate"]
    network = roadmap.timm.load_trained(run, [my, tmp_path / "other"], ["my", "other"])
    blocks = [module for stage in network.stages for module in stage.blocks]
    assert kinds(network, nn.Mish) == kinds(network, nn.BatchNorm2d) == len(blocks)
    assert not kinds(network, nn.LayerNorm)
    assert sum(weight.numel() for weight in network.parameters()) == round(record["params_m"] * 1e6)
    roadmap.timm.register([my, tmp_path / "other"], parts=["my", "other"])
    toggled = {"norm": "rms", "activation": "mish", "block_part": "gate", "depths": [1, 1, 1, 1]}
    twin = timm.create_model("roadmap_separate_downsampling_atto", **toggled, num_classes=10)
    assert kinds(twin, nn.Mish) == kinds(twin, nn.BatchNorm2d) == 4
    shown = roadmap_command("roadmap.cost", *folders, "--parts", "my", "--parts", "other", "--steps", "rms", "--format", "csv",
                            "--scale", "atto", "--set", toggles[0], "--set", toggles[1], cwd=tmp_path)  # fmt: skip
    assert shown.stdout.splitlines()[1].startswith("rms,"), shown.stderr


@pytest.mark.parametrize("spared", ["vectors", "norm_bias"])
def test_weight_decay_spares_a_norm_of_ones_own_whatever_its_shape(my, spared):
    (my / "parts.py").write_text(RMS)
    experiment = composed(my, "model.norm=rms", f"recipe.decay_spares={spared}")
    network = build_network(experiment.model, 10)
    groups = optimizer(experiment.recipe, network).param_groups
    decays = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    norms = [module.weight for module in network.modules() if type(module).__name__ == "Rms"]
    assert len(norms) > 4
    assert {decays[id(weight)] for weight in norms} == {0.0}
    assert decays[id(network.head.fc.weight)] == experiment.recipe.weight_decay


# --- what is refused, with the user's path and line ------------------------------------------------------------------


def test_unknown_names_list_what_is_allowed(my):
    said = refused(my, PARTS, "model.activation=sillu")
    assert said == "model.activation: invalid value 'sillu'; allowed: relu, gelu, silu. Did you mean 'silu'?"
    assert refused(my, PARTS, "model.block_part=se") == ("model.block_part: invalid value 'se'; allowed: grn, squeeze_excitation")
    with pytest.raises(Refused, match=r"model.norm: invalid value 'btch'; allowed: batch, layer. Did you mean 'batch'\?"):
        compose(["+step=gelu", "model.norm=btch"])


def test_a_name_is_taken_once(my, tmp_path):
    first = 'from roadmap.parts import activation\n@activation("gelu", cost={})\ndef gelu(): ...\n'
    assert f"{my}/parts.py, line 2: activation 'gelu': the name is taken by the roadmap" in refused(my, first)
    twice = PARTS + '@activation("silu", cost={})\ndef other(): ...\n'
    assert f"activation 'silu': the name is taken by {my}/parts.py" in refused(my, twice)
    (my / "parts.py").write_text(PARTS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "parts.py").write_text(PARTS)
    with pytest.raises(Refused, match=f"{other}/parts.py, line 4: activation 'silu': the name is taken by {my}"):
        compose(["+step=gelu", "parts=[my,other]"], [my, other])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def broken(:\n", "line 1: SyntaxError"),
        ("x = 1\n", "declares no part"),
        ("from roadmap.parts import norm\n\n@norm('mine')\ndef mine(c): ...\n", "line 3: norm 'mine' has no cost; say cost="),
        ("from roadmap.parts import norm\nnorm('a b', cost={})\n", "line 2: norm 'a b': a name is made of letters"),
        (
            "from roadmap.parts import norm\n\nnorm('a', cost={'aten::mul': -1})\n",
            "line 3: norm 'a': cost={'aten::mul': -1}: must",
        ),
        (
            "from roadmap.parts import norm\n\nnorm('a', cost={'aten::mul': 'x'})\n",
            "line 3: norm 'a': cost={'aten::mul': 'x'}: must",
        ),
        ("x = 1\nimport sys\nsys.exit(0)\n", "line 3: SystemExit: 0"),
        ("x = 1\0\n", "SyntaxError"),
        ("from roadmap.parts import norm\n\nnorm('a', cost=3)\n", "line 3: norm 'a': cost=3: must be by operator"),
        ("from roadmap.parts import norm\n\nnorm(None, cost={})\n", "line 3: norm None: a name is made of letters"),
        ("from roadmap.parts import block_part\n\nblock_part('null', cost={})\n", "line 3: block_part 'null': a name"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(my, text, said):
    assert f"{my}/parts.py" in (found := refused(my, text))
    assert said in found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    raise KeyError('x')", "line 4: activation 'odd': KeyError: 'x'"),
        ("    return 3", "activation 'odd': makes 3; it must make a torch.nn.Module"),
        ("    import torch.nn as nn\n    return nn.SiLU", "activation 'odd': makes <class"),
        ("    import torch.nn as nn\n    return nn.Softsign()", "activation 'odd': the cost of aten::"),
        ("    import torch.nn as nn\n    return nn.Flatten()", "a part keeps the shape"),
    ],
)
def test_a_part_that_cannot_be_built_or_counted_is_refused_before_training(my, body, said):
    (my / "parts.py").write_text(f"from roadmap.parts import activation\n@activation('odd', cost={{}})\ndef odd():\n{body}\n")
    with pytest.raises(Refused) as fault:
        check_jobs(["+step=gelu", OWN, "model.activation=odd", *SMALL], [my], multirun=False)
    assert str(my) in str(fault.value)
    assert said in str(fault.value)


def test_only_the_command_line_names_what_is_run(my):
    (my / "step").mkdir()
    (my / "parts.py").write_text("raise SystemExit('it ran')\n")
    (my / "step" / "sly.yaml").write_text("# @package _global_\ndefaults: [gelu, _self_]\nparts: [my]\nmodel: {kernel_size: 9}\n")
    with pytest.raises(Refused, match="only the command line may name what is run"):
        compose(["+step=sly"], [my])
    with pytest.raises(Refused, match=r"parts=\[mi\]: there is no such folder of --config-dir.*Did you mean 'my'"):
        compose(["+step=gelu", "parts=[mi]"], [my])
    (my / "parts.py").unlink()
    with pytest.raises(Refused, match=r"parts=\[my\]: there is no such folder of --config-dir with a parts.py; allowed: nothing"):
        compose(["+step=gelu", OWN], [my])


def test_a_misspelt_name_is_refused_without_torch(my, tmp_path):
    words = ["--config-dir", str(my), "+step=gelu", OWN, "model.activation=sillu"]
    code = (
        f"import sys\nfrom roadmap.run.__main__ import exits, main\nsys.argv[1:] = {words!r}\n"
        "try: exits(main)()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (EXIT_REFUSED, "False"), done.stderr
    assert "Did you mean 'silu'" in done.stderr


def test_declarations_stand_in_a_parts_file():
    with pytest.raises(Refused, match="--config-dir my parts="):
        parts.activation("silu", cost={})
