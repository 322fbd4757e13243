"""The command line's overrides, checked before Hydra sees them: does the setting exist, does the choice exist.

What is refused is named with what is allowed and with the nearest name. Of Hydra's own settings only those of its
launcher and sweeper are open: the rest can run code or move files that this program is responsible for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException

from roadmap.base.errors import Refused, nearest
from roadmap.base.paths import CONF
from roadmap.config.checks import SWITCH, allowed_of
from roadmap.config.kept import renew
from roadmap.config.schema import FOUND_OUT, entries
from roadmap.config.steps import all_steps, check_whole

RESOLVER = re.compile(r"\$\{\s*[^}]*:")
HYDRA = re.compile(
    r"hydra/(launcher|sweeper(/sampler)?)|hydra\.(launcher|sweeper)\.(?!_|params|custom|.*\._)[a-z_.]+|hydra\.verbose"
)

OF_FILES = re.compile(r"step\..*|(recipe|scale|task|head|engine)\.name|scale\.(start|end)|data\.source")  # what an option is

MOST_RUNS = 100_000  # of one command


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's own reading of the command line's overrides."""
    return list(map(_parsed, overrides))


@lru_cache(maxsize=4096)
def _parsed(override: str) -> Override:
    """Read once: a list of a thousand seeds takes Hydra's parser a second."""
    try:
        return OverridesParser.create().parse_overrides([override])[0]
    except HydraException as error:
        raise Refused(
            f"an override cannot be read: {override!r}. Form: key=value, for example model.kernel_size=5{_hint(override)}"
        ) from error


def _hint(override: str) -> str:
    """What the writer of an override that cannot be read may have to do."""
    key, _, value = override.partition("=")
    if "{" in override:
        return "; within a list text is quoted, set: ['recipe.lr=1e-3']"
    if key != key.strip() and value:
        return "; no space stands before ="
    if not value or value[0] in "['\"" or not key:
        return ""
    return f'; such text has quotes of its own within the shell\'s: "{key}={quoted(value)}"'


