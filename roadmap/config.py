"""From a command line to one checked `Experiment`, or to a message that says what to change.

Hydra composes `conf/` under the schema; what it refuses is said again here with the value, the allowed values and
the nearest name. What the schema cannot see (ranges, fields that contradict each other, a step that changes
nothing) is checked after it. No torch here: a bad setting is refused in about a second.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from roadmap.errors import Refused, nearest
from roadmap.layout import layout
from roadmap.schema import Experiment, Keep, Logger, ModelConfig, Norm, Source, StepConfig
from roadmap.steps import CONF, known_steps

ConfigStore.instance().store(name="schema", node=Experiment)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
RANDAUGMENT = re.compile(r"rand(-(m|n|w|p|t|inc|mstd|mmax)[\d.]+)+")


def compose(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Compose, check and return the experiment that these Hydra overrides describe.

    Raises:
        Refused: for anything that no run could start from.

    """
    return _compose(tuple(overrides), tuple(Path(folder).absolute() for folder in config_dirs))


@lru_cache(maxsize=1024)
def _compose(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    experiment = _read(overrides, config_dirs)
    check(experiment)
    if experiment.step.parent is not None:
        _check_step_acts(experiment, overrides, config_dirs)
    return experiment


@lru_cache(maxsize=1024)
def _read(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    """Compose without the checks that need more than one field."""
    parsed = parse(overrides)
    for override in parsed:
        check_override(override, config_dirs)
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in config_dirs)}]"] if config_dirs else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra_compose("config", [*overrides, *search], return_hydra_config=True)
        step = config.hydra.runtime.choices.get("step")
        return from_hydra(config, step, config_dirs)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(_say_again(error)) from error


def from_hydra(config: DictConfig, step: str | None, config_dirs: Sequence[Path] = ()) -> Experiment:
    """The typed object of a composed configuration; `step` is the name that was chosen."""
    if step is None:
        raise Refused(f"no step is chosen: add +step=NAME; {nearest('', known_steps(*config_dirs))}")
    config = copy.deepcopy(config)
    with open_dict(config):
        config.pop("hydra", None)
    about = known_steps(*config_dirs)[step]
    config.step = StepConfig(about.name, about.parent, about.label, about.group)
    experiment = OmegaConf.to_object(config)
    assert isinstance(experiment, Experiment)
    return experiment


# --- overrides, before Hydra sees them -------------------------------------------------------------------------------


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's own reading of the command line's overrides."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"an override cannot be read: {reason}. Form: key=value, for example model.kernel_size=5") from error


def check_override(override: Override, config_dirs: Sequence[Path] = ()) -> None:
    """Refuse an override whose key or group option does not exist."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete():
        raise Refused(f"{line}: settings cannot be deleted; give {key} another value")
    if key.startswith("hydra"):
        return
    if re.search(r"\$\{\s*[^}]*:", str(line)):
        raise Refused(f"{line}: values that call a resolver (${{name:...}}) are not accepted; write the value itself")
    options = list(known_steps(*config_dirs)) if key == "step" else group_options(key, config_dirs)
    if options:
        _check_choice(override, key, options)
    elif key not in _keys(Experiment):
        raise Refused(f"{line}: there is no setting {key!r}. {_nearest_key(key)}")
    elif key.startswith("step."):
        raise Refused(f"{line}: what a step is called is said in its own file, conf/step/<name>.yaml")


def _check_choice(override: Override, group: str, options: Sequence[str]) -> None:
    value = override.value()
    if group in ("step", "study") and not override.is_add():
        raise Refused(f"{override.input_line}: a {group} is added to the configuration: write +{group}={value}")
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(value)]
    for chosen in values:
        if chosen not in options:
            raise Refused(f"{override.input_line}: there is no {group} {chosen!r}; {nearest(chosen, options)}")


def group_options(group: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """The files of a configuration group, ours and the user's; empty where there is no such group."""
    if not re.fullmatch(r"[a-z_]+", group):
        return []
    return sorted({file.stem for folder in (CONF, *config_dirs) for file in (folder / group).glob("*.yaml")})


