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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from roadmap.base.errors import EXIT_STOPPED, Refused
from roadmap.base.processes import cores
from roadmap.base.signals import take_back
from roadmap.config.checks import check_processes
from roadmap.config.schema import Device, EngineConfig, RuntimeConfig
from roadmap.sweep.engines.base import Cancel, Ending, Engine, holder
from roadmap.sweep.engines.command import carry_out, command
from roadmap.sweep.engines.machine import gpus
from roadmap.sweep.plan import Point

AHEAD = 200  # tasks that Ray is given at a time: enough for a cluster to grow by, few enough to take back
TO_CONNECT = 10.0  # seconds
TO_NOTICE = 0.02  # seconds until a signal that Ray has taken is taken back
STORE = 80 * 1024**2  # bytes of Ray's object store; it takes no less than 75 MiB, and nothing of ours lies there

log = logging.getLogger("roadmap")
Resources = Mapping[str, float]


@dataclass
class Ray(Engine[Any]):
    """Tasks of a cluster: as many at a time as it gives room to, or `engine.jobs`."""

    config: EngineConfig
    pause: ClassVar[float] = 0.1
    grace: ClassVar[float] = 25.0
    needs: Needs = field(init=False)
    remote: Any = field(init=False)
    cancelled: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        config = self.config
        if config.address is None:
            _own_token()
        _ray()
        if config.nodes > 1:
            raise Refused(f"engine.nodes={config.nodes}: a run keeps to one node here; engine=slurm spreads one over several")
        if config.gpus is not None and config.gpus % 1 and (config.gpus > 1 or (config.processes or 1) > 1):
            one = "of one process on one GPU"
            raise Refused(f"engine.gpus={config.gpus}: a part of a GPU is for a run {one}; allowed: 0, parts of 1, whole numbers")
        if config.address is not None and config.address != "auto" and not re.fullmatch(r"[^/\s]+:\d{1,5}", config.address):
            raise Refused(f"engine.address={config.address}: allowed: null, auto, HOST:PORT (not ray://)")

    @contextmanager
    def open(self, points: Sequence[Point]) -> Iterator[dict[Any, Point]]:
        """Start or join a Ray; see `Engine`."""
        with _connected(self.config.address):
            self.needs = self._checked_needs(points[0].experiment.runtime)
            for point in points:
                check_processes(point.experiment, self.needs.processes)
            needs = {"num_cpus": self.needs.cpus, "num_gpus": self.needs.gpus, "memory": self.needs.memory}
            # A lost run is started again from here, where its lock is seen; Ray would do it at once and count otherwise.
            self.remote = _ray().remote(max_retries=0, **needs)(_task)
            yield {}

    def _checked_needs(self, runtime: RuntimeConfig) -> Needs:
        nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        asked = needs(self.config, runtime, nodes)
        if not any(asked.fit(node) for node in nodes):
            there = "; ".join(sorted({_words(node) for node in nodes})) or "no node"
            if self.config.address is None:
                raise Refused(f"engine=ray: a run asks for {_words(asked.resources)}; this machine has {there}")
            log.warning(
                "engine=ray: a run asks for %s, and no node has that now (%s): they wait until one comes",
                _words(asked.resources),
                there,
            )
        return asked

    def capacity(self, under_way: int) -> int:
        """Tasks beyond `engine.jobs` wait here, the others in Ray."""
        return min(self.config.jobs or AHEAD, AHEAD) - under_way

    def submit(self, points: Sequence[Point]) -> list[Any]:
        """Give Ray a task for each of these runs."""
        here, path = Path.cwd(), os.environ.get("PYTHONPATH", "")
        tasks = [(self.remote.options(name=point.folder.path.name), point) for point in points]
        return [task.remote(point.command, self.needs.processes, point.folder.log, here, path) for task, point in tasks]

    def poll(self, jobs: Mapping[Any, Point]) -> dict[Any, Ending]:
        """The tasks that are over."""
        ready = _ray().wait(list(jobs), num_returns=len(jobs), timeout=0)[0] if jobs else []
        return {task: _ending(task, task in self.cancelled) for task in ready}

    def pending(self, jobs: Mapping[Any, Point]) -> list[Any]:
        """The tasks whose run no process is at yet."""
        return [task for task, point in jobs.items() if holder(point) is None]

    def cancel(self, jobs: Sequence[Any], how: Cancel) -> None:
        """Cancel tasks, each once: Ray starts none that waits, and interrupts the others, which ask their runs to save."""
        for task in jobs:
            if task not in self.cancelled and how is not Cancel.kill:  # Ray's end is theirs
                self.cancelled.add(task)
                _ray().cancel(task)


