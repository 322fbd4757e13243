"""Runs as jobs of a Slurm cluster, through submitit: all that wait go as one array, and squeue is asked once for all.

What became of a run is read from its own folder. submitit's files in `<study>/slurm/` carry a run to its node and
nothing back; beside them lie `jobs.json` (which job carries out which run, so that a sweep that was killed finds its
jobs again) and a file for each run that ended, with its job and exit code.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from roadmap.base.errors import EXIT_FAILED, EXIT_HELD, EXIT_REFUSED, EXIT_STOPPED, EXIT_STORAGE, Refused
from roadmap.base.files import read_object, write_whole
from roadmap.config.checks import check_processes
from roadmap.config.schema import Device, EngineConfig, RuntimeConfig
from roadmap.sweep.engines.base import Outcome, Tell, closed, last_line, noted_signals, outcome
from roadmap.sweep.engines.command import carry_out, command
from roadmap.sweep.plan import Point

NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol")
TO_SAVE = 60  # seconds before the time limit at which a run is asked to save
GLANCE = 2.0  # seconds between two questions to squeue
GRACE = 20.0  # seconds between a stop of the sweep and the end of the jobs that did not obey
ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless its administrator says otherwise
PATIENCE = 60  # glances for which sbatch may fail in the middle of a sweep
TAKEN = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT"}  # states of a job that ended by no fault of its own
OVER = TAKEN | {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY"}
OWN_FAULTS = (EXIT_FAILED, EXIT_REFUSED, EXIT_STORAGE)  # said although there is a result: its weights could not be written
PASSING = {"None", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit", "Cleaning", "Prolog"}  # what every job waits for

log = logging.getLogger("roadmap")
State = tuple[str, str]  # Slurm's words for a job's state and for the reason


@dataclass
class Slurm:
    """Jobs of a cluster: as many at a time as it gives room to, or `engine.jobs`."""

    wanted: EngineConfig
    max_failures: int | None = None

    def __post_init__(self) -> None:
        _submitit()
        for name in NEEDED:
            if shutil.which(name) is None:
                raise Refused(f"engine=slurm: there is no {name} here; start the sweep on a machine that submits to Slurm")
        if self.wanted.gpus is not None and self.wanted.gpus != int(self.wanted.gpus):
            raise Refused(f"engine.gpus={self.wanted.gpus}: Slurm gives whole GPUs; allowed: null, 0, 1, 2, ...")

    def places(self, runtime: RuntimeConfig) -> int | None:
        """How many runs there is room for at a time, where the user says."""
        return self.wanted.jobs

    def run(self, points: Sequence[Point], tell: Tell) -> list[Outcome]:
        """Run every point; see `Engine`.

        Raises:
            Refused: where Slurm does not answer, or refuses the jobs.

        """
        for point in points:
            check_processes(point.experiment, processes(self.wanted, point) * self.wanted.nodes)
        with noted_signals() as stop:
            return _Sweep(self.wanted, self.max_failures, list(points), stop).work(tell)


@dataclass
class _Sweep:
    """The runs that may be submitted, those in the queue or running, those that another process is at, and those over."""

    wanted: EngineConfig
    max_failures: int | None
    elsewhere: list[Point]  # all of them at first: whoever is at one is left in peace
    stop: list[str]
    waiting: list[Point] = field(default_factory=list)
    jobs: dict[str, Point] = field(default_factory=dict)
    over: list[Outcome] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)  # jobs seen over once: a job queued again looks so for a moment
    withdrawn: set[str] = field(default_factory=set)  # jobs cancelled before they began
    taken: Counter[str] = field(default_factory=Counter)  # how often each run's job was taken away
    refusals: int = 0
    said: set[str] = field(default_factory=set)  # what jobs were waiting for

    def __post_init__(self) -> None:
        study = self.elsewhere[0].folder.path.parent.parent
        self.folder, self.name = study / "slurm", f"roadmap-{study.name}"

    def work(self, tell: Tell) -> list[Outcome]:
        self._attach()
        while self.jobs or ((self.waiting or self.elsewhere) and not self._closed()):
            if self.stop:
                self._leave()
                break
            self._start()
            self._look()
            tell(self.over, [point for job, point in self.jobs.items() if self.states.get(job, ("PENDING",))[0] != "PENDING"])
            self._rest(GLANCE)
        left = [*self.waiting, *self.elsewhere]
        return self.over + [Outcome(point, EXIT_STOPPED, f"not started: {self._closed()}") for point in left]

    def _closed(self) -> str:
        """Why nothing more is started; empty while something is."""
        return closed(self.over, self.max_failures, self.stop)

    def _rest(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stop and time.monotonic() < deadline:
            time.sleep(0.1)

    # From a run to a job.

    def _attach(self) -> None:
        """Find the jobs that an earlier sweep of this study left in the queue."""
        states = queue(self.name)
        if states is None:
            raise Refused("engine=slurm: squeue gives no answer; is the cluster's controller running?")
        self.states = states
        known = read_object(self.folder / "jobs.json")
        for point in list(self.elsewhere):
            job = str(known.get(point.folder.path.name))
            if job in states and states[job][0] not in OVER:
                self.jobs[job] = point
                self.elsewhere.remove(point)

    def _start(self) -> None:
        """Submit the runs that nobody is at; those beyond `engine.jobs` wait in the array, or here while jobs are under way."""
        if self._closed():
            return self._withdraw()
        for point in list(self.elsewhere):
            if point.done or _holder(point) is None:
                self.elsewhere.remove(point)
                self.over.append(outcome(point, 0)) if point.done else self.waiting.append(point)
        room = ARRAY if not self.jobs or self.wanted.jobs is None else self.wanted.jobs - len(self.jobs)
        batch = self.waiting[: max(0, room)]
        if batch:
            self.waiting = self.waiting[len(batch) :]
            self._submit(batch)

    def _submit(self, batch: list[Point]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _plain_environment():
                found = self._executor(batch[0]).submit_array([self._job(point) for point in batch])
        except OSError as error:
            raise Refused(f"{self.folder} cannot be written: {error}") from error
        except RuntimeError as error:  # submitit's, with sbatch's words
            self.waiting, self.refusals = batch + self.waiting, self.refusals + 1
            if not (self.jobs or self.over) or self.refusals > PATIENCE:
                raise Refused(f"engine=slurm: the jobs could not be submitted: {error}") from error
            return
        self.refusals = 0
        self.jobs |= {job.job_id: point for job, point in zip(found, batch, strict=True)}
        self._write_down()

    def _write_down(self) -> None:
        mine = {point.folder.path.name: job for job, point in self.jobs.items()}
        write_whole(self.folder / "jobs.json", json.dumps(read_object(self.folder / "jobs.json") | mine, indent=1) + "\n")

    def _job(self, point: Point) -> Job:
        return Job(point.command, point.folder.log, self._ending(point), processes(self.wanted, point), self.wanted.nodes)

    def _executor(self, point: Point) -> Any:
        wanted, each = self.wanted, processes(self.wanted, point)
        experiment = point.experiment
        cpus = wanted.cpus or each * ((experiment.runtime.threads or 1) + experiment.data.workers)
        executor = _submitit().SlurmExecutor(self.folder, max_num_timeout=wanted.retries)
        asked = {
            "gpus_per_node": gpus(wanted, point) or None,
            "mem": f"{round(wanted.memory_gb * 1024)}MB" if wanted.memory_gb else None,
            **{key: getattr(wanted, key) for key in ("partition", "account", "qos", "constraint")},
        }
        executor.update_parameters(
            job_name=self.name,
            time=wanted.minutes,
            signal_delay_s=min(TO_SAVE, wanted.minutes * 15),
            nodes=wanted.nodes,
            ntasks_per_node=1,
            cpus_per_task=cpus,
            srun_args=[f"--cpus-per-task={cpus}"],  # since Slurm 22.05 a step does not inherit it
            array_parallelism=wanted.jobs or ARRAY,
            stderr_to_stdout=True,
            additional_parameters={"requeue": True},
            **{key: value for key, value in asked.items() if value is not None},
        )
        return executor

    def _ending(self, point: Point) -> Path:
        return self.folder / f"{point.folder.path.name}.json"

    # From a job to an outcome.

    def _look(self) -> None:
        """Ask Slurm about all jobs at once, and settle those that are over."""
        states = queue(self.name)
        if states is None:  # a controller that is away for a while says nothing about its jobs
            return
        self.states = states
        for job, point in list(self.jobs.items()):
            if job in states and states[job][0] not in OVER:
                self.unsure.discard(job)
                self._warn(job, *states[job])
            elif point.done or job in self.unsure:
                del self.jobs[job]
                self._settle(job, point, states.get(job) or accounted(job))
            else:
                self.unsure.add(job)

    def _warn(self, job: str, state: str, reason: str) -> None:
        """Say once what a job waits for, where that may never come: a time limit above the partition's, a hold."""
        if state == "PENDING" and reason not in PASSING | self.said:
            self.said.add(reason)
            log.warning("job %s waits in Slurm's queue: %s", job, reason)

    def _settle(self, job: str, point: Point, state: State) -> None:
        """What a job that is over means for its run."""
        ending = read_object(self._ending(point))
        code = ending.get("code") if ending.get("job") == job else None
        if point.done:
            self.over.append(outcome(point, code if code in OWN_FAULTS else 0))
        elif self.stop or state[0] == "CANCELLED":
            said = f"not started: {self._closed()}" if job in self.withdrawn else "stopped; the same command goes on with it"
            self.over.append(Outcome(point, EXIT_STOPPED, said))
        elif code == EXIT_HELD or _holder(point) is not None:
            self.elsewhere.append(point)
        elif self._again(point, code, state):
            self.waiting.append(point)
        else:
            self.over.append(self._ended(job, point, code, state))

    def _again(self, point: Point, code: int | None, state: State) -> bool:
        """Whether the run's process was taken away, by no fault of its own, and not too often."""
        lost = state[0] in TAKEN or (state[0] != "OUT_OF_MEMORY" and (code is None or code < 0))
        self.taken[point.folder.path.name] += lost
        return lost and self.taken[point.folder.path.name] <= self.wanted.retries

    def _ended(self, job: str, point: Point, code: int | None, state: State) -> Outcome:
        if code is not None and code >= 0:
            return outcome(point, code)
        words = " ".join(word for word in state if word not in ("", "None"))
        killed = "" if code is None else f", killed by {signal.Signals(-code).name}"
        return Outcome(point, EXIT_FAILED, f"Slurm says of job {job}: {words}{killed}: {last_line(point)}")

    # The end of a sweep before its runs'.

    def _withdraw(self) -> None:
        """Take back the jobs that have not begun."""
        pending = [job for job in self.jobs if self.states.get(job, ("PENDING",))[0] == "PENDING"]
        new = [job for job in pending if job not in self.withdrawn]
        if new:
            _ask("scancel", "--state=PENDING", *new)
            self.withdrawn.update(new)

    def _leave(self) -> None:
        """Ask the jobs to save and not to be queued again, and cancel those that have not obeyed in time."""
        self._withdraw()
        if self.jobs:
            _ask("scancel", f"--signal={BY_HAND.name[3:]}", *self.jobs)
        deadline = time.monotonic() + GRACE
        while self.jobs and time.monotonic() < deadline and len(self.stop) == 1:
            time.sleep(0.5)
            self._look()
        if self.jobs:
            _ask("scancel", *self.jobs)
        for point in self.jobs.values():
            self.over.append(outcome(point, 0) if point.done else outcome(point, EXIT_STOPPED))


