"""What no run can start from: exit code 2, one readable message, nothing executed and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from records import result_file

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.effects import said_twice
from roadmap.config.steps import known_steps
from roadmap.run.preflight import check_jobs
from roadmap.sweep.engines import machine
from roadmap.sweep.plan import plan

REPOSITORY = Path(__file__).parent.parent
QUICK = "scale=atto recipe=smoke model.width=8 runtime.threads=1 data.image_size=32 data.workers=0"
SECRET = "xyzzy-of-the-environment"
TOUCH = "{_target_:pathlib.Path.touch,self:pwned}"  # what an injected _target_ would do
NEED_TORCH = ("roadmap.run.execute", "roadmap.model.cost")


@pytest.fixture
def command(terminal, monkeypatch):
    """`terminal`, with something in the environment that no message may hold."""
    monkeypatch.setenv("SECRET", SECRET)
    return terminal


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """Like `command` for a bad line: it must be refused before anything can be trained; gives back the message."""
    for module in NEED_TORCH:
        monkeypatch.setitem(sys.modules, module, None)

    def call(line, words=""):
        before = sorted(tmp_path.rglob("*")), "torch" in sys.modules
        code, out, message = command(f"{line} --dry-run" if line.startswith("sweep") else line)  # were it not refused
        assert code == 2, message
        assert (sorted(tmp_path.rglob("*")), "torch" in sys.modules) == before
        assert_readable(out, message, words)
        return message

    return call


def assert_readable(out, message, words=""):
    assert not out
    assert message.strip()
    assert "Traceback" not in message
    assert "HYDRA_FULL_ERROR" not in message
    assert SECRET not in message
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", message)
    assert message.count("roadmap: ") <= 1
    for word in words.split():
        assert word in message


UNKNOWN_NAMES = [  # the line, what is said beside the name that was probably meant, that name
    ("run +step=kernel7", "kernel7 resnet separate_downsampling", "kernel_7"),
    ("run +step=inverted_bottlneck", "inverted_bottlneck resnet", "inverted_bottleneck"),
    ("run +step=Resnet", "Resnet gelu", "resnet"),
    ("run +step=resnet scale=tinny", "tinny base atto", "tiny"),
    ("run +step=resnet data=digit", "folder imagenette", "digits"),
    ("run +step=resnet recipe=papr", "papr smoke short", "paper"),
    ("run +step=resnet model.kernelsize=3", "model.kernelsize model.depthwise", "model.kernel_size"),
    ("run +step=resnet recipe.lrr=3", "recipe.lrr recipe.epochs", "recipe.lr"),
    ("run +step=resnet recipe.optimiser=sgd", "recipe.optimiser", "recipe.optimizer"),
    ("run +step=resnet runtime.thread=2", "runtime.thread=2 runtime.device", "runtime.threads"),
    ("run +step=resnet data.imagesize=32", "data.imagesize data.path", "data.image_size"),
    ("run +step=resnet sed=3", "sed=3 output", "seed"),
    ("run +step=resnet model.norm=layr", "model.norm layr batch", "layer"),
    ("run +step=resnet runtime.device=cpuu", "runtime.device cpuu cuda auto", "cpu"),
    ("run +step=resnet recipe.precision=bflot16", "recipe.precision bflot16 float32", "bfloat16"),
    ("sweep study=digit", "digit", "digits"),
    ("sweep study=digits scale=tinny", "tinny base", "tiny"),
    ("sweep study=digits study.steps=[kernel7]", "kernel7 resnet", "kernel_7"),
    ("sweep study=digits recipe.epoch=3", "recipe.epoch=3 recipe.batch_size", "recipe.epochs"),
    ("cost --scale tinny", "tinny base", "tiny"),
    ("cost --format tabel", "tabel csv json md latex", "table"),
]


@pytest.mark.parametrize(("line", "words", "nearest"), UNKNOWN_NAMES, ids=lambda value: value)
def test_an_unknown_name_is_answered_with_the_nearest_and_all_allowed(refused, line, words, nearest):
    assert f"'{nearest}'" in refused(line, words)


BAD_LINES = [
    # no name at all
    ("run", "+step= resnet separate_downsampling"),
    ("run +step=", "resnet"),
    ("run +step=null", "resnet"),
    ("run step=resnet", "+step=resnet"),
    ("run +step=[resnet,gelu]", "gelu"),
    ("run +step=../data/digits", "../data/digits resnet"),
    ("run +step=/etc/passwd", "/etc/passwd resnet"),
    ("sweep", "study="),
    ("sweep study=nope", "nope digits"),
    ("sweep study=../data/digits", "../data/digits"),
    ("cost --scale ''", "tiny base"),
    ("cost --scale ../data/digits", "../data/digits tiny"),
    ("run +step=resnet modl.width=3", "modl.width model.width"),
    ("run +step=resnet +nothing=3", "nothing recipe model"),
    # what cannot be read
    ("run +step=resnet seed", "seed key=value"),
    ("run +step=resnet recipe.lr=[", "key=value"),
    ("run +step=resnet =3", "=3"),
    ("run +step=resnet ~model", "model"),
    ("run +step=resnet ~recipe.lr", "recipe.lr"),
    ("run +step=resnet --nope", "--nope"),
    ("sweep study=digits --nope", "--nope"),
    ("sweep study=digits --jobs many", "--jobs many"),
    ("cost --nope", "--nope"),
    # what only timm and the file system know, without asking timm
    ("run reference=resnet18dd", "resnet18dd resnet18d, timm.list_models()"),
    ("sweep study=digits study.references=[resnet18dd]", "resnet18dd resnet18d"),
    ("run +step=resnet output=/proc/of/nobody", "output=/proc/of/nobody /proc"),
    ("sweep study=digits output=/proc/of/nobody", "output=/proc/of/nobody /proc"),
    ("cost --image-size wide", "--image-size wide"),
    # wrong types
    ("run +step=resnet recipe.epochs=abc", "recipe.epochs abc 100000"),
    ("run +step=resnet recipe.epochs=1.5", "recipe.epochs 1.5"),
    ("run +step=resnet recipe.lr=fast", "recipe.lr fast 100"),
    ("run +step=resnet seed=null", "seed"),
    ("run +step=resnet seed=", "seed"),
    ("run +step=resnet model.depths=3", "model.depths"),
    ("run +step=resnet model.depths=[3,4,6,a]", "model.depths a"),
    ("run +step=resnet model.depthwise=maybe", "model.depthwise maybe"),
    ("run +step=resnet output=null", "output"),
    ("sweep study=digits study.seeds=3", "study.seeds"),
    # out of range
    ("run +step=resnet recipe.lr=nan", "recipe.lr nan 0 100"),
    ("run +step=resnet recipe.lr=-1", "recipe.lr -1 0 100"),
    ("run +step=resnet recipe.lr=0", "recipe.lr 0 100"),
    ("run +step=resnet recipe.epochs=0", "recipe.epochs=0 1 100000"),
    ("run +step=resnet seed=1e9999", "seed inf"),
    ("run +step=resnet seed=99999999999", "seed=99999999999"),
    ("run +step=resnet seed=-1", "seed=-1 0 2147483647"),
    ("run +step=resnet model.norm=instance", "model.norm instance batch layer"),
    ("run +step=resnet model.kernel_size=4", "model.kernel_size=4 odd"),
    ("run +step=resnet model.kernel_size=65", "model.kernel_size=65 1 63"),
    ("run +step=resnet model.depths=[3,4,6,0]", "model.depths=[3, 4, 6, 0] one"),
    ("run +step=resnet model.width=0", "model.width=0 1 4096"),
    ("run +step=resnet model.layer_scale=0", "model.layer_scale=0 0"),
    ("run +step=resnet data.image_size=16", "data.image_size=16 32 4096"),
    ("run +step=resnet data.mean=[0.5]", "data.mean=[0.5] three"),
    ("run +step=resnet data.mean=[nan,0,0]", "data.mean"),
    ("run +step=resnet data.std=[0,1,1]", "data.std=[0.0, 0"),
    ("run +step=resnet data.std=[inf,1,1]", "data.std"),
    ("run +step=resnet data.source=foo", "data.source foo digits imagenet"),
    ("run +step=resnet data=digits data.source=cifar10", "data.source=cifar10 data=NAME digits 'cifar10'?"),
    ("run +step=resnet recipe.name=mine", "recipe.name=mine conf/recipe/<name>.yaml recipe=NAME paper"),
    ("run +step=resnet task.name=detection", "task.name=detection task=NAME 'detection'?"),
    ("run +step=resnet engine.name=slurm", "engine.name=slurm engine=NAME 'slurm'?"),
    ("run +step=resnet scale=atto scale.start=mine", "scale.start=mine scale=NAME tiny"),
    ("sweep study=digits head.name=upernet", "head.name=upernet head=NAME 'upernet'?"),
    ("run +step=resnet recipe.betas=[0.9,1]", "recipe.betas=[0.9, 1.0]"),
    ("run +step=resnet recipe.crop_scale=[0.9,0.1]", "recipe.crop_scale=[0.9, 0.1] lesser"),
    ("run +step=resnet recipe.randaugment=lots", "recipe.randaugment=lots null rand-m9-mstd0.5-inc1"),
    ("run +step=resnet recipe.mixup=inf", "recipe.mixup inf 0"),
    ("run +step=resnet logger=mlflow", "logger mlflow none wandb tensorboard"),
    ("sweep study=digits study.seeds=[1e9999]", "study.seeds inf"),
    ("sweep study=digits recipe.lr=nan", "recipe.lr nan 100"),
    ("sweep study=digits --jobs -1", "--jobs -1 1"),
    ("sweep study=digits --jobs 0", "--jobs 0 1"),
    ("run -m +step=resnet,gelu --cfg job", "--multirun --cfg"),
    ("cost --image-size 8", "--image-size 8 32"),
    ("cost --image-size 100000000", "--image-size 4096"),
    # contradictions
    ("run +step=resnet recipe.epochs=3 recipe.warmup_epochs=5", "recipe.warmup_epochs=5 recipe.epochs=3"),
    ("run +step=resnet recipe.min_lr=1 recipe.lr=0.001", "recipe.min_lr=1 0.001"),
    ("run +step=resnet step.name=mine", "step.name=mine"),
    ("run +step=resnet +step=gelu", "step gelu"),
    ("run +step=resnet,gelu", "+step=resnet,gelu -m"),
    ("sweep study=digits +step=resnet", "step"),
    ("sweep study=digits study.seeds=[0,0]", "study.seeds=[0, 0] twice"),
    ("sweep study=digits study.steps=[]", "study.steps=[] one"),
    # of training, of other tasks, of studies
    ("run +step=resnet recipe.optimizer=adam", "recipe.optimizer adam adamw sgd lamb lion muon"),
    ("run +step=resnet recipe.schedule=linear", "recipe.schedule linear cosine step polynomial constant"),
    ("run +step=resnet recipe.schedule=step recipe.milestones=[0.9,0.3]", "recipe.milestones=[0.9, 0.3] larger"),
    ("run +step=resnet recipe.layer_decay=1.2", "recipe.layer_decay=1.2 0 1"),
    ("run +step=resnet recipe.auto_augment=v0-mstd", "recipe.auto_augment=v0-mstd null trivial augmix-m3-w3"),
    ("run +step=resnet recipe.interpolation=lanczos3", "recipe.interpolation lanczos3 bicubic bilinear"),
    ("run +step=resnet recipe.updates=50 recipe.warmup_updates=60", "recipe.warmup_updates=60 recipe.updates=50"),
    ("run +step=resnet runtime.evaluate_every=0", "runtime.evaluate_every=0 1 100000"),
    ("run +step=resnet init=nowhere", "init=nowhere safetensors timm:NAME"),
    ("run +step=resnet after=nowhere", "after nowhere null gelu-s0-1a2b3c4d"),
    ("run +step=resnet parts=[my]", "parts=[my] --config-dir parts.py"),
    ("run +step=resnet task=detect", "task=detect classification detection segmentation"),
    ("run +step=resnet task=detection head=upernet", "head=upernet mask_rcnn cascade_mask_rcnn task=detection"),
    ("run +step=resnet task=segmentation data=digits", "data=digits maps ade20k scenes"),
    ("run +step=resnet head=mask_rcnn", "head=mask_rcnn none task=classification"),
    ("run +step=resnet task=detection head.channels=0", "head.channels=0 8 4096"),
    ("run +step=resnet task=detection data=coco", "data.path=null data=coco"),
    ("run +step=resnet task=detection data=coco data.path=/nope", "data.path=/nope instances_train.json"),
    ("run +step=resnet task=segmentation data=ade20k data.path=/nope", "data.path=/nope images/training"),
    ("run +step=resnet task=detection recipe.mixup=0.8", "recipe.mixup=0.8 0.0 task=detection"),
    ("run +step=resnet reference=resnet50", "reference=resnet50 +step=resnet"),
    ("run +step=resnet data.held_out=1", "data.held_out=1.0 0 0.5"),
    ("run +step=resnet lr=0.1", "lr=0.1 recipe.lr"),
    ("sweep study=digits study.kind=leave-one-out", "study.kind leave-one-out leave_one_out interactions"),
    ("sweep study=digits study.published=torchvison", "study.published=torchvison torchvision"),
    ("sweep study=digits study.kind=steps_x_recipes", "study.recipes=[] two original_recipe"),
    ("sweep study=digits study.start=/nope", "/nope study.json"),
    ("sweep study=digits engine=slurm engine.minutes=0", "engine.minutes=0 1 1000000"),
    ("sweep study=digits 'study.rows=[{name: a, step: gelu, after: b}]'", "study.rows a b"),
    ("cost --task detection", "detection mask_rcnn cascade_mask_rcnn upernet"),
    # data that are not there
    ("run +step=resnet recipe.batch_size=2000", "recipe.batch_size=2000 1083"),
    ("run +step=resnet data=folder", "data.path folder"),
    ("run +step=resnet data=folder data.path=/nope", "data.path=/nope train val"),
    ("run +step=resnet data=imagenette data.path=/nope", "data.path=/nope data.download=true"),
    ("run +step=resnet data=cifar10 data.path=/nope", "data.path=/nope cifar-10-batches-py"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES)
def test_a_bad_line_is_refused_with_what_is_wrong_and_what_is_allowed(refused, line, words):
    refused(line, words)


MISTYPED = [  # as a new user's fingers and guesses would have it, every command; what the message must hold
    ("run --step=resnet", "--step=resnet"),
    ("run step resnet", "step"),
    ("run +step", "step"),
    ("run +step=resnet recipe.optimizer=sgd recipe.momentum=1.5", "recipe.momentum=1.5 0 1"),
    ("run +step=resnet recipe.clip_mode=agc", "recipe.clip_mode agc norm value"),
    ("run +step=resnet recipe.color_jitter=2", "recipe.color_jitter=2 0 1"),
    ("run +step=resnet recipe.dropout=1", "recipe.dropout=1 0"),
    ("run +step=resnet recipe.updates=0", "recipe.updates=0 1"),
    ("run +step=resnet recipe.warmup_updates=-1", "recipe.warmup_updates=-1 0"),
    ("run +step=resnet runtime.evaluate_every=often", "runtime.evaluate_every often 1 100000"),
    ("run +step=resnet init=timm:resnet_fifty", "init=timm:resnet_fifty resnet50t"),
    ("run +step=resnet data.pipeline=streaming", "data.pipeline streaming loader device stream"),
    ("run +step=resnet runtime.compile=yes", "runtime.compile yes none blocks"),
    ("run +step=resnet engine=kubernetes", "kubernetes local slurm ray"),
    ("sweep study=digits study.rows=[{name:a}]", "study.rows"),
    ("sweep study=digits study.rows=[{name:a,step:nope}]", "nope"),
    ("cost resnet", "resnet"),
    ("report", "folder"),
    ("report /nope", "/nope study.json"),
    ("report.views /nope /nope2 --to x", "/nope study.json"),
    ("report.choice /nope", "/nope"),
    ("bench --steps gelue", "gelue gelu"),
    ("bench --seconds -1", "--seconds 0.01"),
    ("bench --precision fp8", "--precision fp8 bfloat16"),
    ("bench --against torch", "--against torch timm_best none"),
    ("score /nope", "/nope experiments/single/runs/gelu-s0-1a2b3c4d"),
    ("score timm:convnext_tinny data=digits", "timm:convnext_tinny convnext_tiny"),
    ("score 'timm:a(' data=digits", "timm:a("),
    ("score timm:convnext_tiny", "timm:convnext_tiny data=NAME"),  # before its weights are fetched
    ("score timm:convnext_tiny data=digit", "data=digit digits"),
    ("score timm:convnext_tiny recipe.lr=1", "recipe.lr=1 data=NAME"),
    ("predict /nope x.jpg", "/nope experiments/single"),
    ("predict timm:resnet5O x.jpg", "timm:resnet5O resnet50"),
    ("export /nope --output x", "/nope experiments/single"),
    ("export timm:nope --output x", "timm:nope"),
    ("pack data=digits --to x", "--output"),
    ("replay /nope", "/nope"),
    ("serve /nope", "/nope study.json"),
]


HOSTILE = [  # empty words, texts of other alphabets, doubled words, numbers that are none, what would never end
    ("run +step=resnet model.depths=[3,4,6,1000000]", "model.depths=[3, 4, 6, 1000000] 1000"),
    ("run +step=resnet model.depths=[100,100,100,100] model.width=4096", "model.width=4096 model.depths 1e+11 1.1e+12"),
    ("run +step=resnet model.depths=[3,4,6,null]", "model.depths[3] null whole number"),
    ("run +step=resnet model.activation=null", "model.activation=null relu gelu"),
    ("run +step=resnet --config-dir ''", "--config-dir ''"),
    ("run -m +step=resnet seed=range(0,1000000000)", "seed=range(0,1000000000) 100000"),
    ("run -m +step=resnet seed=range(0,1000) recipe.lr=range(0.1,0.2,0.0001)", "seed=range recipe.lr=range 100000"),
    ("run -m +step=resnet seed=range(0,10,0)", "seed=range(0,10,0) step 0"),
    ("run -m +step=resnet seed=0,1,0", "seed=0,1,0 twice"),
    ("run -m +step=gelu,gelu", "+step=gelu,gelu twice"),
    ("run +step=resnet +seed=3 seed=4", "seed plus"),
    ("run +step=resnet +study=digits +study=imagenette", "study=imagenette twice"),
    ("run +step=resnet data=folder data.path=/home/josé", "josé \"data.path='/home/josé'\""),
    ("run +step=resnet data=folder data.path=~/x", "\"data.path='~/x'\""),
    ("run +step=resnet 'seed = 3'", "space ="),
    ("run +step=resnet study.question=null", "study.question=null text"),
    ("run +step=resnet study.start=nowhere", "study.start=nowhere study.json"),
    (f"report {REPOSITORY}/experiments/digits --behind {REPOSITORY}/experiments/nuclei", "--behind box AP top-1"),
    ("run +step=resnet study.name=.", "study.name=. letter first"),
    ("run +step=resnet wandb.project=a/b", "wandb.project='a/b' 128"),
    ("run +step=resnet 'wandb.entity=\"\"'", "wandb.entity='' 128"),
    ("run -m +step=resnet hydra/sweeper=optuna hydra.sweeper.n_trials=0 recipe.lr=1,2", "hydra.sweeper.n_trials=0 1"),
    ("sweep study=digits study=imagenette", "study=digits study=imagenette one"),
    ("sweep study=digits study.seeds=0,1", "study.seeds=0,1 one value [a,b]"),
    ("sweep study=digits study.seeds=range(0,5)", "study.seeds=range(0,5) [a,b]"),
    ("sweep study=digits study.kind=interactions study.steps=[gelu]", "study.steps=['gelu'] two"),
    ("sweep study=digits study.steps=[null]", "study.steps[0] null text"),
    ("sweep study=digits study.rows=[gelu]", "study.rows gelu name step set"),
    ("sweep study=digits 'study.rows=[{name: a, step: gelu, set: x}]'", "study.rows: set list"),
    ("sweep study=digits 'study.rows=[{name: a, step: null}]'", "study.rows: step text"),
    ("sweep study=digits 'study.rows=[{step: gelu}]'", "study.rows: name said"),
    ("sweep study=digits 'study.rows=[{name: a, step: gelu, sets: [x]}]'", "study.rows sets 'set'"),
    ("cost --set model.depths=[3,4,6,1000000]", "model.depths 1000"),
    ("cost --task mask_rcnn --reference resnet5O", "resnet5O resnet50"),
    ("cost --parts ''", "--parts names"),
    ("report . --columns ,", "--columns ',' names"),
    ("report . --html ''", "--html '' path"),
    ("report a --behind ./a", "--behind a itself"),
    ("report ''", "folder '' path"),
    ("score . --output ''", "--output '' path"),
    ("predict . ''", "IMAGE '' path"),
    ("pack data=folder data.path=. --output packed --quality 90", "--quality 90 --side"),
    ("serve . --host ''", "--host '' 0.0.0.0"),
    ("dashboard . --json nowhere/x.json", "--json nowhere/x.json folder"),
    ("dashboard . --json ''", "--json '' path"),
    ("dashboard . --project a/b", "--project='a/b' 128"),
    ("pack data=folder data.path=. data.held_out=0.1 --output packed", "data.held_out=0.1 data.path data.accept"),
    ("sweep study=digits --jobs 1000000", "--jobs 1000000 100000"),
    ("bench --pipeline stream", "--pipeline stream --data"),
    ("bench --pipeline streams --data .", "--pipeline 'streams' 'auto', 'loader'"),
    ("bench --classes 1000000000000", "--classes 1000000000000 100000"),
    ("bench --batch-size 99999999999", "--batch-size 99999999999 1000000"),
    ("report . --columns label,label", "--columns 'label,label' once"),
    ("cost --steps gelu,,grn", "--steps 'gelu,,grn' names commas"),
    ("bench --steps gelu,", "--steps 'gelu,' names commas"),
    ("bench --steps gelu,gelu", "--steps 'gelu,gelu' once"),
    ("bench --data ''", "--data '' path"),
    ("bench --data 'no (such) folder'", "such) folder/train val"),
    ("bench --against none,timm_best", "--against none,timm_best none alone"),
    ("bench --seconds nan", "--seconds nan finite 0.01"),
    ("bench --seconds inf", "--seconds inf finite 0.01"),
]


@pytest.mark.parametrize(("line", "words"), [*MISTYPED, *HOSTILE], ids=lambda value: value.replace("/", "_"))
def test_a_bad_line_of_any_command_is_refused_before_any_work(refused, line, words):
    refused(line, words)


@pytest.mark.parametrize(
    "line",
    [
        "run +step=resnet output=LONG",
        "run +step=resnet data=folder data.path=LONG",
        "run +step=resnet init=LONG.safetensors",
        "run +step=resnet --config-dir LONG",
        "sweep study=digits output=LONG",
        "cost --config-dir LONG",
        "report LONG",
        "report . --html LONG",
        "report . --paper LONG.svg",
        "report.views a b --to LONG",
        "score LONG",
        "predict LONG LONG.png",
        "serve LONG",
        "replay LONG",
        "dashboard . --json LONG",
    ],
)
def test_a_name_that_is_too_long_for_a_file_is_refused(refused, line):
    refused(line.replace("LONG", 300 * "a"), f"{300 * 'a'} File name too long")


def test_what_is_no_file_is_never_replaced_by_one(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as /dev/stdout, or /dev/null
    refused("dashboard . --json pipe", "--json pipe: not a file")
    refused("report . --html pipe", "--html pipe: not a file")
    refused("report . --paper pipe", "--paper pipe")
    refused("report.views a b --to pipe", "--to pipe")


@pytest.fixture
def piped(tmp_path):
    """Puts a pipe among the records of a study; whoever waits for what comes out of it is woken up."""
    (tmp_path / "digits" / RECORDED).mkdir(parents=True)
    shutil.copy(REPOSITORY / "experiments/digits/study.json", tmp_path / "digits")
    (tmp_path / "digits" / RECORDED / "result.json").write_text(result_file(RECORD))

    def put(name):
        (tmp_path / "digits" / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / "digits" / name)

    def wake(number, frame):
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(20)
    yield put
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


RECORD = (REPOSITORY / "experiments/digits/records.jsonl").read_text().split("\n")[0]
RECORDED = f"runs/{json.loads(RECORD)['run']}"
PIPED = [
    ("report digits", f"study.json records.jsonl bench.csv .drawn.json {RECORDED}/result.json"),
    ("report.views digits digits --to x", f"study.json {RECORDED}/result.json"),
    ("report.choice digits", f"{RECORDED}/result.json"),
    ("sweep study=digits scale=atto output=.", f"study.json {RECORDED}/result.json {RECORDED}/log.txt"),
    ("sweep study=digits study.published=digits/numbers.csv", "numbers.csv"),
    ("serve digits", "study.json"),
    ("replay digits --dry-run", f"{RECORDED}/result.json {RECORDED}/config.yaml"),
    ("dashboard digits --json x.json", f"study.json {RECORDED}/result.json"),
    (f"score digits/{RECORDED}", f"{RECORDED}/result.json"),
    (f"run +step=gelu init=digits/{RECORDED}", f"{RECORDED}/result.json"),
]


@pytest.mark.parametrize(("line", "name"), [(line, name) for line, names in PIPED for name in names.split()])
def test_a_pipe_in_the_place_of_a_record_is_refused_and_not_waited_for(refused, piped, line, name):
    piped(name)
    refused(line, name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds nothing"),
        (b" \n", "holds nothing"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"# @package _global_\ndefaults: [digitss]\n", "study/digitss, which is not there; allowed: Did you mean 'digits'"),
    ],
)
def test_a_study_of_ones_own_that_says_nothing_is_refused_with_its_file(refused, tmp_path, content, words):
    (tmp_path / "my/study").mkdir(parents=True)
    (tmp_path / "my/study/mine.yaml").write_bytes(content)
    refused("sweep --config-dir my study=mine", f"{tmp_path}/my/study/mine.yaml: {words}")


def test_an_output_that_is_a_file_is_refused_before_anything_is_packed(refused, tiny_images, tmp_path):
    (tmp_path / "taken").write_text("x")
    refused(f"pack data=folder data.path={tiny_images} --output taken", "--output taken")


def test_a_sweep_on_a_gpu_that_is_not_there_starts_no_run(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    machine.gpus.cache_clear()
    code, out, message = command("sweep study=digits runtime.device=cuda")
    machine.gpus.cache_clear()
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    assert "runtime.device=cuda: torch finds no GPU on this machine; allowed: auto, cpu" in message


def test_a_record_that_is_a_folder_is_no_finished_run(refused, tmp_path):
    (tmp_path / "run" / "result.json").mkdir(parents=True)
    refused("score run", "run: no finished run")
    refused("run +step=resnet init=run", "run: no finished run")


def test_an_option_that_is_said_twice_is_named(command):
    _, _, message = command("predict run x.png --top 5 --top 3")
    assert "warning: --top is said twice; the last counts" in message


def test_a_setting_that_is_said_twice_is_named_with_the_value_that_counts(command):
    _, _, message = command("sweep study=digits recipe.epochs=3 recipe.epochs=4 --dry-run")
    assert "recipe.epochs is said 2 times; recipe.epochs=4 counts" in message
    check_jobs(["+step=gelu", "scale=atto", "recipe.epochs=2", "recipe.epochs=1"], [], multirun=False)
    (run_of,) = plan(["+study=digits", "study.steps=[gelu]", "study.seeds=[1]", "output=here", "seed=4"]).points
    assert said_twice(run_of.command) == []  # what a sweep starts says nothing twice of itself


def row(*settings, more=""):
    """A study of one row of one's own, with these settings on top."""
    said = ", ".join(f'"{setting}"' for setting in settings)
    return f"sweep study=digits 'study.rows=[{{name: mine, step: gelu, set: [{said}]{more}}}]'"


