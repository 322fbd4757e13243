"""What a recipe was chosen by: the runs of `data.held_out`, one line for each combination of settings, one column for each end.

    python -m roadmap.run -m +study=imagenette study.name=choice +step=resnet,separate_downsampling data.held_out=0.1 \
        data.path=imagenette160.zip recipe.lr=1e-3,2e-3,4e-3
    python experiments/choice.py experiments/choice > experiments/imagenette/choice.md

Top-1 on the held-out training images, in percent: mean over seeds (with the deviation where there are several). The last column
is the mean over the ends, which the choice goes by; there is none where a run is missing or diverged.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from roadmap.base.tables import Column, as_markdown


def main(folder: Path) -> str:
    """The table in Markdown."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("runs/*/result.json"))]
    if not results or not all(result["data"].get("held_out") for result in results):
        sys.exit(f"{folder}: needs runs with data.held_out above 0, and no others: a choice never sees the evaluation images")
    settings = [_settings(result) for result in results]
    varied = [key for key in settings[0] if len({str(one.get(key)) for one in settings}) > 1]
    steps = sorted({result["step"]["name"] for result in results})
    scores: dict[tuple[Any, ...], dict[str, list[float | None]]] = {}
    for one, result in zip(settings, results, strict=True):
        scores.setdefault(tuple(one[key] for key in varied), {}).setdefault(result["step"]["name"], []).append(result["top1"])
    rows = [dict(zip(varied, values, strict=True)) | _row(found, steps) for values, found in scores.items()]
    rows.sort(key=lambda row: -1.0 if row["mean"] is None else row["mean"], reverse=True)
    columns = [*(Column(key, key) for key in varied), *(Column(step, step) for step in steps), Column("mean", "mean", "{:.1f}")]
    first = results[0]["data"]
    count = f"{first['val']} of {first['train'] + first['val']}"
    about = f"{first['source']}, {first['image_size']} px, scale {results[0]['scale']}: {count} training images held out"
    return f"{about}; {results[0]['recipe']['epochs']} epochs; {len(results)} runs.\n\n{as_markdown(rows, columns, '')}"


def _settings(result: dict[str, Any]) -> dict[str, Any]:
    """What may be chosen: recipe and data, and of the model what is the same at both ends."""
    data = {key: value for key, value in result["data"].items() if key not in ("fingerprint", "train", "val")}
    return {"scale": result["scale"], **data, **result["recipe"], "drop_path": result["model"]["drop_path"]}


def _row(found: dict[str, list[float | None]], steps: list[str]) -> dict[str, Any]:
    means: dict[str, float | None] = {}
    cells: dict[str, Any] = {}
    for step in steps:
        values = found.get(step, [])
        whole = [value for value in values if value is not None]
        lost = len(values) - len(whole)
        means[step] = statistics.fmean(whole) if whole and not lost else None
        deviation = f" ± {statistics.stdev(whole):.1f}" if len(whole) > 1 else ""
        cells[step] = (f"{statistics.fmean(whole):.1f}{deviation}" if whole else "") + (f" ({lost} diverged)" if lost else "")
    known = [mean for mean in means.values() if mean is not None]
    return {**cells, "mean": statistics.fmean(known) if len(known) == len(steps) else None}


if __name__ == "__main__":
    print(main(Path(sys.argv[1])), end="")
