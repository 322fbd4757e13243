"""The tab key, in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

SCRIPT = """
roadmap() {{ "{python}" -m roadmap.cli "$@"; }}
source <(roadmap --completion)
for COMP_LINE in "$@"; do
  COMP_POINT=${{#COMP_LINE}}
  _roadmap 2> /dev/null  # compopt works inside a completion alone
  echo "${{COMPREPLY[*]}}"
done
complete -p roadmap
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_tab_key_completes_commands_settings_and_values():
    lines = {
        "roadmap sw": "sweep",
        "roadmap run +st": "+step= +study=",
        "roadmap run +step=inv": "inverted_bottleneck",
        "roadmap run -m +step=resnet,inv": "resnet,inverted_bottleneck",  # bash puts it in the place of resnet,inv
        "roadmap  run   +step=inv": "inverted_bottleneck",
        "roadmap cost ": "",
        "roadmap run +step=gelu model.act": "model.activation=",
        "roadmap run +step=gelu model.activation=": "relu gelu",
        "roadmap sweep study=dig": "digits digits_steps_x_recipes digits_training",
        "roadmap sweep study=digits recipe=s": "short smoke",
        "roadmap report exp": "",  # left to bash, which knows the folders
    }
    script = SCRIPT.format(python=sys.executable)
    done = subprocess.run(["bash", "-c", script, "bash", *lines], capture_output=True, text=True, timeout=120, check=True)
    *replies, registered = done.stdout.splitlines()
    assert dict(zip(lines, replies, strict=True)) == lines
    assert "-F _roadmap roadmap" in registered
