"""Two studies compared: what came back, where they differ, and how often that would be a false alarm."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy import stats
from test_report import VALUES, study

from roadmap.base.errors import Refused
from roadmap.report import __main__ as door
from roadmap.report.against import added, compare, heterogeneity
from roadmap.report.replication import notes, what_differs
from roadmap.report.report import Report

LATER = {step: [value + 0.25 * (-1) ** i for i, value in enumerate(values)] for step, values in VALUES.items()}


def moved(folder, by):
    """The study with other numbers, some rows of it shifted by so many points."""
    return Report.read(study(folder, {step: [x + by.get(step, 0.0) for x in values] for step, values in LATER.items()}))


def test_what_one_study_resolved_comes_back_or_not(tmp_path):
    one = Report.read(study(tmp_path / "one", VALUES))
    assert [e.effect.name for e in one.analysis.estimates if e.resolved] == ["b", "d"]
    same = compare(one, moved(tmp_path / "same", {"a": 3, "b": 3, "c": 3, "side": 3, "d": 3}))
    assert [d.came_back for d in same.differences] == ["resolved in both", "", "", "resolved in both"]
    assert [round(d.value, 6) for d in same.differences] == [0, 0, 0, 0]
    assert same.heterogeneity.q == pytest.approx(0, abs=1e-9)  # what shifts every row alike is no heterogeneity
    other = compare(one, moved(tmp_path / "other", {"a": 40, "d": -8.5}))
    assert [d.came_back for d in other.differences] == ["other sign", "", "", "same sign"]
    assert other.differences[0].value == pytest.approx(40)
    assert other.differences[0].p_holm < 0.01 < 0.9 < other.differences[1].p_holm
    low, high = (other.differences[0].value + sign * other.differences[0].half_width for sign in (-1, 1))
    assert low < 40 < high
    assert other.heterogeneity.p < 0.001
    assert other.heterogeneity.i_squared > 90
    assert "one resolves 2 of 4 effects. In other, 1 of these have the same sign, 0 are resolved too, and 1 have" in str(
        notes(other)
    )


def test_the_variances_of_both_studies_add_up(tmp_path):
    comparison = compare(Report.read(study(tmp_path / "one", VALUES)), moved(tmp_path / "two", {}))
    effect = comparison.differences[0].first.effect.weights
    (one, of_one), (two, of_two) = (r.analysis.measured.spread([effect]) for r in (comparison.one, comparison.other))
    total = one[0] ** 2 + two[0] ** 2
    freedom = total**2 / (one[0] ** 4 / of_one[0] + two[0] ** 4 / of_two[0])
    assert comparison.differences[0].half_width == pytest.approx(stats.t.ppf(0.975, freedom) * total**0.5)


def test_comparisons_of_other_things_are_refused(tmp_path):
    one = Report.read(study(tmp_path / "one", VALUES))
    with pytest.raises(Refused, match="hold the same runs; needed: other seeds"):
        compare(one, Report.read(study(tmp_path / "same", VALUES)))

    def networks(lines):
        for line in lines:
            line["model"] = {"kernel_size": 3 if line["step"]["name"] == "b" else 7, "drop_path": 0.1}

    def others(lines):
        for line in lines:
            line["model"] = {"kernel_size": 7, "drop_path": 0.2}

    first = Report.read(study(tmp_path / "k3", VALUES, change=networks))
    with pytest.raises(Refused, match=r"other networks in row b: model.kernel_size: 3 / 7"):
        compare(first, Report.read(study(tmp_path / "k7", LATER, change=others)))
    renamed = json.loads((tmp_path / "one" / "study.json").read_text())
    for effect in renamed["effects"]:
        effect["name"] += "_else"
    (tmp_path / "one" / "study.json").write_text(json.dumps(renamed))
    with pytest.raises(Refused, match="no effect is in both studies"):
        compare(Report.read(tmp_path / "one"), moved(tmp_path / "two", {}))


def test_what_differs_is_named_and_repeated_runs_too(tmp_path):
    def machine(cpu, lr):
        def change(lines):
            for line in lines:
                line |= {"cpu": cpu, "instructions": "AVX2", "recipe": {"lr": lr}, "init": {"weights": cpu}, "head": {"nms": lr}}

        return change

    one = Report.read(study(tmp_path / "one", VALUES, change=machine("A", 0.1)))
    values = {**LATER, "a": VALUES["a"]}
    other = Report.read(study(tmp_path / "two", values, change=machine("B", 0.2)))
    assert what_differs(one.study, other.study) == [
        "CPU: A, AVX2 / B, AVX2", "head.nms: 0.1 / 0.2", "recipe.lr: 0.1 / 0.2", "start.weights: A / B",
    ]  # fmt: skip
    assert "3 of 15 runs are the same in both" in notes(compare(one, other))[1]


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    first, second = (study(tmp_path / name, values) for name, values in (("first", VALUES), ("second", LATER)))
    monkeypatch.setattr(sys, "argv", ["report", str(first), "--against", str(second)])
    assert door.main() == 0
    assert "Cochran's Q over 5 rows" in capsys.readouterr().out
    assert "resolved in both" in (first / "against-second.md").read_text()
    assert (first / "against-second.csv").read_text().startswith("effect,label,first_value,first_low")
    monkeypatch.setattr(sys, "argv", ["report", str(first), "--against", str(tmp_path / "nothing")])
    (first / "table.md").unlink()
    with pytest.raises(Refused):
        door.main()
    assert not (first / "table.md").exists()  # refused before anything was written


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_heterogeneity_alarms_seldom_where_there_is_none(seeds, storm):
    """Sixteen rows, half of them three times as noisy as the others: chi-squared would alarm in 42, 20 and 9 % of studies."""
    count, deviations = 10_000 if storm else 1000, np.where(np.arange(16) % 2, 3.0, 1.0)[:, None]
    one, other = np.random.default_rng(seeds).normal(0, deviations, (2, count, 16, seeds))
    shifts = one.mean(-1) - other.mean(-1)
    errors, freedom = added(*(part for v in (one, other) for part in (v.var(-1, ddof=1) / seeds, np.full(1, seeds - 1))))
    found = [heterogeneity(*rows) for rows in zip(shifts, errors, freedom, strict=True)]
    assert np.mean([rows.p < 0.05 for rows in found]) < 0.09
    naive = np.mean([stats.chi2.sf(rows.q, 15) < 0.05 for rows in found])
    assert naive == pytest.approx({3: 0.43, 5: 0.21, 10: 0.10}[seeds], abs=0.06)
