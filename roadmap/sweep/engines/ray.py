"""Runs as tasks of a Ray cluster, or of a Ray of this machine's own that lives as long as the sweep.

A task starts its run as a process of its own and waits for it: torch, and every way to die, stay out of Ray's workers.
What became of a run is read from its own folder; Ray says only that a task is over, or that its worker or node is gone.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from roadmap.base.errors import EXIT_FAILED, EXIT_HELD, EXIT_STOPPED, Refused
from roadmap.config.checks import check_processes
from roadmap.config.schema import Device, EngineConfig, RuntimeConfig
from roadmap.sweep.engines.base import Outcome, Tell, closed, last_line, noted_signals, outcome
from roadmap.sweep.engines.command import carry_out, command
from roadmap.sweep.engines.machine import cores, gpus
from roadmap.sweep.plan import Point

AHEAD = 200  # tasks that Ray is given at a time: enough for a cluster to grow by, few enough to take back
TICK = 0.1  # seconds between two looks at the tasks
GLANCE = 1.0  # seconds between two looks at who holds a run
GRACE = 25.0  # seconds between a stop of the sweep and its end without those that did not obey
WAKE = 0.2  # seconds after which a task sees that Ray has cancelled it
TO_CONNECT = 10.0  # seconds
STORE = 80 * 1024**2  # bytes of Ray's object store; it takes no less than 75 MiB, and nothing of ours lies there

log = logging.getLogger("roadmap")
Resources = Mapping[str, float]


@dataclass
class Ray:
    """Tasks of a cluster: as many at a time as it gives room to, or `engine.jobs`."""

    wanted: EngineConfig
    max_failures: int | None = None

    def __post_init__(self) -> None:
        wanted = self.wanted
        if wanted.address is None:
            _own_token()
        _ray()
        if wanted.nodes > 1:
            raise Refused(f"engine.nodes={wanted.nodes}: a run keeps to one node here; engine=slurm spreads one over several")
        if wanted.gpus is not None and wanted.gpus % 1 and (wanted.gpus > 1 or (wanted.processes or 1) > 1):
            one = "of one process on one GPU"
            raise Refused(f"engine.gpus={wanted.gpus}: a part of a GPU is for a run {one}; allowed: 0, parts of 1, whole numbers")
        if wanted.address is not None and wanted.address != "auto" and not re.fullmatch(r"[^/\s]+:\d{1,5}", wanted.address):
            raise Refused(f"engine.address={wanted.address}: allowed: null, auto, HOST:PORT (not ray://)")

    def places(self, runtime: RuntimeConfig) -> int | None:
        """Nobody knows: Ray decides, and its cluster may grow."""
        return None

    def run(self, points: Sequence[Point], tell: Tell) -> list[Outcome]:
        """Run every point; see `Engine`.

        Raises:
            Refused: where there is no Ray to reach, or none of this machine's own can give a run what it asks for.

        """
        with noted_signals() as stop, _connected(self.wanted.address):
            return _Sweep(self.wanted, self.max_failures, list(points), stop).work(tell)


@dataclass
class _Sweep:
    """The runs that wait, those that Ray was given, those that another process is at, and those that are over."""

    wanted: EngineConfig
    max_failures: int | None
    waiting: list[Point]
    stop: list[str]
    tasks: dict[Any, Point] = field(default_factory=dict)
    elsewhere: list[Point] = field(default_factory=list)
    over: list[Outcome] = field(default_factory=list)
    running: list[Point] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)  # how often each run's worker went away
    taken_back: set[Any] = field(default_factory=set)
    looked: float = 0.0
    asked: float | None = None  # when the runs were asked to stop

    def work(self, tell: Tell) -> list[Outcome]:
        while self.tasks or ((self.waiting or self.elsewhere) and not self._closed()):
            self._look()
            if self.stop:
                self._leave()
            elif self._closed():
                self._take_back([task for task, point in self.tasks.items() if _holder(point) is None])
            else:
                self._start()
            self._collect()
            tell(self.over, self.running)
        return self.over + [self._not_started(point) for point in (*self.waiting, *self.elsewhere)]

    def _closed(self) -> str:
        """Why nothing more is started; empty while something is."""
        return closed(self.over, self.max_failures, self.stop)

    def _not_started(self, point: Point) -> Outcome:
        return Outcome(point, EXIT_STOPPED, f"not started: {self._closed()}")

    def _look(self) -> None:
        """See what runs, and which runs other processes have done or let go of."""
        if time.monotonic() - self.looked < GLANCE:
            return
        self.looked = time.monotonic()
        self.running = [point for point in self.tasks.values() if _holder(point) is not None]
        for point in [point for point in self.elsewhere if point.done or _holder(point) is None]:
            self.elsewhere.remove(point)
            self.waiting.append(point)

    # From a run to a task.

    def _start(self) -> None:
        """Give Ray the next runs that nobody is at."""
        while self.waiting and len(self.tasks) < min(self.wanted.jobs or AHEAD, AHEAD):
            point = self.waiting.pop(0)
            if point.done:
                self.over.append(outcome(point, 0))
            elif _holder(point) is not None:
                self.elsewhere.append(point)
            else:
                self.tasks[self._submit(point)] = point

    def _submit(self, point: Point) -> Any:
        processes = self._needs.processes
        check_processes(point.experiment, processes)
        task = self._remote.options(name=point.folder.path.name)
        return task.remote(point.command, processes, point.folder.log, Path.cwd(), os.environ.get("PYTHONPATH", ""))

    @cached_property
    def _remote(self) -> Any:
        needs = self._needs
        asked = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory}
        # A lost run is started again from here, where its claim is seen; Ray would do it at once and count otherwise.
        return _ray().remote(max_retries=0, **asked)(_task)

    @cached_property
    def _needs(self) -> Needs:
        nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        found = needs(self.wanted, self.waiting[0].experiment.runtime if self.waiting else RuntimeConfig(), nodes)
        if not any(found.fit(node) for node in nodes):
            said = f"engine=ray: a run asks for {found.cpus:g} cores, {found.gpus:g} GPUs and {found.memory or 0} bytes of memory"
            if self.wanted.address is None:
                raise Refused(f"{said}; this machine has {_words(nodes)}")
            log.warning("%s, and no node has that now (%s): they wait until one comes", said, _words(nodes))
        return found

    # From a task to an outcome.

    def _collect(self) -> None:
        """Settle the tasks that are over."""
        if not self.tasks:
            return time.sleep(TICK)
        ready, _ = _ray().wait(list(self.tasks), num_returns=len(self.tasks), timeout=TICK)
        for task in ready:
            self._settle(task, self.tasks.pop(task), _ending(task))

    def _settle(self, task: Any, point: Point, ending: Ending) -> None:
        """What a task that is over means for its run."""
        code, name = ending.code, point.folder.path.name
        if point.done:
            self.over.append(outcome(point, code if code in (1, 2, 3) else 0))
        elif self.stop or task in self.taken_back:
            self.over.append(self._not_started(point) if code is None else outcome(point, code, stopping=True))
        elif ending.lost:
            self.lost[name] += 1
            often = self.lost[name] > self.wanted.retries
            self.over.append(ending.failed(point, self.lost[name])) if often else self.elsewhere.append(point)
        elif code == EXIT_HELD:
            self.elsewhere.append(point)
        else:
            self.over.append(ending.failed(point) if code is None else outcome(point, code))

    # The end of a sweep before its runs'.

    def _take_back(self, tasks: Sequence[Any]) -> None:
        """Cancel tasks: Ray starts none of them that waits, and interrupts the others, which ask their runs to save."""
        for task in tasks:
            if task not in self.taken_back:
                self.taken_back.add(task)
                _ray().cancel(task)

    def _leave(self) -> None:
        """Ask once, then go without those that did not obey in time, or at once at the second signal."""
        if self.asked is None:
            self.asked = time.monotonic()
            self._take_back(list(self.tasks))
        elif time.monotonic() - self.asked > GRACE or len(self.stop) > 1:
            self.over += [outcome(point, 0 if point.done else EXIT_STOPPED) for point in self.tasks.values()]
            self.tasks.clear()


# --- what a run asks of Ray ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """What a run gets: cores, GPUs (0.25: four runs share one), bytes of memory, and how many processes share it."""

    cpus: float
    gpus: float
    memory: int | None
    processes: int

    def fit(self, node: Resources) -> bool:
        """Whether a node that is idle has room for it."""
        asked = (("CPU", self.cpus), ("GPU", self.gpus), ("memory", self.memory or 0))
        return all(node.get(name, 0) >= amount for name, amount in asked)


def needs(wanted: EngineConfig, runtime: RuntimeConfig, nodes: Sequence[Resources]) -> Needs:
    """What a run asks for on these nodes: a GPU for each process, where there is one and nothing else is said."""
    share = wanted.gpus
    if share is None:
        found = any(node.get("GPU", 0) for node in nodes)
        on_gpu = runtime.device == Device.cuda or (found and runtime.device != Device.cpu)
        share = float(wanted.processes or 1) if on_gpu else 0.0
    processes = wanted.processes or max(1, int(share))
    cpus = wanted.cpus or processes * (runtime.threads or 1)
    if wanted.address is None:  # more threads than cores are slow, not impossible
        cpus = min(cpus, int(max(node.get("CPU", 1) for node in nodes)))
    return Needs(float(cpus), share, round(wanted.memory_gb * 1024**3) if wanted.memory_gb else None, processes)


def _words(nodes: Sequence[Resources]) -> str:
    said = [f"{n.get('CPU', 0):g} cores, {n.get('GPU', 0):g} GPUs, {n.get('memory', 0):.0f} bytes" for n in nodes]
    return "; ".join(sorted(set(said))) or "no node"


# --- in a worker of Ray ----------------------------------------------------------------------------------------------


def _task(arguments: Sequence[str], processes: int, log: Path, folder: Path, path: str) -> tuple[int, int | None]:
    """Carry out a run in a process of its own; returns its exit code and the first signal that this worker got meanwhile."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = path
    if not _ray().get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides the GPUs of others from a run that has none, but means to end that
    # Ray cancels a task by noting SIGINT for it, which interrupts no system call: who waits for a process must wake to see it.
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, WAKE, WAKE)
    heard: list[int] = []
    try:
        code = carry_out(command(arguments, processes), log, heard.append)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return code, heard[0] if heard else None


