"""One run: `python -m roadmap.run +step=inverted_bottleneck [overrides]`. An ordinary Hydra application (`-m` too).

Everything that can be refused is refused first, without torch: the configuration of every job, and the data.
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from roadmap.base import processes
from roadmap.base.console import Parser, exits, say
from roadmap.base.errors import Refused, RoadmapError, Stopped
from roadmap.base.paths import CONF
from roadmap.base.redaction import redact_file, redact_streams
from roadmap.config.compose import completed, from_hydra, with_room_to_warm_up
from roadmap.config.overrides import check_override, config_folders, parse, search_path
from roadmap.config.schema import Experiment
from roadmap.config.settings import help_text
from roadmap.data.images import sources
from roadmap.record.alarms import alarms
from roadmap.record.folder import RunFolder, runs_folder
from roadmap.record.result import RunResult
from roadmap.run.optimise import best, ends, optimises, words
from roadmap.run.preflight import check_jobs, metric_of
from roadmap.run.start import resolved
from roadmap.train.progress import CONSOLE

log = logging.getLogger("roadmap")
MODES = ("run", "multirun", "cfg", "info", "shell_completion")  # Hydra's, of which a command line has one


def main() -> int:
    """Check the whole command line, then let Hydra run it; returns the worst exit code of its jobs."""
    redact_streams()
    arguments = _arguments()
    folders, overrides = _folders(arguments), arguments.overrides
    if arguments.help:
        print(help_text(folders))
        return 0
    if not (arguments.hydra_help or arguments.shell_completion):
        for override in parse(ends(overrides) if optimises(overrides) else overrides):
            check_override(override, folders)
        if not (arguments.cfg or arguments.info):
            _check_once_a_node(overrides, folders, arguments.multirun)
    metric = metric_of(overrides, folders) if optimises(overrides) else None
    own = [*(words(overrides, metric) if metric else []), *search_path(folders[:-1])]  # its own option takes the last alone
    # Hydra's own parser wants the options before the overrides.
    options = [word for word in sys.argv[1:] if word not in overrides]
    sys.argv[1:] = options + completed(overrides, folders) + own
    codes, multirun = [0], Path()

    def job(composed: DictConfig) -> float | None:
        """The score, by which a sweeper may choose; None of a run without one."""
        nonlocal multirun
        multirun = Path(HydraConfig.get().sweep.dir)
        redact_file(multirun / "multirun.yaml")
        asked = HydraConfig.get()
        experiment = from_hydra(composed, asked.runtime.choices.get("step"), folders)
        score, code = _outcome(with_room_to_warm_up(experiment, asked.overrides.task, folders))
        codes.append(code)
        return score

    plain = RichHandler(console=CONSOLE, show_time=False, show_level=False, show_path=False, highlighter=NullHighlighter())
    logging.basicConfig(format="%(message)s", handlers=[plain])
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()
    if metric and (found := best(multirun, metric)):
        print(found)
    return max(codes)


def _arguments() -> Namespace:
    parser = Parser(parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    return parser.parse_intermixed_args()


def _folders(arguments: Namespace) -> tuple[Path, ...]:
    """The folders of the user's own; options of Hydra's that are not open, or not together, are refused."""
    for option in ("config_path", "config_name", "experimental_rerun"):
        if getattr(arguments, option):
            raise Refused(f"--{option.replace('_', '-')}: not open here; --config-dir adds steps and studies of your own")
    modes = [f"--{name.replace('_', '-')}" for name in MODES if getattr(arguments, name)]
    if len(modes) > 1:
        raise Refused(f"{' '.join(modes)}: one at a time")
    return config_folders(arguments.config_dir)


def _outcome(experiment: Experiment) -> tuple[float | None, int]:
    """The score of a job and its exit code; of one that is stopped SystemExit, so that those that follow are not started."""
    try:
        result = start(experiment)
    except Stopped as error:
        raise SystemExit(say(error) if processes.rank() == 0 else error.exit_code) from None
    except RoadmapError as error:
        return None, say(error)
    if processes.rank() == 0:
        print(summary(result, experiment))
    return result.score, 0


def _check_once_a_node(overrides: list[str], folders: Sequence[Path], multirun: bool) -> None:
    """`check_jobs`: every process of a node does it, and one of them prints what is wrong."""
    if processes.local_rank() == 0:
        return check_jobs(overrides, folders, multirun)
    with redirect_stderr(StringIO()):
        try:
            check_jobs(overrides, folders, multirun)
        except Refused as fault:
            time.sleep(5)  # torchrun ends all when one has ended: the first must have spoken
            raise SystemExit(fault.exit_code) from None


def start(experiment: Experiment) -> RunResult:
    """Run one experiment in this process."""
    inventory = sources.checked_images(experiment.data, experiment.recipe.batch_size, experiment.task.name.target)
    fingerprint = sources.fingerprint(experiment.data, inventory)
    experiment = resolved(experiment)
    folder = RunFolder.of(experiment, fingerprint)
    done = folder.result()
    if done is not None:
        folder.tidy()
        if processes.rank() == 0:
            print("already done; delete its folder to train it again", file=sys.stderr)
        return done
    processes.wait_asleep_beside_others()
    from roadmap.run.execute import execute  # torch, from here on

    return execute(experiment, inventory, fingerprint)


def summary(result: RunResult, experiment: Experiment) -> str:
    """What came out, in two lines, and a line for what alarms."""
    folder = runs_folder(experiment) / result.run
    if not result.done:
        return f"{result.run}: {result.status}, {result.reason}\n{folder}"
    said = "".join(f"\n{alarm}" for alarm in alarms(result))
    return (
        f"{result.step.name}, seed {result.seed}: {result.final}, {result.gmacs:.4f} G multiply-adds, "
        f"{result.params_m:.2f} M parameters, {result.seconds:.0f} s{said}\n{folder}"
    )


if __name__ == "__main__":
    exits(main)()
