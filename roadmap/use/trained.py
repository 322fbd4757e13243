"""A trained network with all that was decided for it: the images that it takes, its classes, its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import nn
from yaml import YAMLError

from roadmap.base.errors import Refused, first_line
from roadmap.base.files import regular
from roadmap.config.checks import TIMM
from roadmap.config.compose import compose
from roadmap.config.overrides import config_folders, quoted
from roadmap.config.parts import resolve
from roadmap.config.schema import (
    DataConfig,
    Experiment,
    HeadConfig,
    Interpolation,
    RecipeConfig,
    RuntimeConfig,
    TaskConfig,
    TaskName,
)
from roadmap.model.reference import outline, pretrained
from roadmap.model.trained import coordinates, fill_trained
from roadmap.record.result import RunResult
from roadmap.record.weights import finished_run, weights_file
from roadmap.tasks.choose import choose_task

OF_NETWORK = ("image_size", "mean", "std", "crop_pct")  # settings of data that belong to a network, whatever images it is shown
SECTIONS = {  # of a run's configuration, and what holds where they say nothing: runs from before there were others name no task
    "task": TaskConfig(TaskName.classification),
    "head": HeadConfig(),
    "data": DataConfig(),
    "recipe": RecipeConfig(),
    "runtime": RuntimeConfig(),
}


@dataclass(frozen=True)
class Trained:
    """A network in eval mode on the CPU, and what it was trained as."""

    name: str  # of the run, or of timm's weights
    network: nn.Module
    settings: Experiment  # only task, head, data, recipe and runtime; of timm's the size and colours that its network takes
    count: int  # of classes
    classes: tuple[str, ...] | None  # None where nobody wrote them down
    described: Mapping[str, str]  # classes whose names say little, in words
    result: RunResult | None = None

    def at(self, image_size: int) -> nn.Module:
        """The network with its weights, for images of this size in pixels; timm's is fetched now, and built for that size."""
        if self.result is not None:
            return self.network
        return pretrained(self.name, image_size, f"{TIMM}{self.name}").eval()

    def labels(self) -> list[str]:
        """What each class is called, for people."""
        names = self.classes or [f"class {index}" for index in range(self.count)]
        return [self.described.get(name, name) for name in names]


def find_trained(said: str, config_dirs: Sequence[Path | str] = (), parts: Sequence[str] = (), fetch: bool = True) -> Trained:
    """The network of a run's folder, or with timm's weights of `timm:NAME`; `parts` of one's own are those in `config_dirs`.

    Where timm's weights are not to be fetched yet, its network is an outline without them: see `Trained.at`.

    Raises:
        Refused: where there is no such network.

    """
    resolve(parts, config_folders(config_dirs))
    return _of_timm(said, fetch) if said.startswith(TIMM) else _of_run(Path(said).expanduser())


def load_trained(folder: Path | str, config_dirs: Sequence[Path | str] = (), parts: Sequence[str] = ()) -> nn.Module:
    """The network of a finished run, in eval mode on the CPU; (N, 3, S, S) to (N, classes), S being its image size.

    Its `pretrained_cfg` holds the run's own image size, mean, deviation, crop and number of classes, so that
    `timm.data.create_transform(**timm.data.resolve_data_config(model=network))` makes the images that it was scored on.
    A detector takes a list of normalised images (3, h, w) and gives boxes, scores, labels and masks of each; a segmenter
    (N, 3, H, W) to (N, classes, H, W).

    A run with parts of one's own needs them again: `config_dirs=["my"], parts=["my"]`.

    Raises:
        Refused: where the folder holds no finished run, or not its weights; where it was made of parts that are not given,
            or are others by now.

    """
    return find_trained(str(folder), config_dirs, parts).network


def _of_run(folder: Path) -> Trained:
    result, weights = finished_run(folder), weights_file(folder)
    file = folder / "config.yaml"
    try:
        content = OmegaConf.load(regular(file))
        settings = Experiment(**{name: _section(content, name, plain) for name, plain in SECTIONS.items()})
    except (OSError, OmegaConfBaseException, YAMLError, AttributeError) as error:
        raise Refused(f"{file}: not the configuration of this run: {first_line(error)}") from error
    count: int = result.data["classes"]
    classes = tuple(result.class_names) if result.class_names else None
    task = choose_task(settings, classes or [str(index) for index in range(count)])
    network = fill_trained(task.network(*coordinates(result)), result, weights)
    return Trained(result.run, network, settings, count, classes, _in_words(classes or ()), result)


def _section(content: Any, name: str, plain: object) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(plain), content.get(name, {})))


def _of_timm(said: str, fetch: bool) -> Trained:
    plain = compose(["+step=resnet", "data=folder", "data.path=."])
    network = outline(said.removeprefix(TIMM), None, said)
    own: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    name = f"{own['architecture']}.{own['tag']}" if own.get("tag") else own["architecture"]  # which weights, where none are said
    count = int(network.num_classes)  # type: ignore[arg-type]
    if not count:
        raise Refused(f"{said}: has no classes; weights without a classifier start runs, init={said}")
    config = resolve_data_config(model=network)
    if config["interpolation"] not in list(Interpolation):
        raise Refused(f"{said}: resizes with {config['interpolation']}; it must be one of {', '.join(Interpolation)}")
    data = replace(
        plain.data,
        image_size=config["input_size"][-1],
        mean=list(config["mean"]),
        std=list(config["std"]),
        crop_pct=config["crop_pct"],
    )
    recipe = replace(plain.recipe, interpolation=Interpolation(config["interpolation"]))
    subset = infer_imagenet_subset(network)
    classes = tuple(ImageNetInfo(subset).label_names()) if subset else None
    settings = replace(plain, data=data, recipe=recipe)
    if fetch:
        network = pretrained(name, None, said)
    return Trained(name, network.eval(), settings, count, classes, _in_words(classes or ()))


def _in_words(classes: Sequence[str]) -> dict[str, str]:
    """ImageNet's numbers of its classes in words; nothing for other names."""
    numbers = [name for name in classes if name[:1] == "n" and name[1:].isdigit() and len(name) == 9]
    if not numbers:
        return {}
    known = ImageNetInfo("imagenet-1k")
    return {name: known.label_name_to_description(name) for name in numbers if name in known.label_names()}


def asked(trained: Trained, words: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Data and runtime of a use: a run's own, or what `data=` names in the size and colours that the network takes.

    Raises:
        Refused: where they make no configuration; which settings may be said is `check_asked`'s to know.

    """
    said = {word.split("=")[0] for word in words}
    settings, own = trained.settings, trained.settings.data
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
