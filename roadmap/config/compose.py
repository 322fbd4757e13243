"""From a command line to one checked `Experiment`, or to a message that says what to change; and a run's identity.

Hydra composes `conf/` under the schema; its errors are rewritten (`messages`) with the value, the allowed values and the
nearest name. No torch here: a bad setting is refused in about a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from roadmap.base.errors import Refused, nearest
from roadmap.base.paths import CONF
from roadmap.config.checks import check
from roadmap.config.kept import kept
from roadmap.config.messages import explain
from roadmap.config.overrides import RESOLVER, check_override, config_folders, parse, search_path, values_of
from roadmap.config.parts import resolve
from roadmap.config.recipes import conf_file
from roadmap.config.schema import ROOMS, Experiment, RecipeConfig, StepConfig
from roadmap.config.steps import Step, all_steps, files_of, known_steps

ConfigStore.instance().store(name="schema", node=Experiment)


def compose(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """Compose, check and return the experiment that these Hydra overrides describe.

    Raises:
        Refused: for anything that no run could start from.

    """
    return _compose(tuple(overrides), config_folders(config_dirs))


@kept
def _compose(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    experiment = compose_unchecked(overrides, config_dirs)
    check(experiment, config_dirs)
    return experiment


def with_settings(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The same experiment with settings of its rooms set otherwise, checked as by `compose`; a hundred times faster.

    `overrides` are of network, recipe or data: `model.kernel_size=3`, `recipe.label_smoothing=0`.
    """
    values: dict[str, dict[str, Any]] = {}
    for room, name, value in map(_setting, overrides):
        values.setdefault(room, {})[name] = value
    rooms = {room: dataclasses.replace(getattr(experiment, room), **own) for room, own in values.items()}
    changed = dataclasses.replace(experiment, **rooms)
    check(changed)
    return changed


@lru_cache(maxsize=4096)
def _setting(override: str) -> tuple[str, str, Any]:
    """Room, name and typed value of `model.kernel_size=3`."""
    for parsed in parse([override]):
        check_override(parsed)
    room, name = override.split("=")[0].split(".", 1)
    try:
        found = OmegaConf.merge({room: OmegaConf.structured(ROOMS[room])}, OmegaConf.from_dotlist([override]))
        value = OmegaConf.select(found, f"{room}.{name}")
        return room, name, OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise Refused(explain(error, said=[override])) from error