# --- on a node -------------------------------------------------------------------------------------------------------

BY_HAND = signal.SIGINT  # from a sweep that ends: save, and do not queue the job again
AT_LIMIT = signal.SIGUSR2  # from Slurm, `TO_SAVE` before the time limit; submitit's choice


@dataclass
class Job:
    """What submitit carries to a node: one run. It ends with the run's exit code, or queues itself again."""

    arguments: tuple[str, ...]
    log: Path
    ending: Path
    processes: int
    nodes: int

    def __call__(self) -> NoReturn:
        """Carry out the run; one call for each node."""
        here = _submitit().JobEnvironment()
        at_limit = signal.getsignal(AT_LIMIT)  # submitit's: counts the time limits, and queues the job again
        heard: list[int] = []
        log = self.log.with_name(f"log.node-{here.node}.txt") if here.node else self.log
        if not here.node:
            self.ending.unlink(missing_ok=True)
        code = carry_out(command(self.arguments, self.processes, self._rendezvous(here)), log, heard.append)
        if not here.node:
            with suppress(OSError):  # a full disk: the run's own exit code says so
                write_whole(self.ending, json.dumps({"job": here.job_id, "code": code}) + "\n")
            if code == EXIT_STOPPED and heard and heard[0] == AT_LIMIT and callable(at_limit):
                self._next_time(here, at_limit)
            elif code == EXIT_STOPPED and heard and heard[0] != BY_HAND:
                _if_preempted(here.job_id)
        sys.exit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> Any:
        """The same again: submitit asks for what goes into the queue, and the run goes on from its own checkpoint."""
        return _submitit().helpers.DelayedSubmission(self)

    def _rendezvous(self, here: Any) -> tuple[str, ...]:
        if self.nodes == 1:
            return ("--standalone",)
        number = int(here.raw_job_id)
        return (
            f"--nnodes={self.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={_address(here.hostnames[0])}:{10_000 + number % 20_000}",  # below the ports that Linux hands out
            f"--rdzv-conf=is_host={here.node == 0}",  # torchrun would guess it from names
            f"--rdzv-id={number}",
        )

    def _next_time(self, here: Any, at_limit: Any) -> None:
        """Let submitit queue the job again; what a kill left of an earlier attempt would stand in its way."""
        file = here.paths.submitted_pickle
        file.with_suffix(f"{file.suffix}.save_tmp").unlink(missing_ok=True)
        with suppress(RuntimeError):  # too many time limits: it stays stopped
            at_limit(AT_LIMIT, None)


