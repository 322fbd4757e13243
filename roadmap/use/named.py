"""What a command line says of a trained network, checked without torch, before anything is fetched or built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roadmap.base.errors import Refused
from roadmap.config.checks import TIMM
from roadmap.config.compose import compose
from roadmap.model.names import check_weights
from roadmap.record.weights import finished_run, weights_file


def check_named(said: str) -> str:
    """The name of the network that a run's folder or `timm:NAME` stands for.

    Raises:
        Refused: where the folder holds no finished run, or not its weights; where timm's sources hold no such model.

    """
    if said.startswith(TIMM):
        return check_weights(said)
    folder = Path(said).expanduser()
    weights_file(folder)
    return finished_run(folder).run


def check_asked(said: str, words: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """Refuse other settings than data and runtime, and timm's weights (fetched later) without data or with unknown ones.

    Raises:
        Refused: where they are not.

    """
    for word in words:
        if not word.startswith(("data=", "data.", "runtime.")):
            raise Refused(f"{word}: only data=NAME and settings under data. and runtime. are for a network that is trained")
    if not said.startswith(TIMM):
        return
    if not any(word.startswith("data=") for word in words):
        raise Refused(f"{said}: on which images? Add data=NAME data.path=FOLDER, for example data=imagenet")
    compose(["+step=resnet", *words], config_dirs)
