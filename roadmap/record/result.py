"""What came out of a run: the one form of `result.json` and of a line of `records.jsonl`. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from roadmap.base.errors import Refused, nearest
from roadmap.config.schema import LOADER_ONLY, StepConfig
from roadmap.record.formats import FORMAT, Content, current, upgraded_result

# Fields that the first records have not.
_LATER = ("cpu", "instructions", "score_by_batch", "class_names", "init", "head", "gmacs_backbone")

STATUSES = ("running", "done", "diverged")
_KINDS: dict[str, type] = {
    **dict.fromkeys(("run", "study", "scale", "status", "reason"), str),
    **dict.fromkeys(("step", "metric", "scores", "model", "data", "recipe", "versions", "git"), dict),
    "seed": int,
}
_WORDS = {str: "text", dict: "an object", int: "a whole number"}
_FINITE = ("gmacs", "params_m", "images_per_second", "seconds")
_NUMBERS = ("train_loss", "score_by_batch", "gmacs_total", "gmacs_backbone", "activations_m", *_FINITE)

# What must be equal in results that are compared; the model is what a study varies.
SHARED = ("metric", "head", "scale", "data", "recipe", "start", "precision", "pipeline")


@dataclass(frozen=True)
class Metric:
    """The score that runs are compared by."""

    key: str  # of the score in a result, in the history and in tables: top1
    label: str  # as people write it: top-1
    unit: str = ""  # %
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Over a column or beside an axis: top-1, %."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        """A value with its name and unit: top-1 82.10 %."""
        return f"{self.label} {value:.2f} {self.unit}".rstrip()


@dataclass(frozen=True)
class RunResult:
    """A run and its outcome, in the order in which people read it; None is what is not known, or not yet."""

    run: str  # the name of its folder
    study: str
    step: StepConfig
    scale: str
    seed: int
    metric: Metric
    status: str = "running"  # running, done or diverged
    reason: str = ""  # why it diverged
    scores: dict[str, float | None] = field(default_factory=dict)  # of the final epoch, never the best; none unless done
    score_by_batch: float | None = None  # of a run at chance: the score with BatchNorm's statistics of each batch scored
    train_loss: float | None = None
    gmacs: float | None = None  # multiply-adds of convolutions and linear layers for one image, in G (1e9)
    gmacs_backbone: float | None = None  # of them those below the head; of tasks that have one
    gmacs_total: float | None = None  # norms and pooling too; of steps only
    params_m: float | None = None  # parameters, in M (1e6)
    activations_m: float | None = None  # elements that convolutions and linear layers put out, in M
    images_per_second: float | None = None  # in training
    seconds: float | None = None  # of training and evaluation, over all attempts
    device: str | None = None
    cpu: str | None = None  # the processor's model
    instructions: str | None = None  # that torch uses on it: AVX2, AVX512; with others the rounding is another
    processes: int | None = None
    precision: str | None = None
    pipeline: str | None = None
    compiled: str | None = None
    threads: int | None = None
    recipe_name: str | None = None
    head: Content | None = None  # of tasks that have one; these four: what the run's identity depends on
    model: Content = field(default_factory=dict)
    data: Content = field(default_factory=dict)
    recipe: Content = field(default_factory=dict)
    # What its weights started from: {"weights": a hash}, {"run": its name}, of another study "study" too.
    init: dict[str, str] | None = None
    class_names: list[str] | None = None  # in the order of the network's outputs
    versions: dict[str, str | None] = field(default_factory=dict)
    git: Content = field(default_factory=dict)
    trained_in: str | None = None  # the study whose result this is a copy of

    @property
    def done(self) -> bool:
        """Whether it was trained to its end."""
        return self.status == "done"

    @property
    def score(self) -> float | None:
        """The final epoch's value of the metric; None unless done."""
        return self.scores.get(self.metric.key)

    @property
    def final(self) -> str:
        """The final score in words: top-1 92.44 %."""
        return self.metric.text(self.score) if self.score is not None else self.status

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the result, to compare it with what was uploaded."""
        return hashlib.sha256(json.dumps(dump_result(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def start(self) -> Content:
        """What it started from, the same for all seeds of a row: a hash of given weights, or the row of another run.

        Where every run started from that of its own row and seed in another study, it is that study.
        """
        begun = self.init or {}
        if "study" in begun:
            return {"study": begun["study"]}
        return {"weights": begun["run"].rsplit("-s", 1)[0]} if "run" in begun else dict(begun)

    @property
    def of_timm_alone(self) -> bool:
        """Whether the recipe makes pictures that only timm's transforms make, which leaves the run no choice of a pipeline."""
        return not LOADER_ONLY.keys().isdisjoint(self.recipe)

    def settings(self, *groups: str) -> Content:
        """What it was made with, a dotted name each: recipe.lr, versions.torch."""
        return {f"{group}.{key}": value for group in groups for key, value in (getattr(self, group) or {}).items()}

    def unshared(self, other: RunResult, declared: Collection[str] = ()) -> Iterator[tuple[str, Any, Any]]:
        """What the two should share and do not, with both values: anything but the network, the seed, and what is `declared`.

        Declared are settings of recipe or data, `recipe.optimizer`, or `start.weights`.
        """
        free = {key for key in ("precision", "pipeline") if {f"recipe.{key}", f"data.{key}"} & {*declared}}
        free |= {"pipeline"} if self.of_timm_alone or other.of_timm_alone else set()
        for key in SHARED:
            mine, its = (_without(declared, key, getattr(run, key)) for run in (self, other))
            if mine != its and key not in free:
                yield key, mine, its

    def comparable(self, other: RunResult, declared: Collection[str] = ()) -> bool:
        """Whether the two differ in nothing but the network, the seed, and what is declared."""
        return next(self.unshared(other, declared), None) is None


