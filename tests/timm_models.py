"""A plugin of pytest that has timm's own tests of its models examine ours: `pytest -p timm_models TIMM/tests/test_models.py`.

They list the models that they examine: here those that match `TIMM_MODELS` (a pattern; `roadmap_*` where it is not set),
the ones that timm's file picks by their module among them.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch

import timm

import roadmap.timm  # noqa: F401

MODELS = os.environ.get("TIMM_MODELS", "roadmap_*")
_list_models = timm.list_models


def list_models(filter="", module="", pretrained=False, **options):
    """Timm's own, of ours alone: none that is asked for by timm's names, and none that has weights to download."""
    names = [] if filter or pretrained else _list_models(**options)
    return [name for name in names if fnmatch(name, MODELS)]


timm.list_models, timm.list_pretrained = list_models, lambda *_, **__: []