BAD_TRAINING = [  # issue of training and use: each with the value, what is allowed, and the place
    ("run +step=resnet recipe.optimizer=null", "recipe.optimizer=null adamw sgd lamb lion muon"),
    ("run +step=resnet recipe.optimizer=SGD", "recipe.optimizer SGD adamw sgd"),
    ("run +step=resnet recipe.optimizer=[adamw,sgd]", "recipe.optimizer=[adamw,sgd] one lamb"),
    ("run +step=resnet recipe.optimizer=lamb recipe.precision=float16", "recipe.optimizer=lamb adamw, sgd float16"),
    ("run +step=resnet recipe.nesterov=2.5", "recipe.nesterov 2.5 true false"),
    ("run +step=resnet recipe.nesterov=2", "recipe.nesterov=2 true false"),
    ("run +step=resnet recipe.betas=0.9", "recipe.betas=0.9 list [...]"),
    ("run +step=resnet recipe.betas=[0.9,nan]", "recipe.betas=[0.9, nan] two"),
    ("run +step=resnet recipe.eps=0", "recipe.eps=0 above"),
    ("run +step=resnet recipe.weight_decay=inf", "recipe.weight_decay=inf 0 10"),
    ("run +step=resnet recipe.layer_decay=nan", "recipe.layer_decay=nan 0 1"),
    ("run +step=resnet recipe.layer_decay=0.8 recipe.layering=stages", "recipe.layering=stages triples classification"),
    ("run +step=resnet recipe.clip_grad=inf", "recipe.clip_grad=inf above 0"),
    ("run +step=resnet recipe.schedule=step recipe.milestones=null", "recipe.milestones=null list"),
    ("run +step=resnet recipe.schedule=step recipe.milestones=[0.1,0.5]", "recipe.milestones=[0.1, 0.5] warm-up 0.15"),
    ("run +step=resnet recipe.schedule=step recipe.lr_factor=1", "recipe.lr_factor=1 below 1"),
    ("run +step=resnet recipe.schedule=polynomial recipe.lr_power=11", "recipe.lr_power=11 10"),
    ("run +step=resnet recipe.warmup_start=1", "recipe.warmup_start=1 below 1"),
    ("run +step=resnet recipe.min_lr=nan", "recipe.min_lr=nan 0"),
    ("run +step=resnet recipe.randaugment=rand-m9-n0", "recipe.randaugment=rand-m9-n0 null rand-m9-mstd0.5-inc1"),
    ("run +step=resnet recipe.randaugment=rand-m9-m3", "recipe.randaugment=rand-m9-m3 once"),
    ("run +step=resnet recipe.randaugment=rand-m9-p1.5", "recipe.randaugment=rand-m9-p1.5 rand-m9-mstd0.5-inc1"),
    ("run +step=resnet recipe.randaugment=rand-m9-mmax0", "recipe.randaugment=rand-m9-mmax0 rand-m9-mstd0.5-inc1"),
    ("run +step=resnet recipe.randaugment=[rand-m9]", "recipe.randaugment=[rand-m9] text"),
    ("run +step=resnet recipe.auto_augment=augmix-w0", "recipe.auto_augment=augmix-w0 augmix-m3-w3"),
    ("run +step=resnet recipe.auto_augment=augmix-m3-m4", "recipe.auto_augment=augmix-m3-m4 augmix-m3-w3"),
    ("run +step=resnet recipe.auto_augment=trivial recipe.randaugment=rand-m9", "recipe.auto_augment=trivial null rand-m9"),
    ("run +step=resnet recipe.auto_augment=v0 data.pipeline=device", "data.pipeline=device loader auto recipe.auto_augment=v0"),
    ("run +step=resnet recipe.color_jitter=[0.4,0.4]", "recipe.color_jitter 0.4 0 1"),
    ("run +step=resnet recipe.initialisation=he", "recipe.initialisation he paper torchvision"),
    ("run +step=resnet recipe.head_scale=0", "recipe.head_scale=0 above 0 1"),
    ("run +step=resnet recipe.ema=1", "recipe.ema=1 0 below 1"),
    ("run +step=resnet recipe=finetuning", "recipe=finetuning 'finetune'"),
    ("run +step=mixup recipe=short", "mixup recipe=short randaugment must"),
    ("run +step=resnet init=hf-hub:timm/resnet50", "init=hf-hub:timm/resnet50 safetensors timm:NAME"),
    ("run +step=resnet init=x.safetensors after=gelu-s0-1a2b3c4d", "init=x.safetensors null after=gelu-s0-1a2b3c4d"),
    ("run +step=resnet init=x.safetensors study.start=digits", "init=x.safetensors null study.start=digits"),
    (row("recipe.label_smoothing=2"), "study.rows: mine recipe.label_smoothing=2 0 1"),
    (row("recipe.optimizer=adam"), "study.rows: mine recipe.optimizer adam adamw"),
    (row("recipe.lr=1e-3,2e-3"), "study.rows: mine recipe.lr 1e-3,2e-3 0 100"),
    (row("recipe.lr=1e-3", "recipe.lr=2e-3"), "study.rows mine recipe.lr=2e-3 once"),
    (row("seed=3"), "study.rows mine seed=3 model.<name>=<value> recipe.<name>=<value>"),
    (row("data.source=folder"), "study.rows mine data.source=folder allowed"),
    (row("recipe.batch_size=5000"), "study.rows: mine recipe.batch_size=5000 1083"),
    (row().replace("set: []", "set: [{recipe.lr: 1}]"), "study.rows mine recipe.lr recipe.<name>=<value>"),
    (row().replace("set: []", "set: [recipe.lr=1]"), "set: ['recipe.lr=1e-3']"),
    (row().replace("mine", "my own"), "study.rows 'my own' letters, digits"),
    (row(more=", compare: mine"), "study.rows mine itself"),
    (row(more=", compare: yours"), "study.rows mine 'yours' allowed"),
    (row(more=", after: mine"), "study.rows mine itself"),
    ("sweep study=digits study.published=README", "study.published=README torchvision CSV"),
    ("sweep study=digits_steps_x_recipes study.recipes=[digits,gelu]", "study.recipes gelu network model.stem"),
    ("sweep study=digits_steps_x_recipes study.recipes=[digits]", "study.recipes=['digits'] two original_recipe"),
    ("sweep study=digits_training study.steps=[adamw,mixup2]", "mixup2 mixup"),
]


