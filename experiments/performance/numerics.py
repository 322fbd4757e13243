"""Do the fast paths train as well as the plain one? python experiments/performance/numerics.py [--photographs FOLDER]

Both ends of the roadmap, five seeds, each fast path against float32 with timm's transforms, uncompiled; the same seeds
on both sides. Writes `numerics.md` beside this file. Some twenty minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy import stats

from roadmap.base.tables import Column, as_markdown
from roadmap.report import frame

STEPS = ("resnet", "separate_downsampling")
SEEDS = range(5)
FAST = ["recipe.precision=bfloat16", "runtime.compile=blocks", "data.pipeline=device"]
VARIANTS = {"bfloat16": FAST[:1], "compiled blocks": FAST[1:2], "images on the device": FAST[2:], "all three": FAST}
PLAIN = ["recipe.precision=float32", "runtime.compile=none", "data.pipeline=loader"]
PHOTOGRAPHS = [
    "data=folder",
    "data.image_size=64",
    "data.workers=0",
    "recipe.epochs=8",
    "recipe.warmup_epochs=2",
    "recipe.crop_scale=[0.35,1.0]",
]
COLUMNS = (
    Column("data", "data"),
    Column("step", "step"),
    Column("variant", "variant"),
    Column("n", "n"),
    Column("top1", "top-1, %: mean ± standard deviation"),
    Column("difference", "difference to plain, paired [95 % interval]"),
    Column("by_seed", "top-1 of each seed"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photographs", type=Path, help="a folder with train/ and val/ of ten classes")
    photographs = parser.parse_args().photographs
    sets = {"digits, 32 px, 3 epochs": ([], VARIANTS)}
    if photographs:
        sets["photographs, 64 px, 8 epochs"] = ([*PHOTOGRAPHS, f"data.path={photographs}"], {"all three": FAST})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (data, variants) in sets.items():
            plain = scores(Path(folder), [*data, *PLAIN])
            rows += [row(name, step, "plain", plain[step], None) for step in STEPS]
            for variant, overrides in variants.items():
                found = scores(Path(folder), [*data, *overrides])
                rows += [row(name, step, variant, found[step], plain[step]) for step in STEPS]
            Path(__file__).with_suffix(".md").write_text(as_markdown(rows, COLUMNS, ""))
    print(Path(__file__).with_suffix(".md").read_text())


def scores(folder: Path, overrides: list[str]) -> dict[str, list[float]]:
    """Top-1 by step, one value a seed."""
    name = f"{len(list(folder.iterdir()))}"
    chosen = [f"study.steps=[{','.join(STEPS)}]", f"study.seeds=[{','.join(map(str, SEEDS))}]", f"study.name=v{name}"]
    command = ["-m", "roadmap.sweep", "study=digits", *chosen, f"output={folder}", *overrides]
    subprocess.run([sys.executable, *command], check=True)
    runs = frame(folder / f"v{name}").sort_values("seed")
    return {step: runs[runs.step == step].top1.tolist() for step in STEPS}


def row(data: str, step: str, variant: str, values: list[float], plain: list[float] | None) -> dict[str, object]:
    mean, deviation = stats.tmean(values), stats.tstd(values)
    difference = None
    if plain is not None:
        differences = [a - b for a, b in zip(values, plain, strict=True)]
        interval = stats.ttest_1samp(differences, 0).confidence_interval()
        difference = f"{stats.tmean(differences):+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
    top1 = f"{mean:.2f} ± {deviation:.2f}"
    about = {"data": data, "step": step, "variant": variant, "n": len(values), "top1": top1, "difference": difference}
    return about | {"by_seed": ", ".join(f"{value:.2f}" for value in values)}


if __name__ == "__main__":
    main()