def _without(declared: Collection[str], room: str, value: Any) -> Any:
    return {key: item for key, item in value.items() if f"{room}.{key}" not in declared} if isinstance(value, dict) else value


def dump_result(result: RunResult) -> Content:
    """A result as JSON holds it; one that knows less than today's, its CPU or its classes, reads as it was written."""
    about = {key: value for key, value in asdict(result).items() if key not in _LATER or value is not None}
    about["step"] = {key: value for key, value in about["step"].items() if key != "roadmap" or value}
    return {"format": FORMAT, **about}


def load_result(content: Any, file: Path) -> RunResult:
    """A result from JSON, of this format or of format 1; `file` is where it is from.

    Raises:
        Refused: for a file of another format, or one that holds no result.

    """
    known = current(content, file, upgraded_result)
    names = {entry.name: entry for entry in fields(RunResult)}
    required = {name for name, entry in names.items() if entry.default is MISSING and entry.default_factory is MISSING}
    wrong = sorted(known.keys() - names.keys()) + sorted(required - known.keys())
    if wrong:
        raise Refused(f"{file}: not the result of a run: {', '.join(wrong)} should {'not ' * (wrong[0] in known)}be in it")
    _check_values(known, f"{file}: {known['run']}")
    step = {entry.name: known["step"].get(entry.name, entry.default) for entry in fields(StepConfig)}
    return RunResult(**{**known, "step": StepConfig(**step), "metric": Metric(**known["metric"])})


def _check_values(known: Content, where: str) -> None:
    """Refuse a value of a wrong kind: a record that a hand or another program has changed."""
    for key, kind in _KINDS.items():
        if not isinstance(known.get(key, kind()), kind):
            raise Refused(f"{where}: {key}={known[key]!r}: must be {_WORDS[kind]}")
    numbers = {f"scores.{key}": value for key, value in known.get("scores", {}).items()}
    for key, value in {**numbers, **{key: known.get(key) for key in _NUMBERS}}.items():
        if value is not None and type(value) not in (int, float):
            raise Refused(f"{where}: {key}={value!r}: must be a number, or null")
    metric = known["metric"]
    if not {"key", "label"} <= metric.keys() <= {entry.name for entry in fields(Metric)}:
        raise Refused(f"{where}: metric={metric}: must have a key and a label, unit and higher_is_better where known")
    own = f"scores.{metric['key']}"
    for key, value in ((own, numbers.get(own)), *((key, known.get(key)) for key in _FINITE)):
        if value is not None and not math.isfinite(value):
            raise Refused(f"{where}: {key}={value}: must be finite, or null")
    if known.get("status", "running") not in STATUSES:
        raise Refused(f"{where}: status={known['status']}: {nearest(known['status'], STATUSES)}")