@pytest.mark.parametrize(("line", "words"), BAD_TRAINING, ids=lambda value: value.replace("/", "_"))
def test_a_bad_setting_of_training_is_refused_with_value_allowed_values_and_place(refused, line, words):
    refused(line, words)


def test_a_row_of_a_file_of_ones_own_is_refused_with_the_file(refused, tmp_path):
    (tmp_path / "my" / "study").mkdir(parents=True)
    file = tmp_path / "my" / "study" / "mine.yaml"
    for settings, words in (("[recipe.lr=-1]", "recipe.lr=-1.0 above"), ("[lr=1]", "lr=1 allowed")):
        rows = f"rows: [{{name: a, step: gelu, set: {settings}}}]"
        file.write_text(f"# @package _global_\ndefaults: [digits, _self_]\nstudy: {{name: mine, {rows}}}\n")
        refused("sweep --config-dir my study=mine", f"{file}: study.rows: a: {words}")


@pytest.mark.parametrize("line", ["gelu,178,", "gelu,-1,", "gelu,nan,", "gelu,78,-0.1", "gelu,abc,", "gleu,78,", "gelu,,"])
def test_published_numbers_that_are_none_are_refused_with_their_line(refused, tmp_path, line):
    (tmp_path / "numbers.csv").write_text(f"# Somebody, A table, 2030\nstep,score,std\n{line}\n")
    refused("sweep study=digits study.published=numbers.csv", "study.published=numbers.csv: line 3")


