"""`import roadmap.timm` enters every step in timm's registry, as `roadmap_<step>` and `roadmap_<step>_<scale>`."""

from roadmap.model.registry import register
from roadmap.use.trained import load_trained

__all__ = ["load_trained", "register"]

register()