@lru_cache
def _keys(cls: type, prefix: str = "") -> tuple[str, ...]:
    """Every dotted key of the schema."""
    keys: list[str] = []
    for name, kind in get_type_hints(cls).items():
        nested = _keys(kind, f"{prefix}{name}.") if isinstance(kind, type) and dataclasses.is_dataclass(kind) else ()
        keys += [f"{prefix}{name}", *nested]
    return tuple(keys)


def _nearest_key(key: str) -> str:
    *room, last = key.split(".")
    siblings = [k for k in _keys(Experiment) if k.split(".")[:-1] == room]
    namesakes = [k for k in _keys(Experiment) if k.split(".")[-1] == last]
    if namesakes:
        return f"Did you mean {' or '.join(namesakes)}?"
    said = nearest(key, siblings or _keys(Experiment))
    return said[0].upper() + said[1:]


def _say_again(error: Exception) -> str:
    """Hydra's and OmegaConf's errors in one line: what, where, and what is allowed."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    message = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    if message.startswith("Ambiguous value"):
        return f"{message}: several values are a sweep; add -m, or write them as a list, [a,b]"
    key = str(getattr(cause, "full_key", None) or "")
    where = f"{key}: " if key and key not in message else ""
    choice = re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", message)
    if choice:
        value, options = choice[1].split(".")[-1], choice[2].split(", ")
        return f"{where}invalid value {value!r}; {nearest(value, options)}"
    limits = _limits(re.sub(r"\[\d+\]$", "", key))
    return f"{where}{message}" + (f"; it must be {_in_words(limits)}" if limits else "")


def _limits(key: str) -> dict[str, float]:
    """The range of a dotted key, empty where it has none."""
    node: Any = Experiment
    for name in key.split("."):
        fields = {field.name: field for field in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
        if name not in fields:
            return {}
        limits, node = fields[name].metadata.get("limits", {}), get_type_hints(node)[name]
    return dict(limits)


# --- values, once composed -------------------------------------------------------------------------------------------


def check(experiment: Experiment) -> None:
    """Refuse values out of range and settings that contradict each other."""
    for key, value, limits in _numbers(experiment):
        _check_number(key, value, limits)
    _check_model(experiment.model)
    _check_recipe(experiment)
    data = experiment.data
    for key, triple in (("data.mean", data.mean), ("data.std", data.std)):
        _require(len(triple) == 3, key, triple, "three numbers, one a colour")
    _require(min(data.std) > 0, "data.std", data.std, "three numbers above 0")
    needs_path = data.source != Source.digits and not data.path
    _require(not needs_path, "data.path", "null", f"the folder that holds the images of data={data.source}")
    _require(bool(NAME.fullmatch(experiment.study.name)), "study.name", experiment.study.name, "letters, digits, _ . -")


def _check_model(model: ModelConfig) -> None:
    depths = model.depths
    _require(len(depths) == 4 and min(depths) >= 1, "model.depths", depths, "four stages of at least one block")
    _require(model.kernel_size % 2 == 1, "model.kernel_size", model.kernel_size, "an odd number, so that it has a centre")


def _check_recipe(experiment: Experiment) -> None:
    recipe = experiment.recipe
    low_high = recipe.crop_scale
    _require(len(recipe.betas) == 2 and all(0 <= b < 1 for b in recipe.betas), "recipe.betas", recipe.betas, "two in [0, 1)")
    in_order = len(low_high) == 2 and 0 < low_high[0] <= low_high[1] <= 1
    _require(in_order, "recipe.crop_scale", low_high, "two areas in (0, 1], the lesser first")
    shorter = (
        f"less than recipe.epochs={recipe.epochs}; shorten it too, for example recipe.warmup_epochs={0.15 * recipe.epochs:g}"
    )
    _require(recipe.warmup_epochs < recipe.epochs, "recipe.warmup_epochs", f"{recipe.warmup_epochs:g}", shorter)
    lr = peak_lr(experiment)
    _require(recipe.min_lr <= lr, "recipe.min_lr", recipe.min_lr, f"at most the peak learning rate {lr:g}")
    mixes = recipe.mixup > 0 or recipe.cutmix > 0
    _require(
        not mixes or recipe.batch_size % 2 == 0,
        "recipe.batch_size",
        recipe.batch_size,
        "even where mixup or cutmix is on (images are mixed in pairs)",
    )
    text = recipe.randaugment
    _require(
        text is None or bool(RANDAUGMENT.fullmatch(text)), "recipe.randaugment", text, "null, or timm's form rand-m9-mstd0.5-inc1"
    )


def peak_lr(experiment: Experiment) -> float:
    """The learning rate after warm-up: linear in the batch (Table 5: 4e-3 for 4096 images)."""
    recipe = experiment.recipe
    return recipe.lr * recipe.batch_size / recipe.lr_batch


def _numbers(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, float]]]:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{prefix}{field.name}.")
        elif "limits" in field.metadata and value is not None:
            yield f"{prefix}{field.name}", value, field.metadata["limits"]


def _check_number(key: str, value: float, limits: dict[str, float]) -> None:
    holds = {
        "above": lambda bound: value > bound,
        "least": lambda bound: value >= bound,
        "below": lambda bound: value < bound,
        "most": lambda bound: value <= bound,
    }
    ok = math.isfinite(value) and all(holds[name](bound) for name, bound in limits.items())
    _require(ok, key, value, _in_words(limits))


def _in_words(limits: dict[str, float]) -> str:
    words = {"above": "above {:g}", "least": "at least {:g}", "below": "below {:g}", "most": "at most {:g}"}
    return " and ".join(words[name].format(bound) for name, bound in limits.items()) or "finite"


def _require(ok: bool, key: str, value: Any, allowed: str) -> None:
    if not ok:
        raise Refused(f"{key}={value}: must be {allowed}")


# --- what has no effect ----------------------------------------------------------------------------------------------


def _check_step_acts(experiment: Experiment, overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> None:
    """A step must prove that it acted: its network differs from its parent's at the same scale."""
    scale = tuple(o for o in overrides if o.lstrip("+").startswith("scale"))
    step, parent = experiment.step.name, experiment.step.parent
    after, before = (_read((*scale, f"+step={name}"), config_dirs).model for name in (step, parent))
    if layout(after) == layout(before):
        settings = f"at scale {experiment.scale.name}" + (f" with {', '.join(scale)}" if scale else "")
        raise Refused(f"step {step!r} leaves the network of its parent {parent!r} as it was {settings}: a step must change it")


