"""What a shell may put in the place of a word that is half typed: commands, groups and their options, keys and their values."""

from __future__ import annotations

from collections.abc import Sequence

from roadmap.config.overrides import OF_FILES, group_options
from roadmap.config.settings import GROUPS, sections, settings

BASH = r"""# roadmap: put this into ~/.bashrc (zsh: after `autoload bashcompinit; bashcompinit`):  source <(roadmap --completion)
_roadmap() {
  local IFS=$'\n'
  COMPREPLY=($(roadmap --complete "${COMP_LINE:0:COMP_POINT}"))
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
  return 0
}
complete -o default -F _roadmap roadmap
"""
COMPOSED = ("run", "sweep", "score")  # the commands that take overrides


def complete(line: str, commands: Sequence[str]) -> list[str]:
    """The words that the last one of `roadmap ...` may become; behind a = all that follows it, as bash wants it."""
    *before, word = f"{line}|".split()[1:] or ["|"]  # the bar keeps an empty last word
    word = word[:-1]
    if not before:
        return [command for command in commands if command.startswith(word)]
    if before[0] not in COMPOSED:
        return []
    key, given, value = word.rpartition("=")
    known = _values(key.lstrip("+")) if given else _keys(before[0])
    chosen, comma, last = value.rpartition(",") if given else ("", "", word)
    return [f"{chosen}{comma}{name}" for name in known if name.startswith(last)]


def _keys(command: str) -> list[str]:
    """What may stand before a =; a run adds its step and study with a plus."""
    added = ("step", "study") if command == "run" else ()
    groups = [f"{'+' * (group in added)}{group}=" for group in GROUPS if group in added or group != "step"]
    return [
        *groups,
        *(f"{one.key}=" for prefix, kind in sections() for one in settings(prefix, kind) if not OF_FILES.fullmatch(one.key)),
    ]


def _values(key: str) -> list[str]:
    """The options of a group, or the choices of a setting that has any."""
    values = next((one.values for prefix, kind in sections() for one in settings(prefix, kind) if one.key == key), ())
    return group_options(key) or [value for value, _ in values if len(values) > 1]