def test_a_setting_of_a_row_without_effect_is_named(command):
    _, _, message = command(f"{row('recipe.momentum=0.5')} --dry-run")
    assert "row mine: recipe.momentum has no effect here: recipe.optimizer=adamw does not read it" in message


@pytest.mark.parametrize("name", ["../../x", "..", "/tmp/x", ".hidden", "-rf", "''", "'a b'", "null", "a" * 300])
def test_a_study_is_never_named_out_of_its_folder(refused, name):
    refused(f'run +step=resnet "study.name={name}"', "study.name")


@pytest.mark.parametrize("name", ["../../x", "digits/../x"])
def test_a_sweep_is_never_named_out_of_its_folder(refused, name):
    refused(f"sweep study=digits study.name={name}", f"study.name={name}")


@pytest.mark.parametrize(
    "line",
    [
        "run +step=resnet +_target_=os.system",
        "run +step=resnet +model._target_=os.system",
        "run +step=resnet ++recipe._target_=subprocess.call",
        "run +step=resnet +model.hook={_target_:os.system,command:ls}",
        "run +step=resnet wandb={project:x,_target_:os.system}",
        "sweep study=digits +recipe._target_=os.system",
        "sweep study=digits ++study._target_=os.system",
    ],
)
def test_an_injected_target_is_an_unknown_setting(refused, line):
    refused(line, "_target_" if "hook" not in line else "hook")


