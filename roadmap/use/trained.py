"""A trained network with all that was decided for it: the images that it takes, its classes, its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import nn

from roadmap.base.errors import Refused, first_line
from roadmap.config.checks import TIMM
from roadmap.config.overrides import config_folders
from roadmap.config.parts import resolve
from roadmap.config.schema import Interpolation
from roadmap.model.reference import outline, pretrained
from roadmap.model.registry import PRETRAINED_CFG, timm_name
from roadmap.model.saved import read_weights
from roadmap.record.result import RunResult
from roadmap.record.weights import weights_file
from roadmap.tasks.choose import choose_task
from roadmap.use.named import Named, coordinates, named


@dataclass(frozen=True, kw_only=True)
class Trained(Named):
    """A network in eval mode on the CPU, and what it was trained as; of timm's its settings say the size and colours it takes."""

    network: nn.Module
    described: Mapping[str, str]  # classes whose names say little, in words

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

    Where timm's weights are not to be fetched yet, its network is an outline without them: see `Trained.at`. Refused where
    there is no such network.
    """
    resolve(parts, config_folders(config_dirs))
    return _of_timm(said, fetch) if said.startswith(TIMM) else _of_run(said)


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


def _of_run(said: str) -> Trained:
    known = named(said)
    assert known.result is not None
    task = choose_task(known.settings, known.classes or [str(index) for index in range(known.count)])
    network = task.network(*coordinates(known.result))
    weights = weights_file(Path(said).expanduser())
    try:
        network.load_state_dict(read_weights(weights))
    except RuntimeError as error:
        raise Refused(f"{weights}: not the weights of this run: {first_line(error)}") from error
    network.pretrained_cfg = network.default_cfg = _pretrained_cfg(known.result)  # type: ignore[assignment]
    return Trained(**vars(known), network=network.eval(), described=_in_words(known.classes or ()))


def _pretrained_cfg(result: RunResult) -> dict[str, Any]:
    """What timm reads of a model: the data configuration, and the names of the first and of the last layer."""
    reference, data = result.model.get("reference"), result.data
    if reference is None:
        known = {**PRETRAINED_CFG, "architecture": timm_name(result.step.name, result.scale)}
    else:
        known = {**timm.get_pretrained_cfg(reference).to_dict(), "architecture": reference}
    size = data["image_size"]
    own = {"input_size": (3, size, size), "pool_size": (size // 32, size // 32), "num_classes": data["classes"]}
    own |= {"mean": tuple(data["mean"]), "std": tuple(data["std"]), "crop_pct": data["crop_pct"]}
    interpolation = result.recipe.get("interpolation", "bicubic")
    return {**known, **own, "interpolation": interpolation, "crop_mode": "center", "tag": result.run}


def _of_timm(said: str, fetch: bool) -> Trained:
    plain = named(said).settings
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
    described = _in_words(classes or ())
    return Trained(name, settings, count, classes, network=network.eval(), described=described)


def _in_words(classes: Sequence[str]) -> dict[str, str]:
    """ImageNet's numbers of its classes in words; nothing for other names."""
    numbers = [name for name in classes if name[:1] == "n" and name[1:].isdigit() and len(name) == 9]
    if not numbers:
        return {}
    known = ImageNetInfo("imagenet-1k")
    return {name: known.label_name_to_description(name) for name in numbers if name in known.label_names()}
