"""A study: `python -m roadmap.sweep study=digits [--dry-run] [overrides]`.

Every step with every seed; what is done is skipped, the rest is run, and the table and figure are written from the
records. Run the same command again after any interruption.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from roadmap.base.console import Parser, check_limits, exits, say
from roadmap.base.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_STORAGE, Refused, RoadmapError
from roadmap.base.processes import check_alone
from roadmap.config.effects import following
from roadmap.config.overrides import config_folders, parse
from roadmap.config.schema import EngineConfig, EngineName
from roadmap.record.alarms import at_chance
from roadmap.sweep.earlier import check_folder
from roadmap.sweep.engines.base import Engine, Outcome
from roadmap.sweep.engines.queue import Report, run_all
from roadmap.sweep.plan import Point, plan
from roadmap.sweep.preview import preview


def main() -> int:
    """Plan, run what is not done, report; 1 when a run failed, 143 when a signal stopped the sweep."""
    arguments = read(sys.argv[1:])
    check_alone("roadmap.sweep")
    study = plan(arguments.overrides, config_folders(arguments.config_dir))
    check_folder(study)
    for warning in study.warnings:
        print(f"roadmap: warning: {warning}", file=sys.stderr)
    for note in following(study.first, [*arguments.overrides, f"+step={study.first.step.name}"], arguments.config_dir):
        print(f"roadmap: {note}", file=sys.stderr)
    chosen = [p for p in study.points if fnmatchcase(p.folder.path.name, arguments.only) or fnmatchcase(p.name, arguments.only)]
    if not chosen:
        raise Refused(f"--only {arguments.only}: no run matches; they are named like {study.points[0].name}")
    if arguments.dry_run:
        print(preview(study, chosen))
        return 0
    runner = engine(replace(study.first.engine, **({"jobs": arguments.jobs} if arguments.jobs else {})))
    slots = runner.at_a_time(study.first.runtime)
    study.write()
    starts = {point.before.folder.path for point in chosen if point.before is not None and not point.done}
    reused = sum(point.reuse_result(with_weights=point.folder.path in starts) for point in chosen)
    if reused:
        print(f"{reused} runs are those of another study and are taken over from there")
    # Seed by seed: a sweep that is cut short has whole tables, of fewer seeds.
    waiting = sorted((p for p in chosen if not p.done), key=lambda p: study.first.study.seeds.index(p.experiment.seed))
    at_a_time = f", {slots} at a time" if slots else ""
    print(f"{study.first.study.name}: {len(chosen)} runs, {len(chosen) - len(waiting)} done already{at_a_time}", flush=True)
    outcomes = run_all(runner, waiting, progress, arguments.max_failures, arguments.retry_failed) if waiting else []
    for point in chosen:
        point.folder.tidy()
    code = report(study.folder) if any(point.done for point in study.points) else 0
    return conclude(outcomes, arguments.max_failures) or code


def report(folder: Path) -> int:
    """Write the table; what it refuses is printed and does not hide what became of the runs."""
    from roadmap.report.write import write_report

    try:
        _, text = write_report(folder)
        print(text)
    except RoadmapError as error:
        return say(error)
    return 0


def read(arguments: list[str]) -> argparse.Namespace:
    """The command line: options of our own, the rest Hydra overrides; `study=NAME` is added to the configuration."""
    parser = Parser(prog="python -m roadmap.sweep", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="study=NAME, and Hydra overrides for every run")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with its cost and what is done; run nothing")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only runs whose name matches, e.g. 'resnet-s0-*'")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one a GPU, or what the cores hold)")
    parser.add_argument("--max-failures", type=int, metavar="N", help="start no more runs after N failed (default: no limit)")
    parser.add_argument(
        "--retry-failed",
        type=int,
        nargs="?",
        const=1,
        default=0,
        metavar="N",
        help="start failed runs again, N times (default 1)",
    )
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], help="a folder with steps and studies of your own"
    )
    parsed = parser.parse_intermixed_args(arguments)
    check_limits(parsed, jobs=(1, 100_000), max_failures=(1,), retry_failed=(0,))
    parsed.overrides = [f"+{o}" if o.startswith("study=") else o for o in parsed.overrides]
    studies = [o.removeprefix("+") for o in parsed.overrides if o.startswith("+study=")]
    if not studies:
        raise Refused("no study is chosen: add study=NAME, for example study=digits")
    if len(studies) > 1:
        raise Refused(f"{' '.join(studies)}: one study at a time")
    for override in parse(parsed.overrides):
        if override.is_sweep_override():
            raise Refused(f"{override.input_line}: a study has one value of each setting; a list is written [a,b]")
    return parsed


def engine(config: EngineConfig) -> Engine[Any]:
    """The engine of this name.

    Raises:
        Refused: where what it needs is not here.

    """
    if config.name == EngineName.slurm:
        from roadmap.sweep.engines.slurm import Slurm

        return Slurm(config)
    if config.name == EngineName.ray:
        from roadmap.sweep.engines.ray import Ray

        return Ray(config)
    from roadmap.sweep.engines.local import Local

    return Local(config)


@contextmanager
def progress(points: Sequence[Point]) -> Iterator[Report]:
    """Inside, what is reported is shown as one line, counted in epochs; without a terminal, as a line for each run."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    reported, updated = 0, 0.0
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=_epochs(points))

        def report(over: Sequence[Outcome], running: Sequence[Point]) -> None:
            nonlocal reported, updated
            for outcome in over[reported:]:
                reported += 1
                if not console.is_terminal or outcome.code:
                    console.print(_line(outcome, reported, len(points)), markup=False, highlight=False, soft_wrap=True)
            if console.is_terminal and time.monotonic() - updated > 0.5:
                updated = time.monotonic()
                done = _epochs([outcome.point for outcome in over]) + sum(len(point.folder.history()) for point in running)
                bar.update(task, completed=done, description=_description(over, running, len(points)))

        yield report


def _epochs(points: Sequence[Point]) -> int:
    return sum(point.experiment.recipe.epochs for point in points)


def _description(over: Sequence[Outcome], running: Sequence[Point], total: int) -> str:
    failed = sum(outcome.code != 0 for outcome in over)
    names = ", ".join(point.name for point in running)
    return f"{len(over)}/{total} runs" + (f", {failed} failed" if failed else "") + f"  {names}"


def _line(outcome: Outcome, number: int, total: int) -> str:
    result = outcome.point.folder.result() if outcome.code == 0 else None
    said = outcome.reason or (f"{result.final}{', at chance' * at_chance(result)}, {result.seconds:.1f} s" if result else "")
    return f"[{number}/{total}] {outcome.point.name}: {said}"


def conclude(outcomes: list[Outcome], max_failures: int | None = None) -> int:
    """Say what failed, why, and where its log is; the sweep's exit code."""
    failed = [o for o in outcomes if o.failed]
    for outcome in failed:
        print(f"failed: {outcome.point.name}: {outcome.reason}\n        {outcome.point.folder.log}", file=sys.stderr)
    stopped = sum(o.code == EXIT_STOPPED for o in outcomes)
    if stopped:
        print(f"{stopped} runs are stopped or not started; the same command goes on with them", file=sys.stderr)
    if stopped and (max_failures is None or len(failed) < max_failures):
        return EXIT_STOPPED
    full = failed and all(outcome.code == EXIT_STORAGE for outcome in failed)
    return EXIT_STORAGE if full else EXIT_FAILED if failed else 0


if __name__ == "__main__":
    exits(main)()