@dataclass(frozen=True)
class Ending:
    """What Ray says of a task: the run's exit code if it has one, whether it was taken away, and why."""

    code: int | None
    lost: bool = False
    why: str = ""

    def failed(self, point: Point, times: int = 1) -> Outcome:
        """The outcome of a run that will not be started again."""
        often = f", {times} times" if times > 1 else ""
        return Outcome(point, EXIT_FAILED, f"{self.why}{often}: {last_line(point)}")


def _ending(task: Any) -> Ending:
    """Read what a task left. A run was lost with its worker or node, by a signal to it, or when its node asked it to leave."""
    faults = _ray().exceptions
    try:
        code, heard = _ray().get(task)
    except faults.TaskCancelledError:
        return Ending(None, lost=True, why="Ray's task was cancelled by somebody else")
    except (faults.RayTaskError, faults.RuntimeEnvSetupError, faults.TaskUnschedulableError) as error:
        return Ending(None, why=f"Ray could not start it: {_last(error)}")
    except faults.RayError as error:
        return Ending(None, lost=True, why=f"Ray lost it: {type(error).__name__}")
    if code < 0:
        return Ending(code, lost=True, why=f"killed by {signal.Signals(-code).name}")
    lost = code == EXIT_STOPPED and heard == signal.SIGTERM
    return Ending(code, lost, "its worker was told to end" if lost else "")