@pytest.mark.parametrize(
    "line",
    [
        f"run +step=resnet +hydra.callbacks.x={TOUCH}",
        "run -m +step=resnet hydra.launcher._target_=os.system",
        "run -m +step=resnet hydra.sweeper._target_=os.system",
        "run -m +step=resnet hydra.sweeper.params.seed=0,-1",
        "run +step=resnet hydra=1",
        "run +step=resnet --config-name other",
        "run +step=resnet --experimental-rerun nope.pickle",
        "run +step=resnet hydra/launcher=nope",
        "run +step=resnet hydra.job.nam=x",
    ],
)
def test_hydra_s_own_settings_execute_nothing_and_leave_no_traceback(refused, line):
    refused(line)


@pytest.mark.parametrize(
    "setting",
    [
        "output=${oc.env:SECRET}",
        "output='a${oc.env:SECRET}b'",
        "study.question=${oc.env:SECRET}",
        "study.question=${oc.env:${output}}",
        "study.question='${ oc.env : SECRET }'",
        "study.steps=[${oc.env:SECRET}]",
        "wandb={project:${oc.env:SECRET}}",
        "seed=${now:%S}",
        "recipe.lr=${oc.decode:'1'}",
        "recipe.lr=${nothing}",
        "step.label=${hydra:runtime.cwd}",
        "${oc.env:SECRET}=3",
    ],
)
@pytest.mark.parametrize("tool", ["run +step=resnet", "sweep study=digits"])
def test_a_resolver_is_refused_unresolved(refused, tool, setting):
    refused(f'{tool} "{setting}"')


