"""What a command line says of a trained network, of images and of files, checked without torch, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from yaml import YAMLError

from roadmap.base.errors import Refused, first_line, first_of
from roadmap.base.files import check_writable, regular
from roadmap.config.checks import TIMM
from roadmap.config.compose import compose
from roadmap.config.effects import ineffective_settings, said_twice
from roadmap.config.overrides import config_folders, quoted
from roadmap.config.parts import KINDS, names, part, resolve
from roadmap.config.schema import (
    DataConfig,
    Experiment,
    HeadConfig,
    ModelConfig,
    RecipeConfig,
    RuntimeConfig,
    TaskConfig,
    TaskName,
)
from roadmap.data.images import sources
from roadmap.data.images.inventory import Disk
from roadmap.data.images.readers import read_picture
from roadmap.model.names import check_weights
from roadmap.record.result import RunResult
from roadmap.record.weights import finished_run, weights_file

EXPORTED = WEIGHTS, CONFIG, ONNX = "model.safetensors", "config.json", "model.onnx"
OF_NETWORK = ("image_size", "mean", "std", "crop_pct")  # settings of data that belong to a network, whatever images it is shown
SECTIONS = {  # of a run's configuration, and what holds where they say nothing: runs from before there were others name no task
    "task": TaskConfig(TaskName.classification),
    "head": HeadConfig(),
    "data": DataConfig(),
    "recipe": RecipeConfig(),
    "runtime": RuntimeConfig(),
}


@dataclass(frozen=True)
class Named:
    """A network that is there, as far as it is known without torch."""

    name: str  # of the run, or of timm's weights
    settings: Experiment  # only task, head, data, recipe and runtime; of timm's what holds before its own is known
    count: int = 0  # of classes; 0: known to timm alone
    classes: tuple[str, ...] | None = None  # their names; None where nobody wrote them down
    result: RunResult | None = None


def named(said: str) -> Named:
    """The network that a run's folder or `timm:NAME` stands for.

    Refused where the folder holds no finished run, or not its weights or its configuration; where timm's sources hold no such
    model.
    """
    if said.startswith(TIMM):
        return Named(check_weights(said), compose(["+step=resnet", "data=folder", "data.path=."]))
    folder = Path(said).expanduser()
    weights_file(folder)
    result, file = finished_run(folder), folder / "config.yaml"
    try:
        content = OmegaConf.load(regular(file))
        settings = Experiment(**{name: _section(content, name, plain) for name, plain in SECTIONS.items()})
    except (OSError, OmegaConfBaseException, YAMLError, AttributeError, RecursionError) as error:
        raise Refused(f"{file}: not the configuration of this run: {first_line(error)}") from error
    names = tuple(result.class_names) if result.class_names else None
    return Named(result.run, settings, result.data["classes"], names, result)


def _section(content: Any, name: str, plain: object) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(plain), content.get(name, {})))


def check_named(said: str, config_dirs: Sequence[Path] = (), parts: Sequence[str] = ()) -> Named:
    """As `named`, and refused too where it was made of parts of one's own that are not given, or are others by now."""
    known = named(said)
    resolve(parts, config_folders(config_dirs))
    if known.result is not None:
        coordinates(known.result)
    return known


def coordinates(result: RunResult) -> tuple[ModelConfig, str | None]:
    """The coordinates of a run's network, or its reference, of which the record holds name and stochastic depth alone."""
    model, reference = result.model, result.model.get("reference")
    if reference is None:
        plain = {key: _part(key, value) if key in KINDS and value else value for key, value in model.items()}
        known = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), plain))
        assert isinstance(known, ModelConfig)
    else:
        known = ModelConfig(drop_path=model["drop_path"])
    return known, reference


def _part(kind: str, recorded: str) -> str:
    """The name in what a record says; of one's own part also that it is the one that was trained."""
    name, _, digest = recorded.partition("@")
    if digest and name not in names(kind):
        raise Refused(
            f"{kind} {name!r}: a part of one's own; name its folder: --config-dir my --parts my, or from Python parts=['my']"
        )
    if digest and (own := part(kind, name)).digest != digest:
        raise Refused(f"{own.file}: {kind} {name!r} is not the one that the run was trained with ({own.digest}, then {digest})")
    return name


