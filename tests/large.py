"""Studies that nobody trained, as large as one likes, with names as long and hostile as one likes."""

from __future__ import annotations

import json
from random import Random

HOSTILE = (
    "$x^2$ <b>&_% \\frac{1}{2} ` #1 wide WWWWWWWWWWW"  # 40 letters and more, that matplotlib and XML would take for their own
)
GROUPS = ("Macro design of the whole network", "ResNeXt", "Inverted bottleneck", "Large kernels", "Micro design")


def name_of(row, length=40):
    """A label of so many letters, other in each row; every fifth is hostile."""
    text = HOSTILE if row % 5 == 3 else "separate what normalises from convolution and pooling"
    return f"{row} {text}"[:length].rstrip()


def large_study(folder, rows, *, seeds=3, length=40, groups=True, references=0, epochs=6, kind="roadmap"):
    """A roadmap of so many rows: each is compared with the one before, every sixth is a side branch."""
    random = Random(rows)
    steps = [_step(i, rows, length, groups, references, kind) for i in range(rows + references)]
    planned = [
        {**step, "step": step["name"], "overrides": [], "toggles": ["kernel_size"], "runs": _runs(step, seeds)} for step in steps
    ]
    compared = [step for step in steps if step["parent"]]
    about = {
        "study": "large", "question": "What does each step add on top of all before it, whatever it may be called in the end?",
        "scale": {"name": "atto", "start": "ResNet-atto", "end": "ConvNeXt-atto"}, "data": "digits", "image_size": 32,
        "epochs": epochs, "recipe": "short", "seeds": list(range(seeds)), "rows": planned, "kind": kind,
        "effects": [{"name": s["name"], "label": s["label"], "weights": {s["name"]: 1, s["parent"]: -1}} for s in compared],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(about))
    lines = [_line(step, i, seed, epochs, random) for i, step in enumerate(steps) for seed in range(seeds)]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


WORDS = {"leave_one_out": "without", "add_one_in": "only"}


def _step(i, rows, length, groups, references, kind):
    reference, side = i >= rows, i % 6 == 5
    before = None if reference or i == 0 else f"k{i - 1 - ((i - 1) % 6 == 5)}"
    label = name_of(i, length) + " (reference)" * reference
    if kind in WORDS and i:
        return _step_of_view(i, f"{WORDS[kind]}_k{i}", f"{WORDS[kind]} {label}")
    group = GROUPS[i * len(GROUPS) // rows] if groups and not reference else ""
    return {
        "name": f"k{i}",
        "parent": before,
        "label": label,
        "group": group,
        "adopted": not side and not reference,
        "reference": reference,
    }


def _step_of_view(i, name, label):
    """Each row of it is compared with the first."""
    return {"name": name, "parent": "k0", "label": label, "group": "", "adopted": True, "reference": False}


def _runs(step, seeds):
    return [f"{step['name']}-s{seed}-0" for seed in range(seeds)]


def _line(step, i, seed, epochs, random):
    top1 = 70 + 1.5 * (i % 9) + random.gauss(0, 0.5 + (i % 4))
    history = [
        [2 - 0.2 * e, 1.8 - 0.15 * e + random.gauss(0, 0.05), top1 - 40 * 0.5**e + random.gauss(0, 1)] for e in range(epochs)
    ]
    return {
        "run": f"{step['name']}-s{seed}-0", "step": step, "seed": seed, "status": "done", "top1": top1, "scale": "atto",
        "gmacs": 0.009 + 0.0002 * i * (1 + i % 3), "params_m": 1.0, "images_per_second": 80.0 + 3 * (i % 7) + i / 10,
        "data": {"fingerprint": "f", "val": 714}, "recipe": {"lr": 1.0}, "precision": "float32", "history": history,
    }  # fmt: skip