@pytest.mark.parametrize(
    "line",
    [
        "cost --scale ${oc.env:SECRET}",
        "run -m +step=resnet study.question=${oc.env:SECRET},b",
        "run +step=resnet hydra.run.dir=x/${oc.env:SECRET}",
    ],
)
def test_a_resolver_is_refused_in_other_places_too(refused, line):
    refused(line)


RED = "\x1b[31m"


@pytest.mark.parametrize(
    "line",
    [
        f"run +step={RED}",
        f"run +step=resnet recipe.{RED}lr=3",
        f"run +step=resnet study.name='\"{RED}\"'",
        f"run +step=resnet model.norm='\"{RED}\"'",
        f"run +step=resnet ~{RED}",
        f"run +step=resnet data=folder data.path='\"{RED}\"'",
        "run +step=resnet seed='\"\x1b]0;title\x07\"'",
        f"sweep study={RED}",
        f"sweep study=digits study.steps=['\"{RED}\"']",
        f"cost --scale {RED}",
        f"cost --format {RED}",
        f"cost --image-size {RED}",
        f"run +step=resnet --{RED}",
        f"sweep study=digits --{RED}",
        f"cost --{RED}",
    ],
    ids=lambda line: line.replace("\x1b", "ESC").replace("\x07", "BEL"),
)
def test_escape_codes_never_reach_the_terminal(refused, line):
    refused(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run -m", "resnet"),
        ("run -m +step=resnet,nope", "nope resnet"),
        ("run -m +step=resnet,gelu seed=0,1,-1", "seed=-1"),
        ("run -m +step=resnet seed=choice(0,-1)", "seed=-1"),
        ("run -m +step=resnet recipe.batch_size=32,4096", "recipe.batch_size=4096 1083"),
        ("run -m +step=resnet study.name=a,../b", "study.name=../b"),
        ("run -m step=resnet,gelu", "+step="),
        ("run -m +step=glob(kernel*)", "glob(kernel*) step=a,b"),
        ("run -m +step=resnet seed=interval(0,1)", "interval"),
    ],
)
def test_one_bad_point_refuses_a_multirun_before_any_work(refused, line, words):
    refused(line, words)


