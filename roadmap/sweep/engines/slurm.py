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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

from roadmap.base.errors import EXIT_STOPPED, Refused
from roadmap.base.files import read_json_object, write_atomic
from roadmap.config.checks import check_processes
from roadmap.config.schema import Device, EngineConfig, RuntimeConfig
from roadmap.sweep.engines.base import Cancel, Ending, Engine
from roadmap.sweep.engines.command import carry_out, command
from roadmap.sweep.plan import Point

NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol")
TO_SAVE = 60  # seconds before the time limit at which a run is asked to save
ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless its administrator says otherwise
WORKERS = 4  # cores for the loaders of a process, where data.workers leaves their number to the cores
PATIENCE = 60  # times in a row that sbatch may fail in the middle of a sweep
LOST = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT"}  # states of a job that ended by no fault of its own
OVER = LOST | {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY"}
PASSING = {"None", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit", "Cleaning", "Prolog"}  # what every job waits for

log = logging.getLogger("roadmap")
State = tuple[str, str]  # Slurm's words for a job's state and for the reason


@dataclass
class Slurm(Engine[str]):
    """Jobs of a cluster: as many at a time as it gives room to, or `engine.jobs`."""

    config: EngineConfig
    pause: ClassVar[float] = 2.0
    grace: ClassVar[float] = 20.0
    folder: Path = field(init=False)
    name: str = field(init=False)
    states: dict[str, State] = field(default_factory=dict)  # as of the last answer of squeue
    unsure: set[str] = field(default_factory=set)  # jobs seen over once: a job queued again looks so for a moment
    accepted: bool = False  # whether Slurm has taken jobs of this sweep
    refusals: int = 0
    warned: set[str] = field(default_factory=set)  # what jobs were waiting for

    def __post_init__(self) -> None:
        _submitit()
        for name in NEEDED:
            if shutil.which(name) is None:
                raise Refused(f"engine=slurm: there is no {name} here; start the sweep on a machine that submits to Slurm")
        if self.config.gpus is not None and self.config.gpus != int(self.config.gpus):
            raise Refused(f"engine.gpus={self.config.gpus}: Slurm gives whole GPUs; allowed: null, 0, 1, 2, ...")

    @contextmanager
    def open(self, points: Sequence[Point]) -> Iterator[dict[str, Point]]:
        """Find the jobs that an earlier sweep of this study left in the queue; see `Engine`."""
        for point in points:
            check_processes(point.experiment, processes(self.config, point.experiment.runtime) * self.config.nodes)
        study = points[0].folder.path.parent.parent
        self.folder, self.name = study / "slurm", f"roadmap-{study.name}"
        states = queued(self.name)
        if states is None:
            raise Refused("engine=slurm: squeue gives no answer; is the cluster's controller running?")
        self.states, known = states, read_json_object(self.folder / "jobs.json")
        jobs = {str(known.get(point.folder.path.name)): point for point in points}
        left = {job: point for job, point in jobs.items() if not self._seems_over(job)}
        self.accepted |= bool(left)
        yield left

    # From a run to a job.

    def capacity(self, under_way: int) -> int:
        """Runs beyond `engine.jobs` wait in the array, or here while jobs are under way."""
        return ARRAY if not under_way or self.config.jobs is None else self.config.jobs - under_way

    def submit(self, points: Sequence[Point]) -> list[str]:
        """Queue these runs as one array; a controller that is away for a while, or a full queue, is asked again later."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _plain_environment():
                submitted = self._executor(points[0]).submit_array([self._job(point) for point in points])
        except OSError as error:
            raise Refused(f"{self.folder} cannot be written: {error}") from error
        except RuntimeError as error:  # submitit's, with sbatch's words
            self.refusals += 1
            if not self.accepted or self.refusals > PATIENCE:
                raise Refused(f"engine=slurm: the jobs could not be submitted: {error}") from error
            return []
        self.accepted, self.refusals = True, 0
        jobs = {point.folder.path.name: job.job_id for point, job in zip(points, submitted, strict=True)}
        file = self.folder / "jobs.json"
        write_atomic(file, json.dumps(read_json_object(file) | jobs, indent=1) + "\n")
        return list(jobs.values())

    def _job(self, point: Point) -> Job:
        each = processes(self.config, point.experiment.runtime)
        return Job(point.command, point.folder.log, self._ending_file(point), each, self.config.nodes)

    def _executor(self, point: Point) -> Any:
        config, experiment = self.config, point.experiment
        each = processes(config, experiment.runtime)
        workers = WORKERS if experiment.data.workers is None else experiment.data.workers
        cpus = config.cpus or each * ((experiment.runtime.threads or 1) + workers)
        executor = _submitit().SlurmExecutor(self.folder, max_num_timeout=config.retries)
        optional = {
            "gpus_per_node": gpus(config, experiment.runtime) or None,
            "mem": f"{round(config.memory_gb * 1024)}MB" if config.memory_gb else None,
            **{key: getattr(config, key) for key in ("partition", "account", "qos", "constraint")},
        }
        executor.update_parameters(
            job_name=self.name,
            time=config.minutes,
            signal_delay_s=min(TO_SAVE, config.minutes * 15),
            nodes=config.nodes,
            ntasks_per_node=1,
            cpus_per_task=cpus,
            srun_args=[f"--cpus-per-task={cpus}"],  # since Slurm 22.05 a step does not inherit it
            array_parallelism=config.jobs or ARRAY,
            stderr_to_stdout=True,
            additional_parameters={"requeue": True},
            **{key: value for key, value in optional.items() if value is not None},
        )
        return executor

    def _ending_file(self, point: Point) -> Path:
        return self.folder / f"{point.folder.path.name}.json"

    # From a job to its end.

    def poll(self, jobs: Mapping[str, Point]) -> dict[str, Ending]:
        """Ask Slurm about all jobs at once; a controller that is away for a while says nothing about them."""
        states = queued(self.name)
        if states is None:
            return {}
        self.states = states
        for job in jobs:
            self._warn(job, *states.get(job, ("", "")))
        over = {job for job in jobs if self._seems_over(job)}
        sure = {job for job in over if job in self.unsure or jobs[job].done}
        self.unsure = over - sure
        return {job: self._ending(job, jobs[job]) for job in sure}

    def _seems_over(self, job: str) -> bool:
        return job not in self.states or self.states[job][0] in OVER

    def _warn(self, job: str, state: str, reason: str) -> None:
        """Warn once of what a job waits for, where that may never come: a time limit above the partition's, a hold."""
        if state == "PENDING" and reason not in PASSING | self.warned:
            self.warned.add(reason)
            log.warning("job %s waits in Slurm's queue: %s", job, reason)

    def _ending(self, job: str, point: Point) -> Ending:
        state = self.states.get(job) or accounted(job)
        if state[0] == "CANCELLED":
            return Ending(cancelled=True)
        written = read_json_object(self._ending_file(point))
        code = written.get("code") if written.get("job") == job else None
        if code is not None and code >= 0:
            return Ending(code, lost=state[0] in LOST)
        words = " ".join(word for word in state if word not in ("", "None"))
        killed = "" if code is None else f", killed by {signal.Signals(-code).name}"
        return Ending(code, lost=state[0] != "OUT_OF_MEMORY", why=f"Slurm says of job {job}: {words}{killed}")

    def pending(self, jobs: Mapping[str, Point]) -> list[str]:
        """Those that Slurm has not begun, as of its last answer."""
        return [job for job in jobs if self.states.get(job, ("PENDING",))[0] == "PENDING"]

    def cancel(self, jobs: Sequence[str], how: Cancel) -> None:
        """Take these jobs out of the queue, or ask their runs to save and not to be queued again."""
        options = {Cancel.withdraw: ["--state=PENDING"], Cancel.save: [f"--signal={BY_HAND.name[3:]}"], Cancel.kill: []}[how]
        if jobs:
            _ask("scancel", *options, *jobs)


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
        log = self.log.with_name(f"log.node-{here.node}.txt") if here.node else self.log
        if not here.node:
            self.ending.unlink(missing_ok=True)
        code, asked = carry_out(command(self.arguments, self.processes, self._rendezvous(here)), log)
        if not here.node:
            with suppress(OSError):  # a full disk: the run's own exit code says so
                write_atomic(self.ending, json.dumps({"job": here.job_id, "code": code}) + "\n")
            if code == EXIT_STOPPED and asked == AT_LIMIT and callable(at_limit):
                self._next_time(here, at_limit)
            elif code == EXIT_STOPPED and asked not in (None, BY_HAND):
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


def gpus(config: EngineConfig, runtime: RuntimeConfig) -> int:
    """GPUs of a run on each node."""
    return int(config.gpus) if config.gpus is not None else int(runtime.device == Device.cuda)


def processes(config: EngineConfig, runtime: RuntimeConfig) -> int:
    """Processes of a run on each node."""
    return config.processes or gpus(config, runtime) or 1


def queued(name: str) -> dict[str, State] | None:
    """State of each of this user's jobs of this name, those over a moment ago included; None where Slurm does not answer."""
    answer = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r|%j")
    if answer is None:
        return None
    rows = [line.split("|", 3) for line in answer.splitlines() if line.count("|") >= 3]
    return {job: (state, reason) for job, state, reason, job_name in rows if job_name == name}


def accounted(job: str) -> State:
    """What Slurm's books say of a job that has left the queue, where it keeps any."""
    answer = _ask("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State,Reason") or ""
    state, _, reason = (answer.splitlines() or ["|"])[0].partition("|")
    return (state.split()[0], reason) if state else ("", "it is no longer known")


def _address(node: str) -> str:
    """How Slurm itself reaches a node: its name need not be known to anybody else."""
    address = re.search(r"\bNodeAddr=(\S+)", _ask("scontrol", "show", "node", node) or "")
    return address[1] if address else node


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
