"""Runs on this machine, each in a process of its own, several at once where there is room.

The processes are forked from a server that has imported torch and timm once, so a run starts in a fraction of a
second; whatever ends one of them (an exception, an exit, a kill) does not reach the others.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from multiprocessing.process import BaseProcess

from roadmap.engines.outcome import Outcome
from roadmap.errors import EXIT_FAILED, EXIT_STOPPED, RoadmapError, printable, say
from roadmap.plan import Point
from roadmap.schema import Device

PRELOADED = ["roadmap.train.execute", "sklearn.datasets", "torchvision"]
GRACE_SECONDS = 30.0  # between a signal to the runs and the end of those that did not obey


def run_points(points: Sequence[Point], at_once: int, tell: Callable[[list[Outcome], list[Point]], None]) -> list[Outcome]:
    """Run every point, at most `at_once` together; `tell` hears of what is over and what is under way."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    waiting, running, over = list(points), dict[int, tuple[BaseProcess, Point]](), list[Outcome]()
    stop: list[str] = []
    before = {
        number: signal.signal(number, lambda n, frame: stop.append(signal.Signals(n).name))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while (waiting and not stop) or running:
            for slot in sorted(set(range(at_once)) - running.keys()):
                if waiting and not stop:
                    point = waiting.pop(0)
                    process: BaseProcess = context.Process(target=_run, args=(point, slot, gpus()), name=point.folder.path.name)
                    process.start()
                    running[slot] = (process, point)
            if stop:
                _stop([process for process, _ in running.values()])
            for slot, (process, point) in list(running.items()):
                if not process.is_alive():
                    process.join()
                    over.append(_outcome(point, process.exitcode, bool(stop)))
                    del running[slot]
            tell(over, [point for _, point in running.values()])
            time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return over + [Outcome(point, EXIT_STOPPED, f"not started: {stop[0]}") for point in waiting]


def places(device: Device, threads: int | None) -> int:
    """How many runs fit at once: one a GPU, or as many as the cores hold at `threads` each."""
    if device != Device.cpu and gpus():
        return len(gpus())
    return max(1, cores() // threads) if threads else 1


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU ")))


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Ask once, wait for the states to be saved, then end what is left."""
    asked = [process for process in processes if process.is_alive()]
    for process in asked:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in asked:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _outcome(point: Point, code: int | None, stopping: bool) -> Outcome:
    result = point.folder.result()
    if code == 0 and result is not None:
        return Outcome(point, 0, "" if result["status"] == "done" else f"{result['status']}: {result.get('reason', '')}")
    if code == EXIT_STOPPED or stopping:
        return Outcome(point, EXIT_STOPPED, "stopped; the same command goes on with it")
    killed = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    return Outcome(point, code or EXIT_FAILED, f"{killed}: {_last_line(point)}")


def _last_line(point: Point) -> str:
    try:
        lines = point.folder.log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    said = [line for line in lines if line.strip()]
    return printable(said[-1]) if said else "its log is empty"


def _run(point: Point, slot: int, gpu: Sequence[str]) -> None:
    """In the run's own process: everything it says goes to its log."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu[slot % len(gpu)]
    point.folder.path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(point.folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from roadmap.data import sources
    from roadmap.train.execute import execute

    logging.getLogger("roadmap").propagate = False
    try:
        execute(point.experiment, sources.check(point.experiment), point.fingerprint)
    except RoadmapError as error:
        sys.exit(say(error))
