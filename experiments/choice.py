"""What a recipe was chosen by: the runs of `data.held_out`, one line for each combination of settings, one column for each end.

    python -m roadmap.run -m +study=imagenette study.name=choice +step=resnet,separate_downsampling data.held_out=0.1 \
        data.path=imagenette160.zip recipe.lr=1e-3,2e-3,4e-3
    python experiments/choice.py experiments/choice > experiments/imagenette/choice.md

Top-1 on the held-out training images, in percent: mean over seeds (with the deviation where there are several). The last column
is the mean over the ends, which the choice goes by.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd


def main(folder: Path) -> str:
    """The table in Markdown."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("runs/*/result.json"))]
    settings = [{**result["recipe"], **result["data"], "drop_path": result["model"]["drop_path"]} for result in results]
    varied = [key for key in settings[0] if len({str(one.get(key)) for one in settings}) > 1 and key != "fingerprint"]
    runs = pd.DataFrame([
        {key: str(one[key]) for key in varied} | {"step": result["step"]["name"], "top1": result["top1"]}
        for one, result in zip(settings, results, strict=True)
    ])  # fmt: skip
    steps = list(dict.fromkeys(runs["step"]))
    grouped = runs.groupby([*varied, "step"], sort=False)["top1"].agg(["mean", "std"]).unstack("step")
    table = pd.DataFrame({step: [_text(*pair) for pair in grouped.xs(step, axis=1, level="step").values] for step in steps})
    table["mean"] = grouped["mean"].mean(axis=1, skipna=False).map("{:.1f}".format).values
    table.index = grouped.index
    shown = table.reset_index().sort_values("mean", ascending=False)
    held = results[0]["data"]
    about = f"{held['source']}, {held['image_size']} px, scale {results[0]['scale']}: {held['val']} of {held['train'] + held['val']}"
    return f"{about} training images held out; {results[0]['recipe']['epochs']} epochs; {len(results)} runs.\n\n" + "\n".join(
        "| " + " | ".join(map(str, line)) + " |" for line in [shown.columns, ["---"] * len(shown.columns), *shown.values]
    )


def _text(mean: float, deviation: float) -> str:
    return f"{mean:.1f}" + ("" if pd.isna(deviation) else f" ± {deviation:.1f}")


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
