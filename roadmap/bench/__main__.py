"""`python -m roadmap.bench [--scale tiny] [--steps all] [--output FOLDER]`: throughput, latency and memory of every step.

Everything is measured beside timm's loop, in turn, in one process: once with its script's defaults, once with its best
flags. With `--task` the steps are backbones of a head, and alone: timm has no loop for them. Writes `bench.csv` and `bench.md`;
`roadmap.report` takes the columns of a `bench.csv` in a study's folder over.
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from roadmap.base.console import Parser, check_limits, exits, names
from roadmap.base.errors import OutOfMemory, Refused, StorageFault, first_line, nearest
from roadmap.base.files import check_entries, check_writable, write_atomic
from roadmap.base.processes import check_alone
from roadmap.base.tables import Column, as_csv, as_markdown, as_table
from roadmap.config.overrides import config_folders, quoted
from roadmap.config.schema import Compile, Device, Experiment, Head, Pipeline, Precision, TaskName
from roadmap.config.steps import check_whole, known_steps
from roadmap.data.images import sources
from roadmap.model.check import compose_run
from roadmap.record.provenance import provenance

if TYPE_CHECKING:
    import torch

    from roadmap.bench.step import Setting
    from roadmap.data.batches import InputPipeline

AGAINST = ("timm_best", "timm_default")


class Usual(NamedTuple):
    """What a task is measured on where nothing else is said: as published."""

    recipe: str
    image_size: int  # pixels, of the shorter side
    longer: float  # times that, the longer one
    classes: int
    batch_sizes: tuple[int, int]  # on a GPU and on a CPU


COCO = Usual("coco_1x", 800, 1.6, 80, (8, 2))
USUAL = {
    Head.none: Usual("paper", 224, 1.0, 1000, (256, 8)),
    Head.mask_rcnn: COCO,
    Head.cascade_mask_rcnn: COCO,
    Head.upernet: Usual("ade20k_160k", 512, 1.0, 150, (16, 2)),
}
COLUMNS = (
    Column("step", "step"),
    Column("gmacs", "multiply-adds, G", "{:.3f}"),
    Column("ours_train", "training, img/s", "{:.4g}"),
    Column("spread", "range", lambda row: "{ours_train_least:.4g} to {ours_train_most:.4g}".format(**row)),
    Column("timm_best_train", "timm's loop, best flags", "{:.4g}"),
    Column("timm_default_train", "timm's loop, defaults", "{:.4g}"),
    Column("ratio_timm_best", "ours / best", "{:.2f}"),
    Column("ratio_timm_default", "ours / defaults", "{:.2f}"),
    Column("ours_end_to_end", "end to end, img/s", "{:.4g}"),
    Column("share_of_peak", "share of peak", "{:.1%}"),
    Column("ours_inference", "inference, img/s", "{:.4g}"),
    Column("timm_best_inference", "timm's, best flags", "{:.4g}"),
    Column("ours_latency_ms", "latency at batch 1, ms", "{:.3g}"),
    Column("timm_best_latency_ms", "timm's, best flags", "{:.3g}"),
    Column("ours_memory_gib", "peak memory, GiB", "{:.2f}"),
    Column("timm_best_memory_gib", "timm's, best flags", "{:.2f}"),
    Column("ours_compile_seconds", "compiling, s", "{:.1f}"),
    Column("timm_best_compile_seconds", "timm's, best flags", "{:.1f}"),
)


def main() -> int:
    """Measure the steps that the command line asks for."""
    arguments = _arguments()
    check_alone("roadmap.bench")
    if arguments.output:
        check_writable(arguments.output.absolute(), f"--output {arguments.output}")
        check_entries(arguments.output)
    experiments = _experiments(arguments)
    data = experiments[0].data
    if data.path is not None:
        sources.checked_images(data, arguments.batch_size or 1)
    from roadmap.data.loader import worker_count  # torch, from here on
    from roadmap.train.ranks import pick_device

    device = pick_device(Device(arguments.device))
    setting = _setting(arguments, experiments[0], worker_count(data), device)
    of_head = f"{arguments.task} " * (arguments.task != Head.none)
    where = f"{setting.name} {of_head}{arguments.scale} {arguments.image_size}px".lower()
    folder = arguments.output or Path("experiments/performance") / re.sub("[^a-z0-9]+", "-", where)
    check_entries(folder)
    if arguments.profile:
        folder.mkdir(parents=True, exist_ok=True)
        setting = replace(setting, profiles=folder)
    pipeline = None
    if data.path is not None:
        inventory = sources.checked_images(data, setting.recipe.batch_size)
        pipeline = setting.task.batches(experiments[0].seed, inventory, setting.device)
    rows = _measured_before(folder, setting) if arguments.resume else []
    for experiment in experiments:
        if any(row["step"] == experiment.step.name for row in rows):
            continue
        rows.append({"step": experiment.step.name, **_about(setting), **_measured(experiment, setting, pipeline)})
        remarks = notes(rows, arguments, setting.peak.about)
        _write(folder, rows, remarks)  # after each row: what is measured is not lost
        print(as_table(rows[-1:], COLUMNS[:8], ""), flush=True)
    print(as_table(rows, COLUMNS, "how fast each step is"), *remarks, f"{folder}: bench.csv, bench.md", sep="\n")
    return 0


def _measured(experiment: Experiment, setting: Setting, pipeline: InputPipeline | None) -> dict[str, Any]:
    from roadmap.bench.step import measure
    from roadmap.train.memory import ran_out

    step = experiment.step.name
    try:
        return measure(step, experiment.model, setting, pipeline)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(f"{step}: no room for --batch-size {setting.recipe.images_at_once}: {first_line(error)}") from error


def _arguments() -> argparse.Namespace:
    parser = Parser(prog="python -m roadmap.bench", description="How fast every step is, beside timm's own loop.")
    parser.add_argument("--scale", default="tiny", help="end points: tiny (default), base, atto, ...")
    parser.add_argument("--steps", type=names, default=["all"], help="all (default), or names joined by commas")
    parser.add_argument("--task", choices=[*map(str, Head)], default=Head.none, help="a head on the steps; none: classification")
    parser.add_argument("--recipe", help="of a head; coco_1x or ade20k_160k; dense_short has small ones that a CPU can train")
    parser.add_argument("--image-size", type=int, help="pixels: 224; of detectors the shorter side, 800; of UPerNet's crops, 512")
    parser.add_argument("--batch-size", type=int, help="images an update; 256 on a GPU, 8 on a CPU; fewer with a head")
    parser.add_argument("--classes", type=int, help="1000; with a head COCO's 80 or ADE20K's 150")
    parser.add_argument("--device", choices=[*map(str, Device)], default=Device.auto)
    precisions = [str(name) for name in Precision if name != Precision.float16]
    parser.add_argument("--precision", choices=precisions, default=Precision.auto, help="auto: bfloat16 on a GPU")
    parser.add_argument(
        "--compile", choices=[*map(str, Compile)], default=Compile.auto, help="auto: blocks on a GPU, none on a CPU"
    )
    parser.add_argument("--threads", type=int, help="CPU threads, of both sides")
    parser.add_argument("--rounds", type=int, default=5, help="how often the contenders take turns")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn, at least")
    parser.add_argument("--against", type=names, help=f"{', '.join(AGAINST)}, both (default), or none (all there is with a head)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="also end to end, on FOLDER/train or an archive")
    parser.add_argument("--pipeline", choices=[*map(str, Pipeline)], default=Pipeline.auto, help="what reads them")
    parser.add_argument("--profile", action="store_true", help="also write what the time of our updates goes into")
    parser.add_argument("--output", type=Path, help="folder of bench.csv and bench.md")
    parser.add_argument("--resume", action="store_true", help="keep the rows of bench.csv and measure only the other steps")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help="a folder with steps of your own")
    arguments = parser.parse_args()
    check_limits(arguments, rounds=(1,), seconds=(0.01,), classes=(2, 100_000), threads=(1, 1024), batch_size=(2, 1_000_000))
    _settle(arguments)
    return arguments


def _settle(arguments: argparse.Namespace) -> None:
    """What is not said becomes what is usual for the task."""
    arguments.task = Head[arguments.task]
    usual = USUAL[arguments.task]
    given = arguments.against or (list(AGAINST) if arguments.task == Head.none else ["none"])
    for name in given:
        if name not in [*AGAINST, "none"]:
            raise Refused(f"--against {name}: {nearest(name, [*AGAINST, 'none'])}")
    if "none" in given and len(given) > 1:
        raise Refused(f"--against {','.join(given)}: none stands alone")
    arguments.against = tuple(name for name in given if name != "none")
    if arguments.recipe is not None and arguments.task == Head.none:
        raise Refused(f"--recipe {arguments.recipe}: with --task alone; classification is measured as the paper trains it")
    if arguments.pipeline != Pipeline.auto and arguments.data is None:
        raise Refused(f"--pipeline {arguments.pipeline}: with --data alone; without it images of noise lie on the device")
    for key, value in (("against", ",".join(arguments.against)), ("data", arguments.data)):
        if arguments.task != Head.none and value:
            raise Refused(f"--{key} {value}: not with --task {arguments.task}, which is measured alone and on images of noise")
    for key in ("recipe", "image_size", "classes"):
        if getattr(arguments, key) is None:
            setattr(arguments, key, getattr(usual, key))


def _experiments(arguments: argparse.Namespace) -> list[Experiment]:
    """The experiment behind each row, refused like a run's."""
    folders = config_folders(arguments.config_dir)
    check_whole(arguments.steps, folders)
    known = known_steps(*folders)
    chosen = list(known) if arguments.steps == ["all"] else arguments.steps
    path = f"data.path={quoted(str(arguments.data))}"
    data = ["data=folder", path, f"data.pipeline={arguments.pipeline}"] if arguments.data else []
    common = [f"scale={arguments.scale}", f"recipe={arguments.recipe}", "recipe.mixup=0", "recipe.cutmix=0", *data]
    common += [f"data.image_size={arguments.image_size}", *_of_head(arguments)]
    return [compose_run([*common, f"+step={name}"], folders) for name in chosen]


