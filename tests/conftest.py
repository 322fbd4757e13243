"""What tests share: one thread each, photographs where they are, and small experiments."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # of the processes that tests start

import pytest

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="roadmap-tests-")  # what is examined here is not the user's to keep
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
QUICK = ["scale=atto", "recipe=smoke", "model.width=8", "model.depths=[1,1,1,1]", "runtime.threads=1", "runtime.progress=false"]
# Compiled for one Python: a machine with a GPU and without a network may lack them, and is asked for its other tests.
MISSING = [name for name in ("faster_coco_eval", "pycocotools") if find_spec(name) is None]
collect_ignore = ["test_dense_files.py", "test_dense_scores.py", "test_gallery.py"] if MISSING else []


def pytest_report_header():
    """Say what is left out."""
    return f"without {', '.join(MISSING)}, so without {', '.join(collect_ignore)}" if MISSING else None


def pytest_addoption(parser):
    parser.addoption("--storm", action="store_true", help="the long storms of tests/faults too, with their figures")
    parser.addoption("--clusters", action="store_true", help="a real Slurm and a real Ray too, where they are installed")


def pytest_collection_modifyitems(config, items):
    for name, how in (("storm", "make storm"), ("clusters", "make clusters")):
        if not config.getoption(f"--{name}"):
            for item in items:
                if name in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=f"long: {how}"))


@pytest.fixture
def storm(request):
    """Whether the long version is wanted."""
    return request.config.getoption("--storm")


@pytest.fixture
def figure(request, capsys):
    """Say a figure, whatever is captured."""

    def say(text):
        with capsys.disabled():
            print(f"\n{request.node.name}: {text}", end="")

    return say if request.config.getoption("--storm") else lambda text: None


@pytest.fixture
def never_waiting():
    """A context in which an operation that waits for the GPU raises; afterwards all is as before."""
    import torch

    @contextmanager
    def context():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            try:
                torch.cuda.set_sync_debug_mode("error")
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    return context


@pytest.fixture(autouse=True)
def _what_it_needs_is_there(request):
    if request.node.get_closest_marker("photographs") and not SHARED.is_dir():
        pytest.skip("needs the photographs in ../shared/data")
    if request.node.get_closest_marker("gpu") and os.environ.get("TRITON_INTERPRET") != "1":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Caltech-101, ten classes of real photographs, unpacked as train/ and val/."""
    archive = SHARED / "caltech10_64.zip"
    if not archive.is_file():
        pytest.skip("needs the photographs in ../shared/data")
    folder = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return next(path.parent for path in folder.rglob("train"))


@pytest.fixture
def tiny_images(tmp_path):
    """A folder data set of two classes, twelve noise images for training and four for evaluation."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def few():
    """Fewer scenes than there are."""
    from roadmap.data.images import scenes

    scenes.scenes.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SCENES", {"train": 24, "val": 10})
        yield
    scenes.scenes.cache_clear()


@pytest.fixture(scope="module")
def chromium():
    """A browser, see `browser.Browser`."""
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    found = Browser()
    yield found
    found.close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with weights of timm's networks, freshly initialised, and no network."""

    def put(name):
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(1)
        model = timm.create_model(name)
        place = tmp_path / "hub" / ("models--" + timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--"))
        (place / "snapshots" / "1").mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("1")
        save_file(model.state_dict(), place / "snapshots" / "1" / "model.safetensors")
        return model.eval()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return put


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """A command in this process, in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["roadmap", *map(str, arguments)])
        capsys.readouterr()
        assert module.main() == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def terminal(monkeypatch, capsys, tmp_path):
    """A command line in this process, in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def call(line):
        from roadmap.base.console import exits

        tool, *arguments = shlex.split(line)
        module = import_module(f"roadmap.{tool}")
        if hasattr(module, "__path__"):
            module = import_module(f"roadmap.{tool}.__main__")
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        with pytest.raises(SystemExit) as stop:
            exits(module.main)()
        return stop.value.code, *capsys.readouterr()

    yield call
    for number, handler in before.items():  # what a program of its own may keep
        signal.signal(number, handler)


@pytest.fixture
def no_wandb(monkeypatch, tmp_path):
    """No login and no W&B settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
