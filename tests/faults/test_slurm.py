"""Runs as jobs of a real Slurm: failures told apart, preemption, hands and time limits survived, nothing done twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="needs submitit: pip install 'roadmap[slurm]'")
sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, also in the processes that it starts

from conftest import QUICK
from slurm_cluster import Cluster, missing

import roadmap
from roadmap.base.errors import EXIT_STOPPED, Refused
from roadmap.sweep import plan
from roadmap.sweep.engines import queue, slurm
from roadmap.sweep.engines.queue import run_once
from roadmap.sweep.engines.slurm import Slurm

pytestmark = pytest.mark.clusters

ROOT = Path(roadmap.__file__).parent.parent
TINY = ["+study=digits", *QUICK, "study.steps=[gelu]", "recipe.batch_size=256", "engine=slurm", "engine.minutes=30"]
LONGER = ["recipe.batch_size=32", "runtime.checkpoint_seconds=0.5"]
on_a_cluster = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def one_cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    yield started
    started.stop()


@pytest.fixture
def cluster(one_cluster, monkeypatch):
    for key, value in {**one_cluster.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(Slurm, "pause", 0.5)
    yield one_cluster
    one_cluster.clear()


def points_of(folder, *overrides):
    return plan.plan([*TINY, *overrides, f"output={folder}"]).points


def run(points, max_failures=None, tell=lambda over, running: None):
    ends = run_once(Slurm(points[0].experiment.engine), points, tell, max_failures)
    return {end.point.experiment.seed: end for end in ends}


def jobs_of(points):
    """Job of each seed."""
    written = json.loads((study(points) / "slurm" / "jobs.json").read_text())
    return {point.experiment.seed: written[point.folder.path.name] for point in points if point.folder.path.name in written}


def study(points):
    return points[0].folder.path.parent.parent


def figures(point):
    """What a disturbed run must have in common with an undisturbed one."""
    result = point.folder.result()
    lines = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in point.folder.history()]
    return (result.status, result.scores, result.train_loss), lines


def undisturbed(folder, *overrides):
    """The same runs one after the other in this process, by seed."""
    from runs import executed

    points = points_of(folder, *overrides)
    for point in points:
        executed(point.experiment, point.fingerprint)
    return {point.experiment.seed: figures(point) for point in points}


def begun(point):
    return len(point.folder.history()) > 0


@on_a_cluster
def test_one_of_an_array_fails_and_the_others_are_done(cluster, tmp_path):
    points = points_of(tmp_path, "study.seeds=[0,1,2]")
    (points[1].folder.path / "claim").mkdir(parents=True)
    seen = []
    ends = run(points, tell=lambda over, running: seen.append((len(over), len(running))))
    assert {seed: end.code for seed, end in ends.items()} == {0: 0, 1: 2, 2: 0}
    assert "exit code 2: roadmap:" in ends[1].reason
    assert "claim" in ends[1].reason or "cannot be written" in ends[1].reason
    assert all(point.done for point in (points[0], points[2]))
    assert max(running for _, running in seen) >= 2
    assert seen[-1][0] == 3
    assert len({job.split("_")[0] for job in jobs_of(points).values()}) == 1  # one array


@on_a_cluster
@pytest.mark.storm
def test_after_so_many_failures_nothing_is_started(cluster, tmp_path):
    points = points_of(tmp_path, "study.seeds=[0,1,2]", "engine.jobs=1")
    for point in points[:2]:
        (point.folder.path / "claim").mkdir(parents=True)
    ends = run(points, max_failures=1)
    assert ends[0].code == 2
    assert (ends[2].code, ends[2].reason) in [(EXIT_STOPPED, f"not started: {n} runs failed") for n in (1, 2)]
    assert not points[2].folder.path.exists()


@on_a_cluster
def test_preempted_or_requeued_by_hand_and_the_same_bits(cluster, tmp_path):
    overrides = ["study.seeds=[0,1]", *LONGER, "recipe.epochs=12", "engine.cpus=4", "engine.partition=low"]
    expected = undisturbed(tmp_path / "undisturbed", *overrides)
    points = points_of(tmp_path / "disturbed", *overrides)
    disturbed = set()

    def disturb(over, running):
        for seed, job in jobs_of(points).items():
            if begun(points[seed]) and seed not in disturbed:
                disturbed.add(seed)
                if seed == 0:
                    cluster.say("scontrol", "requeue", job)
                else:
                    node = cluster.say("squeue", "-h", "-j", job, "-o", "%N")
                    cluster.say("sbatch", "--partition=high", "-c4", "-w", node, "--output=/dev/null", "--wrap=sleep 1")

    ends = run(points, tell=disturb)
    assert {seed: (end.code, end.reason) for seed, end in ends.items()} == dict.fromkeys(range(2), (0, ""))
    assert {point.experiment.seed: figures(point) for point in points} == expected
    assert [point.folder.log.read_text().count("the same command goes on from epoch") for point in points] == [1, 1]
    assert len({job.split("_")[0] for job in jobs_of(points).values()}) == 1  # their first jobs, queued again


@on_a_cluster
@pytest.mark.storm
@pytest.mark.parametrize("node_down", [False, True])
def test_a_run_that_is_killed_or_loses_its_node_goes_on(cluster, tmp_path, node_down):
    overrides = ["study.seeds=[0]", *LONGER, "recipe.epochs=3"]
    points = points_of(tmp_path / "disturbed", *overrides)
    first = []

    def disturb(over, running):
        if begun(points[0]) and not first:
            first.append(jobs_of(points)[0])
            if node_down:
                node = cluster.say("squeue", "-h", "-j", first[0], "-o", "%N")
                cluster.say("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
            else:
                os.kill(json.loads((points[0].folder.path / "claim").read_text())["pid"], signal.SIGKILL)

    end = run(points, tell=disturb)[0]
    for node in ("n1", "n2"):
        cluster.say("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert (end.code, end.reason) == (0, "")
    assert (jobs_of(points)[0] != first[0]) == (not node_down)  # Slurm itself queues the job of a lost node again
    assert figures(points[0]) == undisturbed(tmp_path / "undisturbed", *overrides)[0]


DRIVER = """
import sys
from roadmap.sweep.plan import plan
from roadmap.sweep.engines.queue import run_once
from roadmap.sweep.engines.slurm import Slurm
points = plan(sys.argv[1:]).points
run_once(Slurm(points[0].experiment.engine), points, lambda over, running: None)
"""


@on_a_cluster
def test_a_sweep_that_was_killed_finds_its_jobs_again(cluster, tmp_path, storm):
    overrides = ["study.seeds=[0,1]" if storm else "study.seeds=[0]", *LONGER, "recipe.epochs=2", "engine.jobs=1"]
    points = points_of(tmp_path, *overrides)
    first = subprocess.Popen([sys.executable, "-c", DRIVER, *TINY, *overrides, f"output={tmp_path}"], cwd=tmp_path)
    cluster.wait(lambda: begun(points[0]), 90, "first epoch")
    first.kill()
    first.wait()
    before, known = jobs_of(points), set(cluster.jobs())
    ends = run(points)
    assert {end.code for end in ends.values()} == {0}
    assert jobs_of(points) == before
    assert {job for job in cluster.jobs() if job not in known} <= set(before.values())
    assert [point.folder.log.read_text().count("INFO epoch 1 ") for point in points] == [1] * len(points)


@on_a_cluster
def test_a_stopped_sweep_saves_and_leaves_nothing_behind(cluster, tmp_path):
    points = points_of(tmp_path, "study.seeds=[0,1]", *LONGER, "recipe.epochs=500", "engine.jobs=1")
    asked = []

    def stop(over, running):
        if begun(points[0]) and not asked:
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    ends = run(points, tell=stop)
    assert time.monotonic() - asked[0] < 30
    assert [ends[seed].code for seed in (0, 1)] == [EXIT_STOPPED] * 2
    assert ends[0].reason == "stopped; the same command goes on with it"
    assert ends[1].reason == "not started: SIGTERM"
    assert "the same command goes on from epoch" in points[0].folder.log.read_text()
    assert list(points[0].folder.checkpoints.glob("*.pt"))
    cluster.wait(lambda: not cluster.say("squeue", "-h"), 15, "empty queue")


@on_a_cluster
@pytest.mark.storm
def test_time_limits_are_outlived(cluster, tmp_path, figure):
    """A minute a job, the least that Slurm knows: the run needs several."""
    overrides = ["study.seeds=[0]", *LONGER, "recipe.epochs=60", "engine.minutes=1", "engine.retries=30"]
    points = points_of(tmp_path / "disturbed", *overrides)
    start = time.monotonic()
    ends = run(points)
    seconds = time.monotonic() - start
    assert (ends[0].code, ends[0].reason) == (0, "")
    stops = points[0].folder.log.read_text().count("stopped by SIGUSR1")
    assert stops >= 1
    figure(f"{seconds:.0f} s in {stops + 1} jobs of a minute")
    assert figures(points[0]) == undisturbed(tmp_path / "undisturbed", *overrides)[0]


@on_a_cluster
@pytest.mark.storm
def test_a_run_that_outlives_its_limits_too_often_stays_stopped(cluster, tmp_path):
    overrides = ["study.seeds=[0]", *LONGER, "recipe.epochs=5000", "engine.minutes=1", "engine.retries=0"]
    points = points_of(tmp_path, *overrides)
    ends = run(points)
    assert (ends[0].code, ends[0].reason) == (EXIT_STOPPED, "stopped; the same command goes on with it")
    assert list(points[0].folder.checkpoints.glob("*.pt"))


@on_a_cluster
@pytest.mark.storm
@pytest.mark.parametrize("shape", [["engine.nodes=2"], ["engine.processes=2"]])
def test_a_run_of_two_processes_is_requeued(cluster, tmp_path, shape):
    """Over two nodes, and on one, with torchrun; requeued by hand in the middle; the numbers of one process."""
    common = ["study.seeds=[0]", *LONGER, "recipe.micro_batch=16", "recipe.epochs=3"]
    expected = undisturbed(tmp_path / "undisturbed", *common)
    points = points_of(tmp_path / "disturbed", *common, *shape)
    done = []

    def disturb(over, running):
        if begun(points[0]) and not done:
            done.append(cluster.say("scontrol", "requeue", jobs_of(points)[0]))

    ends = run(points, tell=disturb)
    assert (ends[0].code, ends[0].reason) == (0, ""), points[0].folder.log.read_text()[-3000:]
    assert done
    # torchrun says which node has rank 0, and so whose log tells it
    logs = "".join(log.read_text() for log in points[0].folder.path.glob("log*.txt"))
    assert "the same command goes on from epoch" in logs
    assert points[0].folder.result().processes == 2
    assert (points[0].folder.path / "log.node-1.txt").exists() == (shape == ["engine.nodes=2"])
    ((_, mine, _), _), ((_, theirs, _), _) = figures(points[0]), expected[0]
    assert mine["top1"] == theirs["top1"]
    assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-6)


@on_a_cluster
def test_what_slurm_refuses_is_refused(cluster, tmp_path):
    with pytest.raises(Refused, match=r"could not be submitted.*partition"):
        run(points_of(tmp_path, "study.seeds=[0]", "engine.partition=nowhere"))


# Without a cluster: what its words mean.


class FakeSlurm:
    """Answers squeue with one script of states for all jobs, the last for ever; gives each submitted run a job."""

    def __init__(self, monkeypatch, *script):
        self.script, self.submitted, self.said = list(script), [], []
        monkeypatch.setattr(slurm, "NEEDED", ())
        monkeypatch.setattr(queue, "GLANCE", 0.0)
        monkeypatch.setattr(Slurm, "pause", 0.0)
        monkeypatch.setattr(slurm, "queued", self.queued)
        monkeypatch.setattr(slurm, "accounted", lambda job: ("", "it is no longer known"))
        monkeypatch.setattr(slurm, "_ask", lambda *line: self.said.append(line))
        monkeypatch.setattr(Slurm, "_executor", lambda engine, point: self)

    def queued(self, name):
        state = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return state if state is None else {job.job_id: state for job in self.submitted if state != ()}

    def submit_array(self, jobs):
        new = [dataclasses.make_dataclass("Job", ["job_id"])(f"{len(self.submitted) + i}") for i, _ in enumerate(jobs)]
        self.submitted += new
        for job, sent in zip(new, jobs, strict=True):
            self.begin(job.job_id, sent)
        return new

    def begin(self, job, sent):
        sent.log.parent.mkdir(parents=True, exist_ok=True)
        sent.log.write_text("its last words\n")


def ending(monkeypatch, code):
    """A Slurm whose jobs end at once with this exit code."""
    fake = FakeSlurm(monkeypatch, ("FAILED", "NonZeroExitCode"))
    fake.begin = lambda job, sent: (
        FakeSlurm.begin(fake, job, sent),
        sent.ending.write_text(json.dumps({"job": job, "code": code})),
    )
    return fake


@pytest.mark.parametrize(
    ("state", "times", "code", "says"),
    [
        (("NODE_FAIL", "NodeDown"), 3, 1, "Slurm says of job 2: NODE_FAIL NodeDown, 3 times: its last words"),
        (("OUT_OF_MEMORY", "OutOfMemory"), 1, 1, "Slurm says of job 0: OUT_OF_MEMORY OutOfMemory: its last words"),
        (("CANCELLED", "None"), 1, EXIT_STOPPED, "stopped; the same command goes on with it"),
        ((), 3, 1, "Slurm says of job 2: it is no longer known, 3 times: its last words"),
    ],
)
def test_words_of_slurm(monkeypatch, tmp_path, state, times, code, says):
    fake = FakeSlurm(monkeypatch, state)
    end = run(points_of(tmp_path, "study.seeds=[0]", "engine.retries=2"))[0]
    assert (end.code, end.reason, len(fake.submitted)) == (code, says, times)


@pytest.mark.parametrize(
    ("code", "times", "ends", "says"),
    [
        (1, 1, 1, "exit code 1: its last words"),
        (3, 1, 3, "exit code 3: its last words"),
        (143, 1, EXIT_STOPPED, "stopped; the same command goes on with it"),
        (-9, 3, 1, "FAILED NonZeroExitCode, killed by SIGKILL, 3 times: its last words"),
    ],
)
def test_exit_codes_of_runs(monkeypatch, tmp_path, code, times, ends, says):
    fake = ending(monkeypatch, code)
    end = run(points_of(tmp_path, "study.seeds=[0]", "engine.retries=2"))[0]
    assert (end.code, len(fake.submitted)) == (ends, times)
    assert end.reason.endswith(says)


def test_a_controller_that_is_away_and_a_job_queued_again_are_not_the_end(monkeypatch, tmp_path):
    states = [("PENDING", "None"), ("RUNNING", "None"), None, ("FAILED", "x"), ("PENDING", "BeginTime"), None, ("FAILED", "x")]
    fake = FakeSlurm(monkeypatch, *states, ("CANCELLED", "None"))
    assert run(points_of(tmp_path, "study.seeds=[0]", "engine.retries=0"))[0].code == EXIT_STOPPED
    assert len(fake.submitted) == 1
    with pytest.raises(Refused, match="squeue gives no answer"):
        FakeSlurm(monkeypatch, None)
        run(points_of(tmp_path, "study.seeds=[0]"))


def test_pending_jobs_are_taken_back_after_so_many_failures(monkeypatch, tmp_path):
    fake = FakeSlurm(monkeypatch, ("RUNNING", "None"))
    points = points_of(tmp_path, "study.seeds=[0,1,2]", "engine.jobs=1")
    states = {"0": ("FAILED", "x"), "1": ("PENDING", "JobArrayTaskLimit"), "2": ("PENDING", "JobArrayTaskLimit")}
    monkeypatch.setattr(slurm, "queued", lambda name: dict(states) if fake.submitted else {})

    def ask(*line):
        if line[:2] == ("scancel", "--state=PENDING"):
            states.update(dict.fromkeys(line[2:], ("CANCELLED", "None")))

    monkeypatch.setattr(slurm, "_ask", ask)
    fake.begin = lambda job, sent: sent.ending.write_text(json.dumps({"job": job, "code": 1}))
    ends = run(points, max_failures=1)
    assert ends[0].reason == "exit code 1: it left no log"
    assert [(ends[seed].code, ends[seed].reason) for seed in (1, 2)] == [(EXIT_STOPPED, "not started: 1 runs failed")] * 2


def test_leftovers_of_submitit_say_nothing(monkeypatch, tmp_path):
    """Torn pickles and endings of earlier jobs neither fake a run nor stand in the way of one."""
    points = points_of(tmp_path, "study.seeds=[0]")
    folder = study(points) / "slurm"
    folder.mkdir(parents=True)
    for name in ("0_submitted.pkl", "0_submitted.pkl.save_tmp", "0_0_result.pkl", "0_0_result.pkl.save_tmp", "jobs.json"):
        (folder / name).write_bytes(b"\x80\x05torn")
    (folder / f"{points[0].folder.path.name}.json").write_text(json.dumps({"job": "an earlier one", "code": 0}))
    ending(monkeypatch, 1)
    assert run(points)[0].reason == "exit code 1: its last words"


def test_a_run_that_another_process_is_at_is_waited_for(monkeypatch, tmp_path):
    points = points_of(tmp_path, "study.seeds=[0,1]")
    answers = iter([*["process 1 on elsewhere"] * 3, *[None] * 100])
    monkeypatch.setattr(queue, "holder", lambda point: next(answers) if point.experiment.seed == 1 else None)
    fake = FakeSlurm(monkeypatch, ("CANCELLED", "None"))
    assert {end.code for end in run(points).values()} == {EXIT_STOPPED}
    assert len(fake.submitted) == 2


def test_what_a_job_asks_for(tmp_path):
    asked = ["engine.nodes=2", "engine.gpus=4", "engine.memory_gb=1.5", "engine.account=me", "engine.qos=fast", "engine.jobs=7"]
    points = points_of(tmp_path, "study.seeds=[0]", *asked, "engine.constraint=a100|h100", "engine.cpus=12")
    if missing() is not None:
        pytest.skip("submitit looks for srun")
    engine = Slurm(points[0].experiment.engine)
    engine.folder, engine.name = study(points) / "slurm", "roadmap-digits"
    text = engine._executor(points[0])._make_submission_file_text("x", "y")
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "mem=1536MB", "account=me", "qos=fast", "cpus-per-task=12"):
        assert f"#SBATCH --{line}\n" in text
    for line in ("time=30", "signal=USR2@60", "requeue", "job-name=roadmap-digits", "constraint='a100|h100'"):
        assert f"#SBATCH --{line}\n" in text
    assert "srun --unbuffered" in text
    assert text.count("--cpus-per-task=12") == 2  # of the job, and of its step
    assert engine._job(points[0]).processes == 4


@pytest.mark.parametrize(
    ("overrides", "says"), [(["engine.gpus=0.5"], "engine.gpus=0.5.*whole"), (["engine.nodes=2"], "recipe.micro_batch=null")]
)
def test_what_no_job_could_do_is_refused(monkeypatch, tmp_path, overrides, says):
    FakeSlurm(monkeypatch, ("RUNNING", "None"))
    with pytest.raises(Refused, match=says):
        run(points_of(tmp_path, "study.seeds=[0]", *overrides))


def test_without_slurm_or_submitit(monkeypatch, tmp_path):
    wanted = points_of(tmp_path, "study.seeds=[0]")[0].experiment.engine
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="there is no sbatch here"):
        Slurm(wanted)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(Refused, match=r"pip install 'roadmap\[slurm\]'"):
        Slurm(wanted)