# ---- folders of images


def data_line(images, batch=2):
    return f"run +step=resnet data=folder data.path={images} recipe.batch_size={batch}"


def remove(*folders):
    for folder in folders:
        shutil.rmtree(folder)


def emptied(folder):
    remove(folder)
    folder.mkdir()


FOLDERS = [  # what is wrong, how it comes about, what is said
    ("no folder", lambda d: remove(d), "train val"),
    ("a file", lambda d: (remove(d), d.write_text("x")), "train val"),
    ("no val", lambda d: remove(d / "val"), "val"),
    ("val is a file", lambda d: (remove(d / "val"), (d / "val").write_text("x")), "val"),
    ("class missing in val", lambda d: remove(d / "val/dog"), "val dog"),
    ("extra class in val", lambda d: shutil.copytree(d / "val/dog", d / "val/emu"), "val emu"),
    ("another case of letters", lambda d: (d / "val/dog").rename(d / "val/Dog"), "dog Dog"),
    ("empty class in train", lambda d: emptied(d / "train/dog"), "train/dog"),
    ("empty class in val", lambda d: emptied(d / "val/dog"), "val/dog"),
    ("text among images", lambda d: (d / "train/dog/notes.txt").write_text("x"), "train/dog/notes.txt .png .jpg"),
    ("file among classes", lambda d: (d / "train/readme.txt").write_text("x"), "train/readme.txt"),
    ("hidden folder", lambda d: (d / "train/.cache").mkdir(), "train/.cache"),
    ("only one class", lambda d: remove(d / "train/dog", d / "val/dog"), "train 2"),
    ("no class", lambda d: (emptied(d / "train"), emptied(d / "val")), "train 2"),
    ("escape code in a name", lambda d: (d / f"train/dog/{RED}.txt").write_text("x"), "train/dog .png"),
    ("broken link", lambda d: (d / "train/dog/l.png").symlink_to("/nope.png"), "train/dog/l.png"),
]


