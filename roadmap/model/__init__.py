"""The networks; importing this room also registers them with timm as `roadmap_<step>` and `roadmap_<step>_<scale>`."""

from roadmap.model.build import build_model, build_network
from roadmap.model.network import Network
from roadmap.model.registry import register
from roadmap.model.weights import from_timm, timm_twin, to_timm

register()

__all__ = ["Network", "build_model", "build_network", "from_timm", "timm_twin", "to_timm"]