def check_override(override: Override, config_dirs: Sequence[Path] = ()) -> None:
    """Refuse an override whose key or group option does not exist."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete():
        raise Refused(f"{line}: settings cannot be deleted; give {key} another value")
    if RESOLVER.search(str(line)):
        raise Refused(f"{line}: values that call a resolver (${{name:...}}) are not accepted; write the value itself")
    if key.startswith("hydra"):
        _check_hydra(override)
        return
    if override.package is not None:
        raise Refused(f"{line}: a group cannot be put elsewhere; write {key}=NAME")
    if override.is_sweep_override():
        _check_sweep(override)
    if key in ("by_head", "by_scale"):  # chosen by the recipe, the head and the scale
        raise Refused(f"{line}: what a recipe has of its own for a head or a scale is taken by itself; set recipe.KEY=VALUE")
    if key == "wandb":  # its folder in conf/ holds a file for W&B, no choices
        raise Refused(f"{line}: set one of {', '.join(k for k in keys() if k.startswith('wandb.'))}")
    if options := group_options(key, config_dirs):
        _check_choice(override, key, options, config_dirs)
    elif OF_FILES.fullmatch(key):
        group = key.split(".")[0]
        raise Refused(
            f"{line}: said in a file of its own, conf/{group}/<name>.yaml or one of yours; choose it, "
            f"{'+' * (group == 'step')}{group}=NAME, {nearest(str(override.value()), group_options(group, config_dirs))}"
        )
    elif key not in keys():
        raise Refused(f"{line}: there is no setting {key!r}. {nearest_key(key)}")
    elif allowed_of(key) == SWITCH and type(override.value()) is int and override.value() not in (0, 1):
        raise Refused(f"{line}: must be {SWITCH}")  # OmegaConf takes any other number for true


def _check_hydra(override: Override) -> None:
    if not HYDRA.fullmatch(override.key_or_group):
        allowed = "hydra/launcher, hydra/sweeper, hydra/sweeper/sampler, hydra.launcher.*, hydra.sweeper.*, hydra.verbose"
        raise Refused(f"{override.input_line}: this setting of Hydra's is not open; {nearest('', [allowed])}")


def _check_sweep(override: Override) -> None:
    value = override.value()
    if isinstance(value, RangeSweep) and not _is_short(value):
        raise Refused(f"{override.input_line}: must have a step other than 0, and at most {MOST_RUNS} values")
    if isinstance(value, Glob) or (isinstance(value, Sweep) and not override.is_discrete_sweep()):
        hint = ", or add hydra/sweeper=optuna" if isinstance(value, IntervalSweep) else ""
        raise Refused(f"{override.input_line}: cannot be swept; list the values, {override.key_or_group}=a,b{hint}")


def _is_short(values: RangeSweep) -> bool:
    start, stop, step = (float(end or 0) for end in (values.start, values.stop, values.step))
    return step != 0 and abs((stop - start) / step) <= MOST_RUNS


def _check_choice(override: Override, group: str, options: Sequence[str], config_dirs: Sequence[Path]) -> None:
    value = override.value()
    if group in ("step", "study") and not override.is_add():
        raise Refused(f"{override.input_line}: a {group} is added to the configuration: write +{group}={value}")
    values = values_of(override)
    if group == "step":
        check_whole([value for value in values if value not in options], config_dirs)
    for chosen in values:
        if chosen not in options:
            raise Refused(f"{override.input_line}: there is no {group} {chosen!r}; {nearest(chosen, options)}")
        for file in (folder / group / f"{chosen}.yaml" for folder in config_dirs if group != "step"):
            _check_written(file)


def _check_written(file: Path) -> None:
    """Refuse a file of one's own that holds nothing, which would change nothing, or no text."""
    try:
        if file.is_file() and not file.read_text(encoding="utf-8").strip():
            raise Refused(f"{file}: holds nothing")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: not readable as YAML: {error}") from error


def values_of(override: Override) -> list[str]:
    """What an override sets, of a sweep each of its values."""
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]


def group_options(group: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """The files of a configuration group, ours and the user's, steps in their order; empty where there is no such group."""
    if group == "step":
        return list(all_steps(*config_dirs))
    if not re.fullmatch(r"[a-z_]+", group):
        return []
    files = [file for folder in (CONF, *config_dirs) for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if file.is_file()})


def quoted(value: str) -> str:
    """A text as Hydra reads it back, whatever is in it."""
    backslashes = re.sub(r"(\\+)('|$)", r"\1\1\2", value)  # Hydra takes them for escapes only before a quote
    return "'" + backslashes.replace("'", "\\'") + "'"


def search_path(folders: Sequence[Path]) -> list[str]:
    """The override that has Hydra look into these folders too; none for none."""
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] * bool(folders)


def config_folders(paths: Sequence[Path | str]) -> tuple[Path, ...]:
    """Folders with steps and studies of the user's own, made absolute, as they are now; refused where they are not there."""
    if not all(str(path).strip() for path in paths):
        raise Refused("--config-dir '': an empty word is no folder")
    folders = tuple(Path(path).expanduser().absolute() for path in paths)
    for folder in folders:
        if not folder.is_dir():
            raise Refused(f"--config-dir {folder}: there is no such folder")
    renew(folders)
    return folders


def keys() -> list[str]:
    """Every dotted key that may be said."""
    return [key for key in entries() if key not in FOUND_OUT and not OF_FILES.fullmatch(key)]


def nearest_key(key: str) -> str:
    """A sentence with the settings that the writer of `key` may have meant."""
    *room, last = key.split(".")
    siblings = [k for k in keys() if k.split(".")[:-1] == room]
    if namesakes := [k for k in keys() if k.split(".")[-1] == last]:
        return f"Did you mean {' or '.join(namesakes)}?"
    sentence = nearest(key, siblings or keys())
    return sentence[0].upper() + sentence[1:]