def add_placeholder_step(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """Add the first step: Hydra needs one even when a timm model is trained; Refused for both a step and a reference."""
    words = list(overrides)
    given = {override.key_or_group: override for override in parse(words)}
    if "reference" not in given or given["reference"].value() is None:
        return words
    if "step" in given:
        raise Refused(
            f"{given['reference'].input_line} and {given['step'].input_line}: a run trains a step or a reference; leave one out"
        )
    return [*words, f"+step={next(iter(known_steps(*config_dirs)))}"]


def completed(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """The overrides as Hydra gets them: with a step in any case, and with what this has of its own beside the chosen recipe.

    That is `step/<step>/<recipe>.yaml`, where there is one, after that of the step that its file begins with. It comes first,
    then the study, whose own settings of the recipe win over it, then the step, whichever of the two is said first. Refused
    where several such steps or recipes are swept, of which Hydra would give all jobs one.
    """
    words = add_placeholder_step(overrides, config_dirs)
    given = {override.key_or_group: override for override in parse(words)}
    steps = values_of(given["step"]) if "step" in given else []
    recipes = values_of(given["recipe"]) if "recipe" in given else []
    recipes = recipes or [_default_recipe(given, config_dirs)]
    own = [
        (other, recipe)
        for step, recipe in product(steps, recipes)
        for other in _own_first(step, config_dirs)
        if any((folder / "step" / other / f"{recipe}.yaml").is_file() for folder in (CONF, *config_dirs))
    ]
    if own and len(steps) * len(recipes) > 1:
        step, recipe = own[0]
        raise Refused(f"+step={step}: cannot be swept beside recipe={recipe}, where it has settings of its own; run it alone")
    studies = [word for word in words if word.startswith("+study=")]
    rest = [word for word in words if word not in studies]
    return [*(f"+step/{step}@recipe={recipe}" for step, recipe in own), *studies, *rest]


def _own_first(step: str, config_dirs: Sequence[Path]) -> list[str]:
    """The steps whose settings beside a recipe this step has, its own last."""
    known = all_steps(*config_dirs)
    return [other.name for other in files_of(known[step], known)][::-1] if step in known else []


def _default_recipe(given: Mapping[str, Override], config_dirs: Sequence[Path]) -> str:
    """The recipe that stands where the command line names none: the study's, the task's, or the default."""
    folders = (CONF, *config_dirs)
    study = [folder / "study" / f"{given['study'].value()}.yaml" for folder in folders] if "study" in given else []
    task = str(given["task"].value()) if "task" in given else _last_said("task", [CONF / "config.yaml", *study])
    return _last_said("recipe", [CONF / "config.yaml", *(folder / "task" / f"{task}.yaml" for folder in folders), *study])


def _last_said(group: str, files: Sequence[Path]) -> str:
    """The option of a group in the defaults lists of these files, as far as they are there and Hydra can read them."""
    option = ""
    for file in filter(Path.is_file, files):
        try:
            for entry in _chosen(file, file.stat().st_mtime_ns):
                option = entry.get(group) or entry.get(f"override /{group}") or option
        except (OmegaConfBaseException, YAMLError, UnicodeDecodeError):
            return option  # Hydra says what is wrong with it
    return option


@lru_cache(maxsize=256)
def _chosen(file: Path, changed: int) -> list[DictConfig]:
    """The options that the defaults list of a file names, as it is since it changed."""
    content = OmegaConf.load(file)
    entries = (content.get("defaults") or []) if isinstance(content, DictConfig) else []
    return [entry for entry in entries if isinstance(entry, DictConfig)]


@kept
def compose_unchecked(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    """Compose without the checks that need more than one field."""
    return with_room_to_warm_up(_composed(overrides, config_dirs), overrides, config_dirs)


def with_room_to_warm_up(experiment: Experiment, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Experiment:
    """The same, but that a warm-up for which a length said alone has no room keeps its share of the training."""
    recipe = experiment.recipe
    if recipe.updates or recipe.warmup_updates is not None or recipe.warmup_epochs < recipe.epochs:
        return experiment
    whole = at_full_length(overrides, config_dirs)
    if whole is None:
        return experiment
    warmup = round(recipe.epochs * whole.warmup_epochs / whole.epochs, 6)
    return dataclasses.replace(experiment, recipe=dataclasses.replace(recipe, warmup_epochs=warmup))


def at_full_length(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> RecipeConfig | None:
    """The recipe at its own length, where the command line sets another one in epochs and says nothing of the warm-up."""
    said = [override.key_or_group for override in parse(overrides)]
    if "recipe.epochs" not in said or set(said) & {"recipe.warmup_epochs", "recipe.warmup_updates", "recipe.updates"}:
        return None
    named = zip(overrides, said, strict=True)
    others = tuple(word for word, key in named if key != "recipe.epochs" and not word.startswith("+step/"))
    return compose_unchecked(others, config_folders(config_dirs)).recipe


def _composed(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Experiment:
    for override in parse(overrides):
        check_override(override, config_dirs)
    derived = None if config_dirs else _on_parent(overrides)
    if derived is not None:
        return derived
    words = completed(overrides, config_dirs)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra_compose("config", [*words, *search_path(config_dirs)], return_hydra_config=True)
            if config_dirs:
                _check_foreign(config, _own_hydra())
        if config.parts and not any(word.startswith("parts=") for word in words):
            raise Refused(f"parts={config.parts}: set in a file; only the command line may name what is run")
        for group, key in (("data", "source"), ("head", "name"), ("engine", "name")):
            chosen, value = config.hydra.runtime.choices[group], config[group][key]
            if conf_file(group, chosen).get(key, str(value)) != str(value):
                raise Refused(f"{group}.{key}={value}: set in a file beside {group}={chosen}; say override /{group}: {value}")
        experiment = from_hydra(config, config.hydra.runtime.choices.get("step"), config_dirs)
        if experiment.reference is not None and not any(word.startswith("reference=") for word in words):
            raise Refused(
                f"reference={experiment.reference}: set in a file; say it on the command line, or study.references in the file"
            )
        return experiment
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(explain(error, config_dirs, overrides)) from error
    except MarkedYAMLError as error:  # it knows the file's path and line
        mark = error.problem_mark
        place = f"{mark.name}, line {mark.line + 1}" if mark else "a file of --config-dir"
        raise Refused(f"{place}: not readable as YAML: {error.problem}") from error


def _on_parent(overrides: tuple[str, ...]) -> Experiment | None:
    """One of our own steps as its change to its parent, ten times faster than Hydra composes it; None where Hydra must.

    The change comes after everything else, and single settings of the command line after the change.
    """
    given = {override.key_or_group for override in parse(overrides)}
    steps = [word.removeprefix("+step=") for word in overrides if word.startswith("+step=")]
    step = steps[0] if len(steps) == 1 else ""
    change = conf_file("step", step)
    defaults = change.get("defaults", [])
    simple = len(defaults) == 2 and defaults[1] == "_self_" and change.keys() <= {"defaults", "step", *ROOMS}
    if not simple or given & {"model", "reference"} or any(word.startswith("+step/") for word in completed(overrides)):
        return None
    parent = compose_unchecked(tuple(f"+step={defaults[0]}" if word.startswith("+step=") else word for word in overrides), ())
    rooms = {room: change[room] for room in ROOMS if room in change}
    kept = {room: {key: value for key, value in of.items() if f"{room}.{key}" not in given} for room, of in rooms.items()}
    config: Any = OmegaConf.merge({"scale": OmegaConf.structured(parent.scale)}, *({r: getattr(parent, r)} for r in kept), kept)
    changed: dict[str, Any] = {room: OmegaConf.to_object(config[room]) for room in kept}
    return dataclasses.replace(parent, step=_named(all_steps()[step]), **changed)


def _named(step: Step) -> StepConfig:
    return StepConfig(**{entry.name: getattr(step, entry.name) for entry in dataclasses.fields(StepConfig)})


def from_hydra(config: DictConfig, step: str | None, config_dirs: Sequence[Path] = ()) -> Experiment:
    """The typed object of a composed configuration, which loses Hydra's own part; `step` is the name that was chosen."""
    if step is None:
        raise Refused(f"no step is chosen: add +step=NAME; {nearest('', all_steps(*config_dirs))}")
    with open_dict(config):
        config.pop("hydra", None)
    experiment = OmegaConf.to_object(config)
    assert isinstance(experiment, Experiment)
    experiment.parts = resolve(experiment.parts, config_folders(config_dirs))
    if experiment.reference is not None:
        return dataclasses.replace(experiment, step=StepConfig(experiment.reference, None, experiment.reference))
    return dataclasses.replace(experiment, step=_named(all_steps(*config_dirs)[step]))


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
    experiment = {key: config[key] for key in config if key != "hydra"}
    for value in _texts(OmegaConf.to_container(OmegaConf.create(experiment), resolve=False)):
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