def _of_head(arguments: argparse.Namespace) -> list[str]:
    """The settings of a head: pictures as large as its own get."""
    head, size = arguments.task, arguments.image_size
    if head == Head.none:
        return []
    objects = head.facts.task == TaskName.detection
    sides = f"data.longest_side={_longer(arguments)}" if objects else f"recipe.crop_size={size}"
    return [f"task={head.facts.task}", f"head={head}", f"runtime.compile={arguments.compile}", sides]


def _longer(arguments: argparse.Namespace) -> int:
    return round(arguments.image_size * USUAL[arguments.task].longer)


def _setting(arguments: argparse.Namespace, experiment: Experiment, workers: int, device: torch.device) -> Setting:
    """What is the same for all rows."""
    import torch

    from roadmap.bench.measure import Peak
    from roadmap.bench.step import Setting
    from roadmap.tasks.choose import choose_task

    _pick(arguments, device)
    recipe = replace(experiment.recipe, batch_size=arguments.batch_size, micro_batch=None)
    return Setting(
        device=device,
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {arguments.threads} threads",
        precision=Precision(arguments.precision),
        compiled=Compile(arguments.compile),
        scale=arguments.scale,
        task=choose_task(replace(experiment, recipe=recipe), [str(number) for number in range(arguments.classes)]),
        head=experiment.head,
        recipe=recipe,
        classes=arguments.classes,
        image_size=arguments.image_size,
        longer=_longer(arguments),
        workers=workers,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        against=arguments.against,
        peak=Peak.of(device),
    )


