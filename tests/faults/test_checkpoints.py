"""Checkpoints are never bad: damaged ones are named and passed over, killed and full writes leave the last good one."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys

import pytest
import torch

from roadmap.base import files as storage
from roadmap.base.errors import StorageFault
from roadmap.train import checkpoint

STATE = {"weights": torch.arange(3000.0), "update": 0}


def saved(folder, *updates):
    for update in updates:
        checkpoint.save(folder, 0, update, STATE | {"update": update})
    return sorted(folder.glob("*.pt"))


def flipped(content, random):
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :]


def test_forty_two_damages_are_named_and_the_one_before_taken(tmp_path, figure):
    """torch.load itself takes every one of the flips for good."""
    draw = random.Random(0)
    _, newest = saved(tmp_path, 1, 2)
    whole = newest.read_bytes()
    damaged = [flipped(whole, draw) for _ in range(40)] + [whole[: len(whole) // 2], b""]
    for content in damaged:
        newest.write_bytes(content)
        state, said = checkpoint.load_newest(tmp_path)
        assert state["update"] == 1
        assert len(said) == 1
        assert str(newest) in said[0]
    figure(f"{len(damaged)} damaged checkpoints: {len(damaged)} named")


@pytest.mark.parametrize("content", [None, "", "0" * 64, "\udcff"])
def test_a_checkpoint_whose_checksum_is_lost_is_passed_over(tmp_path, content):
    _, newest = saved(tmp_path, 1, 2)
    beside = newest.with_suffix(".sha256")
    beside.unlink()
    if content is not None:
        beside.write_bytes(content.encode(errors="surrogateescape"))
    state, said = checkpoint.load_newest(tmp_path)
    assert state["update"] == 1
    assert len(said) == 1


def test_nothing_usable_is_said_and_never_a_silent_start_from_nothing(tmp_path):
    for path in saved(tmp_path, 1, 2):
        path.write_bytes(b"")
    with pytest.raises(StorageFault, match=r"update-00000002.*update-00000001.*to train from the start"):
        checkpoint.load_newest(tmp_path)


class Trap:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def test_a_checkpoint_that_would_run_code_is_refused_even_with_a_right_checksum(tmp_path):
    folder = tmp_path / "checkpoints"
    _, newest = saved(folder, 1, 2)
    with newest.open("wb") as file:
        torch.save({"run": Trap(tmp_path / "canary")}, file)
    newest.with_suffix(".sha256").write_text(checkpoint._digest(newest))
    state, said = checkpoint.load_newest(folder)
    assert state["update"] == 1
    assert newest.name in said[0]
    assert not (tmp_path / "canary").exists()


def test_the_order_is_that_of_updates_and_not_of_the_clock(tmp_path):
    first, second = saved(tmp_path, 9, 10)
    os.utime(first, (2e9, 2e9))
    os.utime(second, (0, 0))
    assert checkpoint.load_newest(tmp_path)[0]["update"] == 10


EVENTS = ("open", "os.rename", "os.remove", "os.truncate")


def die_at(number):
    """Kill this process just before its n-th dealing with the disk from here on."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen > number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_a_kill_at_any_point_of_saving_leaves_a_good_checkpoint(tmp_path, figure):
    """Every opening, renaming and removing of files during two saves, one after the other."""
    kills = 0
    for number in range(100):
        folder = tmp_path / str(number)
        saved(folder, 1, 2)
        child = os.fork()
        if child == 0:
            die_at(number)
            saved(folder, 3, 4)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        state, said = checkpoint.load_newest(folder)
        assert said == []
        assert torch.equal(state["weights"], STATE["weights"])
        if status == 0:
            assert state["update"] == 4
            break
        kills += 1
        assert state["update"] in (2, 3, 4)
        saved(folder, 5, 6)  # and saving goes on
        storage.remove_partial(folder)
        assert len(list(folder.glob("*.pt"))) == 2
        assert not list(folder.glob("*.partial*"))
    else:
        pytest.fail("it never got through")
    assert kills >= 8
    figure(f"killed at each of {kills} points: 0 lost")


def test_a_full_disk_keeps_the_last_good_one(tmp_path):
    """The limit stands for a disk without room: the system refuses to write on."""
    saved(tmp_path, 1, 2)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            saved(tmp_path, 3)
        except StorageFault:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert checkpoint.load_newest(tmp_path)[0]["update"] == 2
    assert not list(tmp_path.glob("*.partial*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_really_full_disk_keeps_the_last_good_one(small_disk):
    saved(small_disk, 1, 2)
    (small_disk / "filler").write_bytes(b"x" * 4096 * 64)
    for _ in range(2):
        with pytest.raises(StorageFault, match="could not be written"):
            saved(small_disk, 3)
    assert checkpoint.load_newest(small_disk)[0]["update"] == 2
    assert not list(small_disk.glob("*.partial*"))
    (small_disk / "filler").unlink()
    saved(small_disk, 3)
    assert checkpoint.load_newest(small_disk)[0]["update"] == 3
