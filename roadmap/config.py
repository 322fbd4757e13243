"""From a command line to one checked `Experiment`, or to a message that says what to change; and a run's identity.

Hydra composes `conf/` under the schema; what it refuses is said again here with the value, the allowed values and the
nearest name. No torch here: a bad setting is refused in about a second.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from roadmap.checks import check, limits_of
from roadmap.errors import Refused, nearest
from roadmap.layout import layout
from roadmap.overrides import RESOLVER, check_override, config_folders, nearest_key, parse
from roadmap.schema import Experiment, Keep, Logger, ModelConfig, Norm, Source, StepConfig
from roadmap.steps import CONF, known_steps

ConfigStore.instance().store(name="schema", node=Experiment)


def compose(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Compose, check and return the experiment that these Hydra overrides describe.

    Raises:
        Refused: for anything that no run could start from.

    """
    return _compose(tuple(overrides), config_folders(config_dirs))


@lru_cache(maxsize=1024)
def _compose(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    experiment = _read(overrides, config_dirs)
    check(experiment)
    if experiment.step.parent is not None:
        _check_step_acts(experiment, overrides, config_dirs)
    return experiment


def with_toggles(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The same experiment with toggles (`model.kernel_size=3`) set otherwise, checked; a hundred times faster than `compose`.

    Raises:
        Refused: for anything that no run could start from.

    """
    for override in parse(overrides):
        check_override(override)
    toggles = OmegaConf.from_dotlist([override.removeprefix("model.") for override in overrides])
    try:
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(experiment.model), toggles))
    except OmegaConfBaseException as error:
        raise Refused(_say_again(error)) from error
    assert isinstance(model, ModelConfig)
    changed = dataclasses.replace(experiment, model=model)
    check(changed)
    return changed


def with_place(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """The overrides of a reference with the step that it is put in the place of, the roadmap's first: files need one.

    Raises:
        Refused: where a run is to be a step and a reference at once.

    """
    words = list(overrides)
    said = {override.key_or_group: override for override in parse(words)}
    if "reference" not in said or said["reference"].value() is None:
        return words
    if "step" in said:
        raise Refused(
            f"{said['reference'].input_line} and {said['step'].input_line}: a run trains a step or a reference; leave one out"
        )
    return [*words, f"+step={next(iter(known_steps(*config_dirs)))}"]


@lru_cache(maxsize=1024)
def _read(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    """Compose without the checks that need more than one field."""
    for override in parse(overrides):
        check_override(override, config_dirs)
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in config_dirs)}]"] if config_dirs else []
    words = with_place(overrides, config_dirs)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra_compose("config", [*words, *search], return_hydra_config=True)
            if config_dirs:
                _check_foreign(config, _own_hydra())
        experiment = from_hydra(config, config.hydra.runtime.choices.get("step"), config_dirs)
        if experiment.reference is not None and words == list(overrides):
            raise Refused(
                f"reference={experiment.reference}: set in a file; say it on the command line, or study.references in the file"
            )
        return experiment
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(_say_again(error)) from error


def from_hydra(config: DictConfig, step: str | None, config_dirs: Sequence[Path] = ()) -> Experiment:
    """The typed object of a composed configuration; `step` is the name that was chosen."""
    if step is None:
        raise Refused(f"no step is chosen: add +step=NAME; {nearest('', known_steps(*config_dirs))}")
    config = copy.deepcopy(config)
    with open_dict(config):
        config.pop("hydra", None)
    experiment = OmegaConf.to_object(config)
    assert isinstance(experiment, Experiment)
    if experiment.reference is not None:
        return dataclasses.replace(experiment, step=StepConfig(experiment.reference, None, experiment.reference))
    about = known_steps(*config_dirs)[step]
    return dataclasses.replace(experiment, step=StepConfig(about.name, about.parent, about.label, about.group))


@lru_cache
def _own_hydra() -> DictConfig:
    """Hydra's settings as the project's own files leave them."""
    return hydra_compose("config", return_hydra_config=True).hydra


def _check_foreign(config: DictConfig, ours: DictConfig) -> None:
    """What came from files of the user's own may set the experiment, and neither Hydra itself nor resolvers.

    Hydra's callbacks and log handlers name Python objects to call, and a resolver reads the environment.
    """
    for key in ("callbacks", "job_logging", "hydra_logging", "run", "sweep", "output_subdir"):
        if _raw(config.hydra.get(key)) != _raw(ours.get(key)):
            raise Refused(f"hydra.{key}: a configuration file of one's own may not set it")
    mine = {key: config[key] for key in config if key != "hydra"}
    for value in _texts(OmegaConf.to_container(OmegaConf.create(mine), resolve=False)):
        if RESOLVER.search(value):
            raise Refused(f"{value}: values that call a resolver (${{name:...}}) are not accepted; write the value itself")


def _raw(node: Any) -> Any:
    """As it is written, with the references that it holds: one of Hydra's folders refers to `output`."""
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        node = list(node.values())
    for item in node if isinstance(node, list) else [node]:
        yield from _texts(item) if isinstance(item, dict | list) else [item] if isinstance(item, str) else []


def _say_again(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors in one line: where, what, and what is allowed."""
    file = re.match(r"In '(.+?)': \w+ raised", str(error))
    place = f"conf file {file[1]}: " if file else ""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = str(cause).splitlines()[1 if file and cause is error else 0 :]
    message = lines[0].strip() if lines else type(cause).__name__
    if message.startswith("Ambiguous value"):
        return f"{message}: several values are a sweep; add -m, or write them as a list, [a,b]"
    in_text = re.search(r"full_key: (\S+)", str(error))
    key = str(getattr(cause, "full_key", None) or "") or (in_text[1] if in_text else "")
    where = place + (f"{key}: " if key and key not in message else "")
    choice = re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", message)
    if choice:
        value, options = choice[1].split(".")[-1], choice[2].split(", ")
        return f"{where}invalid value {value!r}; {nearest(value, options)}"
    if isinstance(cause, MissingMandatoryValue):
        whose = (
            "a step without a parent must set every toggle"
            if key.startswith("model.")
            else (f"a {key.split('.')[0]} file must set it, or begin with defaults: [NAME, _self_] to have the rest from another")
        )
        return f"{where}has no value; {whose}"
    if key and (isinstance(cause, ConfigKeyError) or re.match(r"Key '.*' (is )?not in", message)):
        return f"{place}there is no setting {key!r}. {nearest_key(key)}"
    if "not a ListConfig" in message:
        return f"{where}{message}; write a list, {key}=[...]"
    limits = limits_of(re.sub(r"\[\d+\]$", "", key))
    return f"{where}{message}" + (f"; it must be {limits}" if limits else "")


# --- what has no effect ----------------------------------------------------------------------------------------------


def _check_step_acts(experiment: Experiment, overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> None:
    """A step must prove that it acted: its network differs from its parent's at the same scale."""
    scale = tuple(o for o in overrides if re.match(r"\+*(scale[.=]|study=)", o))  # a study may choose the scale
    step, parent = experiment.step.name, experiment.step.parent
    after, before = (_read((*scale, f"+step={name}"), config_dirs).model for name in (step, parent))
    if layout(after) == layout(before):
        settings = f"at scale {experiment.scale.name}" + (f" with {', '.join(scale)}" if scale else "")
        raise Refused(f"step {step!r} leaves the network of its parent {parent!r} as it was {settings}: a step must change it")


def warnings(experiment: Experiment, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> list[str]:
    """Settings that can have no effect in this combination, each in a sentence."""
    said = {override.key_or_group for override in parse(overrides)}
    recipe, data, model = experiment.recipe, experiment.data, experiment.model
    elsewhere = experiment.logger != Logger.wandb
    idle = {
        "model.block_bias": model.block_bias and model.norm == Norm.batch and model.block_norms == Keep.all
        and "a BatchNorm follows every convolution of the block and takes the bias out again",
        "recipe.mixup_switch_prob": not (recipe.mixup and recipe.cutmix) and "it chooses between mixup and cutmix, not both on",
        "data.path": data.source == Source.digits and "the digits come with scikit-learn",
        "data.accept": data.source in (Source.digits, Source.cifar10, Source.cifar100) and "only files of images are examined",
        "data.download": data.source in (Source.digits, Source.folder, Source.imagenet)
        and f"{data.source} cannot be downloaded",
        **{f"wandb.{key}": elsewhere and f"logger={experiment.logger}" for key in ("mode", "project", "entity")},
    }  # fmt: skip
    if experiment.reference is not None:
        mine = {key for key in said if key.startswith(("model.", "scale."))}
        idle |= dict.fromkeys(mine - {"model.drop_path", "scale.drop_path"}, f"{experiment.reference} is timm's own")
    found = [f"{key} has no effect here: {why}" for key, why in idle.items() if why and key in said]
    for override in overrides:
        key = override.split("=")[0]
        if key.startswith("scale.") and key not in ("scale.name", "scale.start", "scale.end") and experiment.reference is None:
            without = compose([o for o in overrides if o != override], config_dirs)
            if without.model == model:
                found.append(f"{key} has no effect here: step {experiment.step.name} does not use it")
    return found


# --- identity --------------------------------------------------------------------------------------------------------


def plain(node: Any) -> Any:
    """Dataclasses and enums as dictionaries and strings, for JSON and YAML."""
    if dataclasses.is_dataclass(node):
        return {field.name: plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, (list, tuple)):
        return [plain(item) for item in node]
    return node.value if isinstance(node, Enum) else node


def described(experiment: Experiment) -> dict[str, Any]:
    """What is written down of a run: every setting, but of a reference's network only what it is and its stochastic depth."""
    settings: dict[str, Any] = plain(experiment)
    if experiment.reference is not None:
        settings["model"] = {"reference": experiment.reference, "drop_path": experiment.model.drop_path}
    return settings


def differences(one: Any, other: Any, key: str = "") -> list[str]:
    """`key: value / value` for each setting that two plain configurations have otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [line for name in keys for line in differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))]
    return [] if one == other else [f"{key}: {one} / {other}"]


def decisive(experiment: Experiment, fingerprint: str) -> dict[str, Any]:
    """Everything that changes a run's result, and nothing else.

    Model, data (its fingerprint, not its path nor the faults in it that are accepted), recipe and seed count; the
    step's name, output folder, logger, device and number of workers do not.
    """
    model = described(experiment)["model"]
    if experiment.reference is None and model["width"].is_integer():
        model["width"] = int(model["width"])
    data = {key: value for key, value in plain(experiment.data).items() if key not in ("path", "accept", "download", "workers")}
    if not data["held_out"]:
        del data["held_out"]
    return {
        "model": model,
        "data": {**data, "fingerprint": fingerprint},
        "recipe": {key: value for key, value in plain(experiment.recipe).items() if key != "name"},
        "seed": experiment.seed,
    }


def identity(experiment: Experiment, fingerprint: str) -> str:
    """Eight hex digits of what is decisive: runs of equal identity are the same run."""
    return hashlib.sha256(json.dumps(decisive(experiment, fingerprint), sort_keys=True).encode()).hexdigest()[:8]