# --- what a run asks of Ray ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """What a run gets: cores, GPUs (0.25: four runs share one), bytes of memory, and how many processes share it."""

    cpus: float
    gpus: float
    memory: int | None
    processes: int

    @property
    def resources(self) -> Resources:
        """What it takes of a node, in Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory or 0}

    def fit(self, node: Resources) -> bool:
        """Whether a node that is idle has room for it."""
        return all(node.get(name, 0) >= amount for name, amount in self.resources.items())


def needs(config: EngineConfig, runtime: RuntimeConfig, nodes: Sequence[Resources]) -> Needs:
    """What a run asks for on these nodes: a GPU for each process, where there is one and nothing else is said."""
    share = config.gpus
    if share is None:
        any_gpu = any(node.get("GPU", 0) for node in nodes)
        on_gpu = runtime.device == Device.cuda or (any_gpu and runtime.device != Device.cpu)
        share = float(config.processes or 1) if on_gpu else 0.0
    processes = config.processes or max(1, int(share))
    cpus = config.cpus or processes * (runtime.threads or 1)
    if config.address is None:  # more threads than cores are slow, not impossible
        cpus = min(cpus, int(max(node.get("CPU", 1) for node in nodes)))
    return Needs(float(cpus), share, round(config.memory_gb * 1024**3) if config.memory_gb else None, processes)


def _words(resources: Resources) -> str:
    cores, gpus, memory = (resources.get(name, 0) for name in ("CPU", "GPU", "memory"))
    return f"{cores:g} cores, {gpus:g} GPUs and {memory:.0f} bytes of memory"


# --- in a worker of Ray ----------------------------------------------------------------------------------------------


def _task(arguments: Sequence[str], processes: int, log: Path, folder: Path, path: str) -> tuple[int, int | None]:
    """Carry out a run in a process of its own; returns its exit code and the first signal that this worker got meanwhile."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = path
    if not _ray().get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides the GPUs of others from a run that has none, but means to end that
    return carry_out(command(arguments, processes), log)


def _ending(task: Any, cancelled: bool) -> Ending:
    """Read what a task left. A run was lost with its worker or node, by a signal to it, or when its node asked it to leave."""
    faults = _ray().exceptions
    try:
        code, asked = _ray().get(task)
    except faults.TaskCancelledError:
        return Ending(lost=True, cancelled=cancelled, why="Ray's task was cancelled by somebody else")
    except (faults.RayTaskError, faults.RuntimeEnvSetupError, faults.TaskUnschedulableError) as error:
        return Ending(cancelled=cancelled, why=f"Ray could not start it: {_last(error)}")
    except faults.RayError as error:
        return Ending(lost=True, cancelled=cancelled, why=f"Ray lost it: {type(error).__name__}")
    if code < 0:
        return Ending(code, True, cancelled, f"killed by {signal.Signals(-code).name}")
    lost = code == EXIT_STOPPED and asked == signal.SIGTERM
    return Ending(code, lost, cancelled, "its worker was told to end" if lost else "")


def _last(error: BaseException) -> str:
    """The last line of what Ray says, which is the fault itself under its own traceback."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]


# --- a Ray to talk to ------------------------------------------------------------------------------------------------


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A Ray, inside; one of this machine's own has gone with all its processes and files afterwards."""
    folder = tempfile.mkdtemp(prefix="ray-", dir=_short_folder()) if address is None else None
    with ThreadPoolExecutor(1) as thread:  # as long as Ray runs: its processes are killed when the thread that started them ends
        try:
            _start(thread, address, folder)
            yield
        finally:
            _ray().shutdown()
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


def _start(thread: ThreadPoolExecutor, address: str | None, folder: str | None) -> None:
    """Start or join Ray, in a thread: in the main one it would take SIGTERM over, and leave half a Ray behind when it comes."""
    try:
        settings = _own(folder) if folder else _existing(str(address))
        start = thread.submit(_ray().init, **settings, logging_level=logging.ERROR, log_to_driver=False)
        while wait([start], timeout=TO_NOTICE).not_done:
            take_back()  # from Ray's C++, which takes SIGTERM at the end of the start and would abort at it
        start.result()
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, RayError: Ray names no common one
        fault = f"engine.address={address}: no Ray cluster could be joined there" if address else "Ray does not start here"
        raise Refused(f"{fault}: {_last(error)}") from error
    finally:
        take_back()


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


def _ray() -> ModuleType:
    """Ray, which reads these settings when it is imported: nothing is sent to its makers, and it gives up soon."""
    for name, value in (("USAGE_STATS_ENABLED", "0"), ("NUM_REDIS_GET_RETRIES", "5")):
        os.environ.setdefault(f"RAY_{name}", value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise Refused("engine=ray needs Ray: pip install 'roadmap[ray]'") from error
