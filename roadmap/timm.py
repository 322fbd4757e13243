"""`import roadmap.timm` enters every step in timm's registry, as `roadmap_<step>` and `roadmap_<step>_<scale>`."""

from roadmap.model.registry import register

register()