def warnings(experiment: Experiment, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> list[str]:
    """Settings that can have no effect in this combination, each in a sentence."""
    said = {override.key_or_group for override in parse(overrides)}
    recipe, data, model = experiment.recipe, experiment.data, experiment.model
    idle = {
        "model.block_bias": model.block_bias and model.norm == Norm.batch and model.block_norms == Keep.all
        and "a BatchNorm follows every convolution of the block and takes the bias out again",
        "recipe.mixup_switch_prob": not (recipe.mixup and recipe.cutmix) and "it chooses between mixup and cutmix, not both on",
        "data.path": data.source == Source.digits and "the digits come with scikit-learn",
        "data.download": data.source in (Source.digits, Source.folder, Source.imagenet)
        and f"{data.source} cannot be downloaded",
        **{f"wandb.{key}": experiment.logger == Logger.none and "logger=none" for key in ("mode", "project", "entity")},
    }  # fmt: skip
    found = [f"{key} has no effect here: {why}" for key, why in idle.items() if why and key in said]
    for override in overrides:
        key = override.split("=")[0]
        if key.startswith("scale.") and key not in ("scale.name", "scale.start", "scale.end"):
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


def identity(experiment: Experiment, fingerprint: str) -> str:
    """Eight hex digits of everything that changes the result, and of nothing else.

    Model, data (its fingerprint, not its path), recipe and seed count; the step's name, output folder, logger,
    device and number of workers do not. Runs of equal identity are the same run.
    """
    what = {
        "model": plain(experiment.model),
        "data": {k: v for k, v in plain(experiment.data).items() if k not in ("path", "download", "workers")},
        "fingerprint": fingerprint,
        "recipe": {k: v for k, v in plain(experiment.recipe).items() if k != "name"},
        "seed": experiment.seed,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


__all__ = ["check", "compose", "from_hydra", "identity", "peak_lr", "plain", "warnings"]
