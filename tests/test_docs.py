"""What the README and docs/ name exists: rooms, files, commands and their options, targets of make, settings and choices."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from roadmap import __version__
from roadmap.base.errors import EXIT_REFUSED
from roadmap.cli import COMMANDS
from roadmap.config.overrides import group_options, keys

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/README.md")])
OTHERS = [ROOT / "Makefile", *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("experiments/**/*.sh")]
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FILE = re.compile(r"(?<![\w/])(?:roadmap|conf|docs|tests|notebooks|experiments)/[\w./*-]*[\w/]")
MADE_BY_A_COMMAND = re.compile(
    r"experiments/(single|multirun|choice|imagenette_choice|digits_again|performance/h200-eager|.*/(runs|page\.html))\b"
)
COMMAND = re.compile(r"python -m (roadmap[\w.]*)((?:\\\n|[^\n`])*)")
TARGET = re.compile(r"\bmake ([a-z]+)((?: [a-z]+)*)")
SECTIONS = {key.split(".")[0] for key in keys() if "." in key}
SETTING = re.compile(rf"(?<![\w./])(?:{'|'.join(SECTIONS)})\.[a-z_]+\b(?!\.?[\w/(])")
CHOICE = re.compile(r"(?<![\w.])\+?(step|study|scale|data|recipe|engine)=([a-z]\w*(?:,[a-z]\w*)*)")
SUFFIXES = (".py", ".safetensors", ".onnx", ".json", ".jsonl", ".yaml", ".md", ".csv", ".html", ".png", ".svg", ".tar")


def code(path: Path) -> str:
    """The code of a page: fenced blocks and words in backticks."""
    return "\n".join(CODE.findall(path.read_text()))


def console(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The console command."""
    return subprocess.run([sys.executable, "-m", "roadmap.cli", *arguments], capture_output=True, text=True, timeout=60)


def page(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("path", PAGES, ids=page)


def test_every_room_and_door_is_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [f"roadmap/{path.parent.name}/" for path in ROOT.glob("roadmap/*/__init__.py")]
    doors = [f"roadmap/{path.name}" for path in ROOT.glob("roadmap/*.py") if path.name != "__init__.py"]
    assert len(rooms) > 10
    assert [name for name in rooms + doors if f"| `{name}`" not in text and f", `{name}`" not in text] == []


@pytest.mark.parametrize("path", PAGES + OTHERS, ids=page)
def test_every_file_that_a_page_names_exists(path):
    named = {match for match in FILE.findall(path.read_text()) if not MADE_BY_A_COMMAND.match(match)}
    assert [name for name in sorted(named) if not list(ROOT.glob(name.rstrip("/")))] == []


@every_page
def test_every_command_that_a_page_names_exists_with_its_options(path):
    for module, rest in COMMAND.findall(code(path)):
        if module == "roadmap.NAME":
            continue
        command = importlib.util.find_spec(module)
        assert command is not None, module
        main = Path(command.origin).with_name("__main__.py") if command.submodule_search_locations else Path(command.origin)
        assert main.is_file(), module
        shared = ROOT / "roadmap" / "base" / "console.py"  # options that several commands have
        known = (
            main.read_text() + shared.read_text() if module != "roadmap.run" else "--multirun --config-dir --cfg --info --help"
        )
        for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
            assert option in known, f"{module} {option}"


@every_page
def test_every_target_of_make_that_a_page_names_exists(path):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [word for first, more in TARGET.findall(code(path)) for word in [first, *more.split()]]
    assert [name for name in named if name not in targets] == []


@every_page
def test_every_setting_that_a_page_names_exists(path):
    named = {match for match in SETTING.findall(code(path)) if not match.endswith(SUFFIXES)}
    assert [name for name in sorted(named) if name not in keys()] == []


@every_page
def test_every_choice_that_a_page_names_exists(path):
    own = re.findall(r"my/(\w+)/(\w+)\.yaml", (ROOT / "docs" / "studies.md").read_text())
    for group, values in CHOICE.findall(code(path)):
        for value in values.split(","):
            assert value in group_options(group) or (group, value) in own, f"{group}={value}"


def test_the_version_stands_once():
    assert console("--version").stdout == f"roadmap {__version__}\n"
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert (
        re.search(r"^version\b", (ROOT / "pyproject.toml").read_text() + (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
        is None
    )


def test_the_console_command_lists_its_commands_and_refuses_others():
    listed, refused = console(), console("rn")
    assert listed.returncode == 0
    assert all(f"  {name} " in listed.stdout for name in COMMANDS)
    assert refused.returncode == EXIT_REFUSED
    assert "Did you mean 'run'?" in refused.stderr


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["references"][0]["title"] == "A ConvNet for the 2020s"
    assert {"type": "other", "value": "arXiv:2201.03545"} in citation["references"][0]["identifiers"]


def test_github_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["ci"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert job["steps"][-1] == {"run": ".ci/run"}