def _if_preempted(job: str) -> None:
    """Queue the job again where Slurm would not: it kills and queues who is preempted, but takes who saves and leaves for done.

    A job that was cancelled, or is being queued again by hand, is not running any more when it hears SIGTERM.
    """
    if (_ask("squeue", "--noheader", f"--jobs={job}", "--format=%T") or "").strip() == "RUNNING":
        _ask("scontrol", "requeue", job)


# --- Slurm's and submitit's words ------------------------------------------------------------------------------------


def gpus(wanted: EngineConfig, point: Point) -> int:
    """GPUs of a run on each node."""
    return int(wanted.gpus) if wanted.gpus is not None else int(point.experiment.runtime.device == Device.cuda)


def processes(wanted: EngineConfig, point: Point) -> int:
    """Processes of a run on each node."""
    return wanted.processes or gpus(wanted, point) or 1


def queue(name: str) -> dict[str, State] | None:
    """State of each of this user's jobs of this name, those over a moment ago included; None where Slurm does not answer."""
    said = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r|%j")
    if said is None:
        return None
    rows = [line.split("|", 3) for line in said.splitlines() if line.count("|") >= 3]
    return {job: (state, reason) for job, state, reason, named in rows if named == name}


def accounted(job: str) -> State:
    """What Slurm's books say of a job that has left the queue, where it keeps any."""
    said = _ask("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State,Reason") or ""
    state, _, reason = (said.splitlines() or ["|"])[0].partition("|")
    return (state.split()[0], reason) if state else ("", "it is no longer known")


def _address(node: str) -> str:
    """How Slurm itself reaches a node: its name need not be known to anybody else."""
    found = re.search(r"\bNodeAddr=(\S+)", _ask("scontrol", "show", "node", node) or "")
    return found[1] if found else node


def _holder(point: Point) -> str | None:
    with suppress(OSError):  # a claim that cannot be read: the run itself will say so
        return point.folder.holder()
    return None


def _ask(*line: str) -> str | None:
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as error:
        raise Refused("engine=slurm needs submitit: pip install 'roadmap[slurm]'") from error
    return submitit


@contextmanager
def _plain_environment() -> Iterator[None]:
    """Without what a job around this sweep says about itself; where Slurm's configuration lies is kept."""
    kept = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    with _submitit().helpers.clean_env():
        os.environ.update(kept)
        yield
