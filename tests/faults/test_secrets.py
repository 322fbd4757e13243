"""Secrets reach no file: canaries in the environment, in settings and on the command line, and every byte that is written."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import QUICK

import roadmap
from roadmap.base import redaction
from roadmap.base.redaction import REDACTED, Redacting, redact_record, redact_text
from roadmap.config.compose import compose
from roadmap.record.folder import RunFolder
from roadmap.sweep.plan import plan
from roadmap.tracking import tracker
from roadmap.tracking.wandb import process

ROOT = Path(roadmap.__file__).parent.parent
RUN = [*QUICK, "recipe.batch_size=256", "runtime.keep_weights=false"]
COMMIT = "0421a58b0c8a5c14cd9e3e1f5c1b4c9d2e7f6a31"
# Put together here, so that no scanner takes this file for a leak.
PLAIN = "canary-" + "Zq8vX2mK"
PASSWORD = "canary-" + "pW5tR9yB"
HUGGING = "hf_" + "CaNaRy" * 5
OPEN = "sk-" + "proj-CANARY" * 3
WANDB = "c0ffee" * 6 + "cafe"
CANARIES = (PLAIN, PASSWORD, HUGGING, OPEN, WANDB)
SHAPES = {
    "aws": "AKIA" + "QWERTYUIOPASDFGH",
    "github": "ghp_" + "a1B2" * 9,
    "github, fine": "github_pat_" + "11A_" * 8,
    "hugging face": HUGGING,
    "openai": OPEN,
    "anthropic": "sk-ant-" + "api03-" + "x1-_" * 8,
    "slack": "xoxb-" + "123456789012-abcdef",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".s1gnature_-x",
    "pem": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\nAAAA\n-----END RSA " + "PRIVATE KEY-----",
    "pem, cut off": "-----BEGIN " + "PRIVATE KEY-----\nMIIE\nAAAA",
}


@pytest.fixture(autouse=True)
def no_other_secrets(monkeypatch):
    for name in list(os.environ):
        if redaction.is_secret_name(name):
            monkeypatch.delenv(name)


# --- the whole program -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder below which one run with W&B has written everything: its working directory and its home."""
    folder = tmp_path_factory.mktemp("secrets")
    secrets = {"DEPLOY_TOKEN": PLAIN, "HTTPS_PROXY": f"http://bob:{PASSWORD}@127.0.0.1:9", "WANDB_API_KEY": WANDB}
    env = {k: v for k, v in os.environ.items() if not redaction.is_secret_name(k)} | secrets
    settings = [
        f"+study.question='why {PLAIN}?'",
        f"wandb.project={HUGGING}",
        f"wandb.entity={PLAIN}",
        f"data.path=/nowhere/{OPEN}",
    ]
    settings = [word.removeprefix("+") for word in settings]
    command = [sys.executable, "-m", "roadmap.run", *RUN, "-m", "+step=gelu", "logger=wandb", *settings]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return folder


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def test_no_byte_of_a_run_is_a_secret(written):
    found = {path.name for path in files(written)}
    assert {"config.yaml", "result.json", "history.jsonl", "log.txt", "multirun.yaml", "debug.log"} <= found
    assert any(name.endswith(".wandb") for name in found)
    leaks = {
        (str(path.relative_to(written)), canary)
        for path in files(written)
        for canary in CANARIES
        if canary.encode() in path.read_bytes()
    }
    assert leaks == set()


def test_no_secret_is_read_back_by_wandb(written):
    """Its file is framed in blocks, at whose borders a search through the bytes is blind."""
    pytest.importorskip("wandb")
    (mirror,) = written.rglob("offline-run-*")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(mirror)]
    read, deadline = "", time.monotonic() + 30
    while "kernel_size" not in read and time.monotonic() < deadline:  # W&B's own process may still be writing
        read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "kernel_size" in read
    assert REDACTED in read
    assert not [canary for canary in CANARIES if canary in read]
    for private in (socket.gethostname(), "roadmap.run", str(ROOT), sys.executable, "git@", "requirements"):
        assert private not in read


