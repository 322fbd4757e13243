"""What a recipe is chosen by: runs with `data.held_out`, a row for each combination of settings, a column for each step.

    python -m roadmap.run -m +study=imagenette study.name=choice +step=resnet,separate_downsampling data.held_out=0.1 \
        data.path=imagenette160.zip recipe.lr=1e-3,2e-3,4e-3
    python -m roadmap.report.choice experiments/choice > experiments/imagenette/choice.md

Top-1 on the held-out training images, in percent: mean over seeds, with the deviation where there are several. The last column
is the mean over the steps (the two ends of the roadmap), which the choice goes by; empty where a run is missing or diverged.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused
from roadmap.base.tables import Column, as_markdown
from roadmap.config.recipes import UNSAID_DATA, unsaid_recipe
from roadmap.record.folder import RunFolder
from roadmap.record.result import RunResult


def main() -> int:
    """Print the table of the folder that the command line names."""
    parser = Parser(prog="python -m roadmap.report.choice", description="What a recipe is chosen by: a table in Markdown.")
    parser.add_argument("folder", type=Path, help="a folder with runs/ that were scored on held-out training images")
    print(choice(parser.parse_args().folder), end="")
    return 0


def choice(folder: Path) -> str:
    """The table in Markdown.

    Raises:
        Refused: where there are no runs, or some were scored on the evaluation images.

    """
    results = [result for path in sorted((folder / "runs").glob("*/")) if (result := RunFolder(path).result()) is not None]
    if not results or not all(result.data.get("held_out") for result in results):
        raise Refused(
            f"{folder}: needs runs with data.held_out above 0, and no others: a choice never sees the evaluation images"
        )
    settings = [_settings(result) for result in results]
    keys = dict.fromkeys(key for one in settings for key in one)
    varied = [key for key in keys if len({str(one.get(key)) for one in settings}) > 1]
    steps = sorted({result.step.name for result in results})
    scores: dict[tuple[Any, ...], dict[str, list[float | None]]] = {}
    for one, result in zip(settings, results, strict=True):
        scores.setdefault(tuple(one.get(key) for key in varied), {}).setdefault(result.step.name, []).append(result.score)
    rows = [dict(zip(varied, values, strict=True)) | _row(by_step, steps) for values, by_step in scores.items()]
    rows.sort(key=lambda row: -1.0 if row["mean"] is None else row["mean"], reverse=True)
    columns = [*(Column(key, key) for key in varied), *(Column(step, step) for step in steps), Column("mean", "mean", "{:.1f}")]
    first = results[0].data
    count = f"{first['val']} of {first['train'] + first['val']}"
    about = f"{first['source']}, {first['image_size']} px, scale {results[0].scale}: {count} training images held out"
    return f"{about}; {_lengths(results)}; {len(results)} runs.\n\n{as_markdown(rows, columns)}"


def _lengths(results: Sequence[RunResult]) -> str:
    """How long the runs were trained."""
    units = [("updates" if "updates" in result.recipe else "epochs", result.recipe) for result in results]
    return " or ".join(sorted({f"{recipe[unit]} {unit}" for unit, recipe in units}))


def _settings(result: RunResult) -> dict[str, Any]:
    """What may be chosen: head, recipe and data, and of the model what is the same at both ends."""
    data = {key: value for key, value in result.data.items() if key not in ("fingerprint", "train", "val")}
    head = {f"head.{key}": value for key, value in (result.head or {}).items()}
    recipe = result.recipe | unsaid_recipe() | result.recipe
    return {"scale": result.scale, **head, **(data | UNSAID_DATA | data), **recipe, "drop_path": result.model["drop_path"]}


def _row(by_step: dict[str, list[float | None]], steps: list[str]) -> dict[str, Any]:
    means: list[float] = []
    cells: dict[str, Any] = {}
    for step in steps:
        values = by_step.get(step, [])
        finished = [value for value in values if value is not None]
        lost = len(values) - len(finished)
        means += [statistics.fmean(finished)] if finished and not lost else []
        deviation = f" ± {statistics.stdev(finished):.1f}" if len(finished) > 1 else ""
        shown = f"{statistics.fmean(finished):.1f}{deviation}" if finished else ""
        cells[step] = shown + (f" ({lost} diverged)" if lost else "")
    return {**cells, "mean": statistics.fmean(means) if len(means) == len(steps) else None}


if __name__ == "__main__":
    exits(main)()
