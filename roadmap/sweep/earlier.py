"""A study's folder holds one study: a sweep with other settings does not take its place."""

from __future__ import annotations

from roadmap.base.errors import Refused
from roadmap.base.files import check_entries
from roadmap.config.identity import decisive, differences
from roadmap.record.result import RunResult
from roadmap.record.study import StudyPlan, find_plan, seed_and_identity
from roadmap.report.records import read_results
from roadmap.sweep.plan import SweepPlan

COUNTS = ("classes", "train", "val")  # of a record, beside the settings of its data


def check_folder(plan: SweepPlan) -> None:
    """Refuse a sweep that would take finished runs of the study in its folder out of that study's tables, or reach no file.

    More rows and more seeds are the same study: the tables grow. So is the same study on another machine.
    """
    for folder in (plan.folder, *(point.folder.path for point in plan.points)):
        check_entries(folder)
    earlier = find_plan(plan.folder)
    if earlier is None:
        return
    listed = {point.which for point in plan.points}
    left_out = {name for name in earlier.runs if seed_and_identity(name) not in listed}
    other_kind = earlier.kind != plan.study_plan().kind
    if not (left_out or other_kind):
        return
    done = read_results(plan.folder, earlier)
    lost = [result for name, result in done.items() if other_kind or name in left_out]
    if lost:
        raise Refused(
            f"{plan.folder} holds another study: {len(lost)} of its {len(done)} finished runs would be in no table any more. "
            f"{_what_differs(plan, earlier, lost)}. To keep both, give this one a name of its own: study.name=NAME, for example "
            f"study.name={plan.first.study.name}_2"
        )


def _what_differs(plan: SweepPlan, earlier: StudyPlan, lost: list[RunResult]) -> str:
    """The settings that are others here, there first; where there are none, what this sweep leaves out."""
    kind = plan.study_plan().kind
    unequal = [f"study.kind: {earlier.kind} / {kind}"] * (earlier.kind != kind)
    unequal += list(dict.fromkeys(line for result in lost for line in _unequal(plan, earlier, result)))
    if unequal:
        return f"Settings there / here: {'; '.join(unequal)}"
    rows = dict.fromkeys(earlier.runs[result.run].row.variant.name for result in lost)
    seeds = sorted({result.seed for result in lost})
    which = f"{', '.join(rows)} with seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"Not in this sweep: {which}; to train some of a study's runs only, say --only GLOB"


def _unequal(plan: SweepPlan, earlier: StudyPlan, result: RunResult) -> list[str]:
    """How a run differs from those of the same row here, the seed apart; its network is not compared with another row's."""
    row = plan.rows.get(earlier.runs[result.run].row.variant.name, ())
    point = (*row, plan.points[0])[0]
    ours = decisive(point.experiment, point.fingerprint)
    begun = result.init or {}
    there = {
        "model": result.model if row else ours["model"],
        "head": result.head or {},
        "data": {key: value for key, value in result.data.items() if key not in COUNTS},
        "recipe": result.recipe,
        "start": {"run": seed_and_identity(begun["run"]).split("-")[-1]} if "run" in begun else begun,
    }
    ours["data"].pop("classes", None)
    known = [key for key in there if there[key] or key in ("head", "start")]
    return differences({key: there[key] for key in known}, {key: ours.get(key, {}) for key in known})
