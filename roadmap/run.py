"""One run: `python -m roadmap.run +step=inverted_bottleneck [overrides]`. An ordinary Hydra application (`-m` too).

Everything that can be refused is refused first, without torch: the configuration of every job, and the data.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from roadmap import config
from roadmap.data import sources
from roadmap.errors import RoadmapError, Stopped, exits, printable
from roadmap.record import Result, RunFolder
from roadmap.schema import Experiment
from roadmap.steps import CONF

log = logging.getLogger("roadmap")


def main() -> int:
    """Check the whole command line, then let Hydra run it; returns the worst exit code of its jobs."""
    arguments = get_args_parser().parse_args()
    folders = [Path(arguments.config_dir).absolute()] if arguments.config_dir else []
    asks = arguments.help or arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion
    if not asks:
        check(arguments.overrides, folders, arguments.multirun)
    codes = [0]

    def job(composed: DictConfig) -> None:
        step = HydraConfig.get().runtime.choices.get("step")
        experiment = config.from_hydra(composed, step, folders)
        try:
            print(summary(start(experiment), experiment))
        except Stopped:
            raise SystemExit(_say(codes, sys.exc_info()[1]))  # noqa: B904 (the jobs that follow are not started)
        except RoadmapError as error:
            _say(codes, error)

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()
    return max(codes)


def _say(codes: list[int], error: Any) -> int:
    print(f"roadmap: {printable(str(error))}", file=sys.stderr)
    codes.append(error.exit_code)
    return int(error.exit_code)


def check(overrides: list[str], folders: list[Path], multirun: bool) -> None:
    """Refuse what no job could start from; say which settings have no effect."""
    jobs = BasicSweeper.split_arguments(config.parse(overrides), None)[0] if multirun else [overrides]
    for job in jobs:
        experiment = config.compose(job, folders)
        sources.check(experiment)
        for warning in config.warnings(experiment, job, folders):
            print(f"roadmap: warning: {warning}", file=sys.stderr)


def start(experiment: Experiment) -> Result:
    """Run one experiment in this process."""
    found = sources.check(experiment)
    fingerprint = sources.fingerprint(experiment.data, found)
    from roadmap.train.execute import execute  # torch, from here on

    return execute(experiment, found, fingerprint)


def summary(result: Result, experiment: Experiment) -> str:
    """What came out, in two lines."""
    folder = RunFolder(Path(experiment.output).absolute() / experiment.study.name / "runs" / result["run"])
    if result["status"] != "done":
        return f"{result['run']}: {result['status']}, {result.get('reason', '')}\n{folder.path}"
    return (
        f"{result['step']['name']}, seed {result['seed']}: top-1 {result['top1']:.2f} %, "
        f"{result['gmacs']:.4f} G multiply-adds, {result['params_m']:.2f} M parameters, {result['seconds']:.0f} s\n"
        f"{folder.path}"
    )


if __name__ == "__main__":
    exits(main)()
