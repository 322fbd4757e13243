"""From a command line to one checked `Experiment`; a run's identity. No torch here."""

from enum import StrEnum

from roadmap.base import redaction
from roadmap.base.paths import CONF
from roadmap.config import schema

redaction.PUBLIC |= {path.stem for path in CONF.rglob("*.yaml")}
for kind in vars(schema).values():
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        redaction.PUBLIC |= {item.value for item in kind}