def test_the_rest_of_the_record_is_whole(written):
    (run,) = written.glob("experiments/single/runs/*")
    asked = yaml.safe_load((run / "config.yaml").read_text())
    assert asked["wandb"] == {"mode": "offline", "project": REDACTED, "entity": REDACTED}
    assert asked["study"]["question"] == f"why {REDACTED}?"
    assert asked["data"]["path"] == f"/nowhere/{REDACTED}"
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done"
    assert REDACTED not in json.dumps(result)


def test_study_is_written_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", PLAIN)
    settings = ["scale=atto", "recipe=smoke", "+study=digits", f"study.question='{PLAIN} {OPEN}'", f"output={tmp_path}"]
    plan([*settings, "study.steps=[resnet]"]).write()
    (written,) = files(tmp_path)
    assert json.loads(written.read_text())["question"] == f"{REDACTED} {REDACTED}"


def test_output_with_a_secret_keeps_wandb_away(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DEPLOY_TOKEN", PLAIN)
    experiment = compose(["scale=atto", "recipe=smoke", "+step=gelu", "logger=wandb", f"output={tmp_path / PLAIN}"])
    folder = RunFolder.of(experiment, "0" * 16)
    folder.path.mkdir(parents=True)
    folder.write_config(experiment)
    assert isinstance(tracker.open_tracker(experiment, folder), tracker.NoTracker)
    assert "output= holds a secret" in caplog.text
    assert PLAIN not in (folder.path / "config.yaml").read_text()


def test_wandb_is_told_no_other_secret(monkeypatch):
    for name, value in {"DEPLOY_TOKEN": PLAIN, "WANDB_API_KEY": WANDB, "WANDB_NOTES": PLAIN, "WANDB_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    told = process._environment()
    assert told["WANDB_API_KEY"] == WANDB
    assert not {"DEPLOY_TOKEN", "WANDB_NOTES", "WANDB_RUN_ID"} & told.keys()


# --- what is a secret ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_known_shapes(name):
    assert redact_text(f"before {SHAPES[name]}") == f"before {REDACTED}"
    assert redact_record({"a": [{"b": f"{SHAPES[name]}"}]}) == {"a": [{"b": REDACTED}]}


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "MY_TOKEN",
        "token",
        "Secret",
        "DB_PASSWORD",
        "DBPASSWD",
        "APIKEY",
        "AWS_CREDENTIALS",
        "X_AUTH",
        "KEY_ID",
        "a.token",
    ],
)
def test_values_under_a_name_that_says_so(name, monkeypatch):
    monkeypatch.setenv(name, PLAIN)
    assert redact_text(f"got {PLAIN}, again {PLAIN}") == f"got {REDACTED}, again {REDACTED}"
    monkeypatch.delenv(name)
    assert redact_text(PLAIN) == PLAIN
    assert redact_record({name: PLAIN, "other": 3}) == {name: REDACTED, "other": 3}
    for words in ([f"{name}={PLAIN}"], [f"+{name}={PLAIN}"], [f"--{name}={PLAIN}"], [f"--{name}", PLAIN]):
        monkeypatch.setattr(sys, "argv", ["program", *words])
        assert redact_text(PLAIN) == REDACTED


@pytest.mark.parametrize(
    "name", ["KEYBOARD", "AUTHOR", "TOKENIZERS_PARALLELISM", "PASSAGE", "SECRETARY", "PATH", "DEPTHS", "MONKEYS"]
)
def test_names_that_do_not(name, monkeypatch):
    monkeypatch.setenv(name, PLAIN)
    assert redact_text(PLAIN) == PLAIN


def test_a_value_is_found_however_it_is_written(monkeypatch):
    secret = "a\"b/ü\\c d'" + PLAIN
    monkeypatch.setenv("DEPLOY_TOKEN", secret)
    for text in (secret, json.dumps({"x": secret}), repr(secret), f"https://h/?x={redaction.quote(secret, safe='')}"):
        assert PLAIN not in redact_text(text)