@pytest.mark.parametrize(("name", "spoil", "words"), FOLDERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_folder_of_images_is_refused_with_the_path_that_is_wrong(refused, tiny_images, name, spoil, words):
    spoil(tiny_images)
    refused(data_line(tiny_images), f"{words} {tiny_images}")


def test_a_batch_larger_than_the_training_images_is_refused(refused, tiny_images):
    refused(data_line(tiny_images, batch=13), "recipe.batch_size=13 12")


# ---- steps of one's own


def own(folder, parent="kernel_7", rest="model: {kernel_size: 13}", label="mine"):
    text = f"# @package _global_\ndefaults:\n  - {parent}\n  - _self_\nstep: {{label: {label}}}\n{rest}\n"
    return written(folder, text)


def written(folder, text):
    (folder / "own/step").mkdir(parents=True)
    (folder / "own/step/mine.yaml").write_text(text)
    return f"run --config-dir {folder / 'own'} +step=mine"


OWN = [  # arguments of `own`, what is said
    ({"rest": "model: {kernel_size: 7}"}, "mine kernel_7"),  # as its parent has it
    ({"rest": "recipe: {epochs: 20}"}, "mine kernel_7"),  # as the recipe has them
    ({"rest": "recipe: {momentum: 0.5}"}, "mine kernel_7"),  # which AdamW does not read
    ({"parent": "kernel_77"}, "mine.yaml kernel_77 kernel_7 resnet"),
    ({"parent": "mine"}, "mine parent"),
    ({"parent": "kernel_7\n  - gelu"}, "mine.yaml kernel_7 gelu one"),
    ({"rest": "model: {kernel_size: 12}"}, "model.kernel_size=12 odd"),
    ({"rest": "study: {name: ../../x}"}, "study.name=../../x"),
    ({"rest": "model: {kernel_size: 13}\nseed: -1"}, "seed=-1"),
    ({"rest": "model: {kernel_size: 13, _target_: os.system}"}, "mine"),
    ({"rest": "model: {kernelsize: 13}"}, "mine kernelsize kernel_size"),
    ({"rest": "model: {norm: instance}"}, "mine model.norm instance batch layer"),
    ({"label": "'${oc.env:SECRET}'"}, "oc.env"),
    ({"rest": f"model: {{kernel_size: 13}}\nhydra: {{callbacks: {{x: {TOUCH.replace(':', ': ')}}}}}"}, "hydra"),
]


@pytest.mark.parametrize(("arguments", "words"), OWN)
def test_a_step_of_ones_own_that_is_no_step_is_refused(refused, tmp_path, arguments, words):
    refused(own(tmp_path, **arguments), words)


@pytest.mark.parametrize(
    "text",
    ["model: {kernel_size: [\n - }: :", "hello", "- a\n- b\n", "", "\x00", "model: !!python/object/apply:os.mkdir [pwned]"],
)
def test_a_step_file_that_is_no_configuration_is_refused(refused, tmp_path, text):
    refused(written(tmp_path, text))


def test_a_file_of_ones_own_chooses_a_data_set_as_a_whole(refused, tmp_path):
    refused(written(tmp_path, "# @package _global_\ndefaults: [gelu, _self_]\ndata: {source: coco}"), "data.source=coco /data:")


def test_a_step_file_that_is_not_yaml_is_named(refused, tmp_path):
    refused(written(tmp_path, "model: {kernel_size: [\n - }: :"), "own/step/mine.yaml YAML line")


def test_a_step_file_without_its_first_line_is_told_so(refused, tmp_path):
    text = "defaults: [kernel_7, _self_]\nstep: {label: mine}\nmodel: {kernel_size: 13}\n"
    refused(written(tmp_path, text), "own/step/mine.yaml @package _global_")


@pytest.mark.parametrize("line", ["run +step=resnet", "run +step=mine", "sweep study=digits", "cost --format nope"])
def test_a_folder_of_steps_that_is_not_there_is_named(refused, line):
    refused(f"{line} --config-dir /nope/steps", "/nope/steps")


def test_a_step_of_ones_own_is_among_the_names(refused, tmp_path):
    assert "'mine'" in refused(own(tmp_path).replace("=mine", "=mien"), "mien kernel_7")


def test_a_step_of_ones_own_is_read_on_top_of_its_parent(command, tmp_path):
    code, out, _ = command(f"{own(tmp_path)} --cfg job")
    assert code in (0, None)
    assert "kernel_size: 13" in out
    assert "depthwise: true" in out


def test_a_step_of_ones_own_trains(command, tmp_path, tiny_images):
    line = data_line(tiny_images, batch=4).removeprefix("run +step=resnet")
    code, out, message = command(f"{own(tmp_path)} {line} {QUICK}")
    assert code == 0, message
    assert "mine" in out
    assert len(list(tmp_path.glob("experiments/single/runs/mine-s0-*/result.json"))) == 1


def test_an_output_that_is_a_file_is_a_readable_fault(command, tmp_path, tiny_images):
    (tmp_path / "taken").write_text("x")
    code, out, message = command(f"{data_line(tiny_images, batch=4)} {QUICK} output=taken")
    assert code in (2, 3)
    assert_readable(out, message, "output=taken")


# ---- in a process of its own: three seconds, no torch

WATCHED = """
import atexit, resource, runpy, sys
resource.setrlimit(resource.RLIMIT_CPU, (3, 3))  # of the processor's time: what else the machine does matters not
atexit.register(lambda: print("torch" in sys.modules))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
SLOW = "every point is composed before the data and the range are looked at"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run +step=kernel7", "kernel7 kernel_7"),
        ("run +step=resnet recipe.batch_size=2000", "2000 1083"),
        ("run -m +step=resnet,gelu,kernel_7 seed=0,1,2,-1", "seed=-1"),
        ("run +step=resnet data=folder data.path=/nope", "/nope"),
        ("sweep study=digits recipe.lr=nan", "recipe.lr nan"),
        ("cost --scale tinny", "tinny"),
        ("sweep study=digits recipe.batch_size=2000", "2000 1083"),
    ],
)
def test_a_refusal_takes_less_than_three_seconds_and_no_torch(tmp_path, line, words):
    tool, *arguments = line.split()
    called = [sys.executable, "-c", WATCHED, f"roadmap.{tool}", *arguments]
    done = subprocess.run(called, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout.split() == ["False"]
    assert_readable("", done.stderr, words)
    assert list(tmp_path.iterdir()) == []


BROKEN = [
    ("defaults: [gelu\nmodel: {", ", line 2: not readable as YAML"),
    ("step: text\n", ": must have the form defaults: [PARENT, _self_]"),
    ("defaults: 3\n", ": must have the form defaults: [PARENT, _self_]"),
    ("defaults: [gleu, _self_]\n", ": its parent 'gleu' is no step among"),
    ("defaults: [bad, _self_]\n", ": steps bad are each other's parents"),
    ("defaults: [worse, _self_]\n", ": its parent 'worse' is broken: "),
    ("\udcff", ": not readable as YAML"),
]


@pytest.mark.parametrize(("text", "fault"), BROKEN)
def test_a_broken_step_is_named_by_its_path_and_hinders_nobody_else(text, fault, tmp_path, capsys):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "worse.yaml").write_text("step: text\n")
    file = tmp_path / "step" / "bad.yaml"
    file.write_text(text, errors="surrogateescape")
    check_jobs(["+step=gelu", "scale=atto", f"output={tmp_path}"], [tmp_path], multirun=False)
    assert f"warning: {file}{fault}" in capsys.readouterr().err
    assert list(known_steps(tmp_path)) == list(known_steps())
    with pytest.raises(Refused, match=re.escape(f"{file}{fault}")):
        compose(["+step=bad"], [tmp_path])
    for steps in ("all", "bad,gelu"):
        with pytest.raises(Refused, match=re.escape(str(tmp_path / "step"))):  # nothing is left out of a study in silence
            plan(["+study=digits", f"study.steps=[{steps}]", f"output={tmp_path}"], [tmp_path])
    assert list(plan(["+study=digits", "study.steps=[gelu]", f"output={tmp_path}"], [tmp_path]).rows) == ["gelu"]


def test_a_setting_that_is_none_and_a_study_that_is_no_yaml_are_named_by_their_path(tmp_path):
    for group, text in (("step", "# @package _global_\ndefaults: [gelu, _self_]\nmodel: {kernel: 5}\n"), ("study", "a: [\n")):
        (tmp_path / group).mkdir()
        (tmp_path / group / "bad.yaml").write_text(text)
    with pytest.raises(Refused, match=re.escape(f"{tmp_path}/step/bad.yaml: there is no setting 'model.kernel'")):
        compose(["+step=bad"], [tmp_path])
    with pytest.raises(Refused, match=re.escape(f"{tmp_path}/study/bad.yaml, line ")):
        compose(["+step=gelu", "+study=bad"], [tmp_path])


def test_timm_s_names_are_all_found_in_its_sources():
    """A name that is found nowhere is refused without importing timm, so none of its own may be missed."""
    import timm

    from roadmap.model.names import check_name

    for name in [*timm.list_models(), "seresnext101_32x8d"]:
        if not name.startswith("roadmap_"):
            check_name(name)