def check_asked(
    known: Named, said: str, words: Sequence[str], config_dirs: Sequence[Path] = (), multi_scale: bool = False
) -> list[str]:
    """Refuse other settings than data and runtime, timm's weights without data, and images that cannot be scored on.

    Returns warnings of settings that are said twice or have no effect.
    """
    for word in words:
        if not word.startswith(("data=", "data.", "runtime.")):
            raise Refused(f"{word}: only data=NAME and settings under data. and runtime. are for a network that is trained")
    if known.result is None and not any(word.startswith("data=") for word in words):
        raise Refused(f"{said}: on which images? Add data=NAME data.path=FOLDER, for example data=imagenet")
    use = asked(known.settings, words, config_dirs)
    if multi_scale and use.task.name != TaskName.segmentation:
        raise Refused(f"--multi-scale: is for task=segmentation; {known.name} is of task={use.task.name}")
    classes = sources.checked_images(use.data, 1, use.task.name.target).classes
    if known.result is not None:
        check_classes(known, classes)
    return [*said_twice(words), *ineffective_settings(use, words)]


def asked(settings: Experiment, words: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Data and runtime of a use: a run's own, or what `data=` names in the size and colours that the network takes.

    Refused where they make no configuration; which settings may be said is `check_asked`'s to know.
    """
    said = {word.split("=")[0] for word in words}
    own = settings.data
    kept: Sequence[str] = OF_NETWORK
    given = list(words)
    if "data" not in said:
        kept = [entry.name for entry in fields(DataConfig)]
        given = [f"data={own.source.value}", *([f"data.path={quoted(own.path)}"] if own.path else []), *words]
        if "data.path" in said and own.path:
            del given[1]
    if settings.runtime.threads is not None and "runtime.threads" not in said:
        given.append(f"runtime.threads={settings.runtime.threads}")
    task = [f"task={settings.task.name.value}", f"head={settings.head.name.value}"]
    composed = compose(["+step=resnet", *task, *given], config_dirs)
    data = replace(composed.data, **{key: getattr(own, key) for key in kept if f"data.{key}" not in said})
    return replace(composed, data=data, recipe=settings.recipe, task=settings.task, head=settings.head)


def check_classes(trained: Named, classes: Sequence[str]) -> None:
    """Refuse images of other classes than the network's, or in another order: every score would be wrong."""
    ours, theirs = trained.classes, list(classes)
    if len(theirs) != trained.count or (ours is not None and list(ours) != theirs):
        only_ours = [name for name in ours or () if name not in theirs]
        only_theirs = [name for name in theirs if ours is not None and name not in ours]
        why = [f"{trained.count} classes there, {len(theirs)} here"] if len(theirs) != trained.count else []
        why += [f"only there: {first_of(only_ours)}"] if only_ours else []
        why += [f"only here: {first_of(only_theirs)}"] if only_theirs else []
        raise Refused(f"{trained.name}: its classes are not those of the images: {'; '.join(why) or 'in another order'}")


def read_pictures(files: Sequence[Path]) -> list[Image.Image]:
    """Every picture, decoded; those that are not there or cannot be decoded are refused, all of them by name."""
    pictures, faults = list[Image.Image](), list[str]()
    for file in files:
        try:
            pictures.append(_read(file))
        except Refused as fault:
            faults.append(str(fault))
    if faults:
        raise Refused("\n".join(faults))
    return pictures


def _read(file: Path) -> Image.Image:
    if file.is_dir():
        raise Refused(f"{file}: is a folder; name the pictures in it, {file}/*.jpg")
    return read_picture(Disk(), file)


def check_export(folder: Path, said: str, known: Named, onnx: bool) -> None:
    """Refuse a folder that holds something else than an export, timm's own networks, and an ONNX program that cannot be made."""
    if known.result is None:
        raise Refused(f"{said}: is timm's already; a run's folder can be exported")
    check_writable(folder.absolute(), f"--output {folder}")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in EXPORTED) if folder.is_dir() else []
    if foreign:
        raise Refused(f"--output {folder}: holds {', '.join(foreign[:3])}; must be empty, or what an export wrote")
    if onnx and known.settings.task.name != TaskName.classification:
        raise Refused(f"--onnx: {known.name} has a head of task={known.settings.task.name}; only classifiers have a program")
    if onnx and not all(map(find_spec, ("onnxruntime", "onnxscript"))):
        raise Refused("--onnx needs onnxscript and onnxruntime: pip install 'roadmap[exchange]'")
