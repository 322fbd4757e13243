"""Results that alarm their reader and have a known reason: a run at chance, a change that can hardly show. No torch here."""

from __future__ import annotations

import math

from roadmap.record.result import RunResult

CERTAIN = 2.0  # standard errors above chance
FEW_UPDATES = 100  # BatchNorm's running statistics take in a tenth of each update's, behind weights that still move fast
SMALL = 1e-3  # a layer scale that leaves a block next to nothing at the start
NOTHING = 1.0  # percent of average precision, below which a detector finds next to nothing
HARDLY = 0.1  # of a block's output, that its layer scale lets through at the end
IN_BLOCK = {  # toggles
    *("depthwise", "bottleneck", "spatial_conv", "kernel_size", "activation", "block_activations", "block_norms", "block_bias"),
    *("block_part", "layer_scale", "drop_path"),
}


def chance(result: RunResult) -> float | None:
    """What guessing would score, in percent; None where that is not known."""
    classes = result.data.get("classes")
    return 100 / classes if classes and result.metric.key == "top1" else None


def nothing_learnt(result: RunResult) -> str:
    """What shows that a detector or segmenter, being done, has learnt next to nothing; empty where it has, and of classifiers."""
    scores = result.scores if result.done else {}
    by_class = {name: iou for name, iou in scores.items() if name.startswith("iou_")}
    right = [name.removeprefix("iou_") for name, iou in by_class.items() if iou]
    if len(by_class) > 1 and len(right) == 1:
        return f"no pixel of a class but {right[0]} is found"
    found = scores.get("box_ap50")
    return f"box AP at an overlap of one half is {found:.1f} %" if found is not None and found < NOTHING else ""


def at_chance(result: RunResult) -> bool:
    """Whether a run that is done scored no better than guessing: of a classifier by two standard errors of so many images."""
    if nothing_learnt(result):
        return True
    guessed, images = chance(result), result.data.get("val")
    if guessed is None or result.score is None or not images:
        return False
    limit = guessed + CERTAIN * math.sqrt(guessed * (100 - guessed) / images)
    return result.score <= limit < 100


def updates(result: RunResult) -> int | None:
    """Updates of the whole run."""
    if "updates" in result.recipe:
        return result.recipe["updates"]
    images, batch, epochs = result.data.get("train"), result.recipe.get("batch_size"), result.recipe.get("epochs")
    return images // batch * epochs if images and batch and epochs else None


def why_at_chance(result: RunResult) -> str:
    """The likely reason, where it is known: too few updates, BatchNorm's running statistics after few updates."""
    if shown := nothing_learnt(result):
        so_far = f"; after {count} updates it may need more, or a higher learning rate" if (count := updates(result)) else ""
        return shown + so_far
    count, by_batch = updates(result), result.score_by_batch
    if result.model.get("norm") != "batch" or count is None or (by_batch is None and count > FEW_UPDATES):
        return ""
    lag = f"BatchNorm's running statistics, which lag behind the weights after {count} updates"
    if by_batch is None:
        return f"likely by {lag}"
    more = by_batch > (result.score or 0) + (chance(result) or 0) / 2
    measured = f"each batch's own statistics give {result.metric.text(by_batch)}"
    return f"by {lag}: {measured}" if more else f"and {measured}: it has not learnt"


def layer_scale_reached(result: RunResult) -> float | None:
    """About the largest layer scale after a short run that began next to 0; None where it began higher or had time to grow.

    AdamW moves a weight by at most about the learning rate in each update, which a cosine halves on average.
    """
    recipe, count, start = result.recipe, updates(result), result.model.get("layer_scale")
    if not start or start > SMALL or count is None or recipe.get("optimizer", "adamw") != "adamw" or not recipe.get("lr_batch"):
        return None
    share = 0.5 if recipe.get("schedule", "cosine") == "cosine" else 1.0
    reached = start + recipe["lr"] * recipe["batch_size"] / recipe["lr_batch"] * count * share
    return reached if reached < HARDLY else None


def alarms(result: RunResult) -> list[str]:
    """A sentence for each, about one run."""
    lines = []
    if at_chance(result):
        guessed, why = chance(result), why_at_chance(result)
        parts = [] if guessed is None else [f"guessing gives {guessed:.1f} %"]
        lines.append(f"at chance: {'; '.join([*parts, *filter(None, [why])])}")
    reached = layer_scale_reached(result)
    if reached is not None:
        lines.append(
            f"its blocks stand behind a layer scale of {result.model['layer_scale']:g}, which {updates(result)} updates raise to "
            f"about {reached:.1g} at most: what is changed inside them can hardly show"
        )
    return lines