def _pick(arguments: argparse.Namespace, device: torch.device) -> None:
    """What `auto` means on this device, and how many images it takes at once."""
    import torch

    from roadmap.train.precision import pick_precision

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    gpu = device.type == "cuda"
    if arguments.compile == Compile.auto:
        arguments.compile = Compile.blocks if gpu and arguments.task.facts.task != TaskName.detection else Compile.none
    arguments.batch_size = arguments.batch_size or USUAL[arguments.task].batch_sizes[0 if gpu else 1]
    arguments.precision = pick_precision(Precision(arguments.precision), device).value
    arguments.compile, arguments.threads = Compile(arguments.compile).value, torch.get_num_threads()


def _about(setting: Setting) -> dict[str, Any]:
    return {
        "head": setting.head.name.value,
        "recipe": setting.recipe.name,
        "scale": setting.scale,
        "image_size": setting.image_size,
        "batch_size": setting.recipe.batch_size,
        "precision": setting.precision.value,
        "compiled": setting.compiled.value,
        "device": setting.name,
    }


def _measured_before(folder: Path, setting: Setting) -> list[dict[str, Any]]:
    """The rows of the folder's bench.csv.

    Refused where one was measured otherwise than the setting says, or the file is not of a bench.
    """
    path, about = folder / "bench.csv", _about(setting)
    if not path.exists():
        return []
    try:
        rows = pd.read_csv(path).astype(object)
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        raise Refused(f"--resume: {path} cannot be read: {error}") from error
    for key, before in (("head", Head.none.value), ("recipe", USUAL[Head.none].recipe)):
        rows[key] = rows.get(key, before)  # files of before have none
    try:
        for key, value in about.items():
            others = sorted({str(other) for other in rows[key] if other != value})
            if others:
                raise Refused(f"--resume: {path} was measured with {key} {', '.join(others)}, not {value}; name another --output")
        return rows.where(rows.notna(), None).to_dict("records")
    except KeyError as error:
        raise Refused(f"--resume: {path} has no column {error}: it is not the file of a bench") from error