def _last(error: BaseException) -> str:
    """The last line of what Ray says, which is the fault itself under its own traceback."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]


# --- a Ray to talk to ------------------------------------------------------------------------------------------------


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A Ray, inside; one of this machine's own has gone with all its processes and files afterwards."""
    ray, folder = _ray(), tempfile.mkdtemp(prefix="ray-", dir=_short_folder()) if address is None else None
    try:
        try:
            with _sigterm_kept():
                ray.init(
                    **(_own(folder) if folder else _existing(str(address))), logging_level=logging.ERROR, log_to_driver=False
                )
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, RayError: Ray names no common one
            said = f"engine.address={address}: no Ray cluster could be joined there" if address else "Ray does not start here"
            raise Refused(f"{said}: {_last(error)}") from error
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Inside, SIGTERM stays with who has it: Ray would take it and leave in the middle of its start, not all its processes."""
    take, holder = signal.signal, signal.getsignal(signal.SIGTERM)

    def refuse(number: int, handler: Any) -> Any:
        return holder if number == signal.SIGTERM else take(number, handler)

    with patch.object(signal, "signal", refuse):
        yield
    take(signal.SIGTERM, holder)  # Ray's C++ takes it at the end of its start, unseen by Python, and would abort at it


def _own(folder: str) -> dict[str, Any]:
    """A Ray of this machine's own, even where RAY_ADDRESS names another or one is running here."""
    return {
        "address": "local",
        "num_cpus": len(cores()),
        "num_gpus": len(gpus()),
        "include_dashboard": False,
        "object_store_memory": STORE,
        "_temp_dir": folder,
        "_node_ip_address": "127.0.0.1",
        # A run whose worker ends must save before it ends too; and memory that others use is no reason to kill a run.
        "_system_config": {"kill_child_processes_on_worker_exit": False, "memory_monitor_refresh_ms": 0},
    }


def _own_token() -> None:
    """A password for this Ray only; without one Ray makes its own and keeps it in the home folder, for good."""
    if "RAY_AUTH_MODE" not in os.environ:  # read when Ray is imported
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _existing(address: str) -> dict[str, Any]:
    """A cluster that is there; asked for by hand first, since Ray waits 90 s for one that is not."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=TO_CONNECT).close()
    return {"address": address}


def _short_folder() -> str:
    """Where Ray's files go: the path of a socket must be shorter than 108 bytes, and Ray's own part of it is 80."""
    return tempfile.gettempdir() if len(tempfile.gettempdir()) <= 16 else "/tmp"


def _holder(point: Point) -> str | None:
    with suppress(OSError):  # a claim that cannot be read: the run itself will say so
        return point.folder.holder()
    return None


def _ray() -> ModuleType:
    """Ray, which reads these settings when it is imported: nothing is sent to its makers, and it gives up soon."""
    for name, value in (("USAGE_STATS_ENABLED", "0"), ("NUM_REDIS_GET_RETRIES", "5")):
        os.environ.setdefault(f"RAY_{name}", value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise Refused("engine=ray needs Ray: pip install 'roadmap[ray]'") from error