def test_longest_value_first(monkeypatch):
    monkeypatch.setenv("A_TOKEN", PLAIN)
    monkeypatch.setenv("B_TOKEN", PLAIN + "-longer")
    assert redact_text(PLAIN + "-longer") == REDACTED


def test_urls_and_wandb_keys():
    assert redact_text(f"https://bob:{PASSWORD}@host/x") == f"https://{REDACTED}@host/x"
    assert redact_text(f"WANDB_API_KEY={WANDB}") == f"WANDB_API_KEY={REDACTED}"
    assert redact_text(f'{{"api_key": "{WANDB}"}}') == f'{{"api_key": "{REDACTED}"}}'
    assert redact_text(f"token {WANDB}") == f"token {REDACTED}"


def test_ordinary_values_stay(monkeypatch):
    for name, value in {
        "KEY": "gelu",
        "SECRET": "digits",
        "TOKEN": "0.1",
        "PASSWORD": "imagenette",
        "AUTH": "inverted_bottleneck",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(ROOT / "roadmap"))
    kept = [
        path.read_text()
        for folder in ("conf", "experiments")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".yaml", ".json", ".jsonl", ".md")
    ]
    kept += [
        f"commit {COMMIT}",
        f'{{"git": {{"commit": "{COMMIT}"}}}}',
        "fingerprint 0123456789abcdef",
        "digits/inverted_bottleneck-s0-0a1b2c3d",
    ]
    kept += [
        str(ROOT / "roadmap" / "run.py"),
        "https://host:8080/a/b@2",
        "git@github.com:who/what.git",
        "task-1",
        "hf_hub_download_of_files",
    ]
    assert [text for text in kept if redact_text(text) != text] == []
    nodes = [yaml.safe_load(path.read_text()) for path in (ROOT / "conf").rglob("*.yaml")]
    assert [node for node in nodes if redact_record(node) != node] == []
    record = {
        "run": "gelu-s0-0a1b2c3d",
        "top1": 91.5,
        "top5": None,
        "compiled": True,
        "git": {"commit": COMMIT, "dirty": False},
        "n": [1, "x"],
    }
    assert redact_record(record) == record


# --- where it is used ------------------------------------------------------------------------------------------------


def test_messages_and_tracebacks_of_a_log(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", PLAIN)
    handler, log = logging.FileHandler(tmp_path / "log.txt"), logging.Logger("test")
    handler.setFormatter(Redacting("%(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        raise ValueError(f"bad {PLAIN}")
    except ValueError:
        log.exception("with %s and %s", PLAIN, [OPEN])
    handler.close()
    said = (tmp_path / "log.txt").read_text()
    assert f"ERROR with {REDACTED} and ['{REDACTED}']" in said
    assert f"ValueError: bad {REDACTED}" in said
    assert not [canary for canary in CANARIES if canary in said]


@pytest.mark.storm
def test_log_of_a_run(tmp_path, monkeypatch):
    from roadmap.run.execute import _log_to, log

    monkeypatch.setenv("DEPLOY_TOKEN", PLAIN)
    handler = _log_to(RunFolder(tmp_path))
    log.warning("it was %s", PLAIN)
    log.removeHandler(handler)
    handler.close()
    assert (tmp_path / "log.txt").read_text().endswith(f"WARNING it was {REDACTED}\n")


def test_streams_of_a_process(tmp_path):
    program = (
        "import os, sys; from roadmap.base.redaction import redact_streams; redact_streams(); redact_streams()\n"
        "print('out', os.environ['DEPLOY_TOKEN'], sys.stdout.isatty(), sys.stdout.fileno(), flush=True)\n"
        "raise ValueError(os.environ['DEPLOY_TOKEN'])\n"
    )
    env = {**os.environ, "DEPLOY_TOKEN": PLAIN, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"out {REDACTED} False 1\n"
    assert done.stderr.endswith(f"ValueError: {REDACTED}\n")


def test_file_of_another_program(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", PLAIN)
    file = tmp_path / "multirun.yaml"
    redaction.redact_file(file)
    file.write_text(f"overrides: [x={PLAIN}]")
    redaction.redact_file(file)
    assert file.read_text() == f"overrides: [x={REDACTED}]"