def notes(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace, peak: str) -> list[str]:
    """What was measured, and the means over the steps."""
    versions = provenance()["versions"]
    objects = arguments.task.facts.task == TaskName.detection
    why = "regions are counted that it was not trained on" if objects else "other work slowed the product down"
    size = str(arguments.image_size)
    if arguments.task != Head.none:
        size = f"{arguments.task} of {arguments.recipe}, {_longer(arguments)} x {size}"
    regions = ", with a head of regions 1000 of them for boxes and 100 for masks as publications do"
    remarks = [
        f"Scale {arguments.scale}, {size} px, batch {arguments.batch_size}, {arguments.precision}, compiled: "
        f"{arguments.compile}, {arguments.threads} CPU threads; torch {versions['torch']}, timm {versions['timm']}, Python "
        f"{versions['python']} on {platform.machine()}. Synthetic images that lie on the device. Median of {arguments.rounds} "
        f"rounds of at least {arguments.seconds:g} s, the contenders in turn; ratios are taken round by round.",
        f"Peak: {peak}. Its share counts 3 x 2 operations for each multiply-add of the forward pass{regions * objects}.",
        *(
            f"{row['step']}: {row['share_of_peak']:.0%} of the peak: {why}, so it says nothing."
            for row in rows
            if (row["share_of_peak"] or 0) > 1
        ),
        "Inference and latency are not compiled on any side. Compiling is what the first two updates took beyond two later ones, "
        "with what torch had in its cache on disk.",
    ]
    for name in arguments.against:
        ratios = [row[f"ratio_{name}"] for row in rows]
        remarks.append(
            f"Ours / {name.replace('_', ' ')}, training: geometric mean {geometric_mean(ratios):.3f} over {len(ratios)} steps, "
            f"{min(ratios):.3f} to {max(ratios):.3f}."
        )
    return remarks


def _write(folder: Path, rows: Sequence[dict[str, Any]], remarks: Sequence[str]) -> None:
    keys = dict.fromkeys(key for row in rows for key in row)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "bench.csv", as_csv(rows, [Column(key, key) for key in keys], ""))
        write_atomic(folder / "bench.md", as_markdown(rows, COLUMNS, "") + "\n" + "\n".join(f"{remark}\n" for remark in remarks))
    except OSError as error:
        raise StorageFault(f"--output {folder}: cannot be written: {error}") from error


if __name__ == "__main__":
    exits(main)()
