"""Questions about finished runs: differences, families, verdicts, retention, convergence."""

import made_runs
import numpy as np
import pytest

import kdlib
from kdlib import tables
from kdlib.comparisons import over_seeds, side
from kdlib.evaluate import bootstrap
from kdlib.utils import runs_root


def made(entries: list[dict]):
    made_runs.index(entries)
    return kdlib.runs("made")


@pytest.fixture
def grid():
    return made(made_runs.grid())


def of(table, **values):
    """The rows of a table with these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def test_compare__differences_and_intervals_are_paired(grid):
    for _, family in (tests := kdlib.compare(grid, "teacher")).groupby("teacher", observed=True):
        assert len(family) == 14 and family.p_holm.tolist() == pytest.approx(bootstrap.holm(family.p))
    found = of(tests, teacher="CLIP", student="ResNet", epochs=10).iloc[0]
    path = of(grid, teacher="CLIP", student="ResNet", epochs=10).path.iloc[0]
    student, teacher = (tables.replicates(path, who, "mean_recall", 10) for who in ("student", "teacher"))
    assert found.difference == pytest.approx(0.3 - 0.5)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(student - teacher, [0.025, 0.975])))
    assert (found.verdict, found.mark, found.versus) == ("worse", "▼", "teacher")
    for question, value in (("pca", 0.45), ("random_init", 0.05)):
        found = of(kdlib.compare(grid, question), teacher="DINO", student="CBAM", epochs=10).iloc[0]
        assert (found.difference, found.mark) == (pytest.approx(0.485 - value), "▲")
    assert kdlib.compare(grid, "teacher", "cka").empty


def test_compare__supervised_is_the_same_network_after_as_many_epochs(grid):
    found = of(kdlib.compare(grid, "supervised"), teacher="CLIP").set_index(["student", "epochs"]).difference
    want = {("ResNet", 5): 0.22 - 0.1, ("ResNet", 10): 0.3 - 0.15}
    want |= {("ResNet, self-contained", 5): 0.3 - 0.1, ("ResNet, self-contained", 10): 0.4 - 0.15}
    assert found.to_dict() == pytest.approx(want)


def test_compare__epochs_are_more_against_the_fewest():
    runs = made([made_runs.run(values=(0.3, 0.4, 0.45), budgets=(5, 10, 20))])
    found = kdlib.compare(runs, "epochs")
    assert found.versus.tolist() == ["5 epochs"] * 2 and found.difference.tolist() == pytest.approx([0.1, 0.15])


def test_compare__methods_are_all_pairs_of_students_after_the_most_epochs(grid):
    found = of(kdlib.compare(grid, "method"), teacher="DINO")
    assert len(found) == 7 * 6 / 2 and set(found.epochs) == {10}
    assert "supervised" not in set(found.variant)
    assert of(found, student="Projection", versus="CBAM").difference.iloc[0] == pytest.approx(0.005)


def test_compare__a_variant_is_compared_with_the_own_training():
    runs = made([
        made_runs.run(values=(0.4, 0.45)),
        made_runs.run(values=(0.3, 0.46), variant="tau_4"),
        made_runs.run(method="cbam", variant="tau_4"),  # whose own training was not run
    ])  # fmt: skip
    found = kdlib.compare(runs, "variant")
    assert found.versus.tolist() == ["tau_4"] * 2 and found.difference.tolist() == pytest.approx([0.1, -0.01])


def test_compare__marks_what_the_correction_overrules():
    values = {"projection": 0.5, "cbam": 0.501, "resnet": 0.4, "densenet": 0.513, "mobilenet": 0.487}
    runs = made([made_runs.run("clip", method, (value,), budgets=(5,)) for method, value in values.items()])
    marks = {"not significant": "≈", "not significant after correction": "(▲) (▼)", "better": "▲", "worse": "▼"}
    found = kdlib.compare(runs, "teacher")
    for row in found.itertuples():
        assert row.mark in marks[row.verdict].split()
        assert (row.verdict == "not significant") == (row.low <= 0 <= row.high)
    assert found.set_index("method").mark[["resnet", "densenet", "mobilenet"]].tolist() == ["▼", "(▲)", "(▼)"]


def test_compare__seeds_are_lines_of_one_comparison():
    runs = made([made_runs.run(values=(0.4 + 0.01 * seed, 0.45 + 0.01 * seed), seed=seed) for seed in range(3)])
    found = of(kdlib.compare(runs, "pca"), epochs=10)
    assert found.difference.tolist() == pytest.approx([0.46 - 0.45])
    values, lines = side(of(runs, epochs=10))
    assert values == pytest.approx([0.45, 0.46, 0.47]) and lines.shape == (3, made_runs.COUNT)
    assert side(of(runs, epochs=10), "teacher")[1].shape == (1, made_runs.COUNT)


def test_compare__not_on_other_images():
    entries = [made_runs.run("clip", method) for method in ("resnet", "densenet")]
    runs = made([*entries, made_runs.run("clip", "cbam", keys={"images": "other"})])
    found = kdlib.compare(runs, "method")
    assert [(row.student, row.versus) for row in found.itertuples()] == [("ResNet", "DenseNet")]


def test_compare__failed_runs_and_older_code_do_not_count():
    entries = [
        made_runs.run(key="old", values=(0.1, 0.1), finished="2025-01-01T00:00:00Z"),
        made_runs.run(key="new", finished="2026-01-01T00:00:00Z"),
        made_runs.run(method="cbam"),
    ]
    (runs_root() / "made" / entries[2]["folder"] / "result.json").unlink()
    runs = made(entries)
    found = of(kdlib.compare(runs, "pca"), epochs=10)
    assert found.student.tolist() == ["Projection"] and found.difference.tolist() == pytest.approx([0.0])


def test_compare__without_a_pair_is_an_empty_table_and_an_unknown_question_an_error():
    grid = made([made_runs.run()])
    assert kdlib.compare(grid, "variant").empty
    assert list(kdlib.compare(grid, "variant")) == list(kdlib.compare(grid, "pca"))
    with pytest.raises(ValueError, match=r"no question 'untrained'; the questions are random_init, pca"):
        kdlib.compare(grid, "untrained")


def test_retention__is_the_share_of_the_teachers_score(grid):
    kept = kdlib.retention(kdlib.results("made"), grid)
    row = of(kept, teacher="CLIP", student="ResNet").iloc[0]
    assert (row.epochs, row.retention, row.pca, row.supervised) == pytest.approx((10, 0.6, 0.9, 0.3))
    assert (row.inference_mb, row.total_min) == pytest.approx((1.5, 1 + 10 / 30))
    chosen = of(grid, teacher="CLIP", student="ResNet", epochs=10)
    student, teacher = (side(chosen, who)[1][0] for who in ("student", "teacher"))
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(student / teacher, [0.025, 0.975])))
    assert len(kept) == 2 * 7


def test_over_seeds__mean_deviation_and_the_means_interval():
    runs = made([made_runs.run(values=(0.4 + 0.01 * seed, 0.45 + 0.01 * seed), seed=seed) for seed in range(3)])
    scores = kdlib.results("made")
    rows = of(over_seeds(scores[scores.primary]), encoder="student", epochs=10)
    lines = side(of(runs, epochs=10))[1].mean(axis=0)
    expected = [[0.46, 0.01, *np.quantile(lines, [0.025, 0.975])]]
    np.testing.assert_allclose(rows[["value", "sd", "low", "high"]], expected, rtol=1e-6)


def test_compare__of_converged_is_twice_the_epochs_against_the_epochs_on_dev():
    dev = {"resnet": (0.3, 0.4), "densenet": (0.4, 0.3), "projection": ()}  # the last without a cooldown
    entries = [made_runs.run("clip", method, dev=scores) for method, scores in dev.items()]
    runs = made([*entries, made_runs.run("clip", "cbam", dev=(0.4, 0.5), budgets=(5, 8))])  # not twice the epochs
    found = kdlib.compare(runs, "converged").set_index("student").difference
    assert found.to_dict() == pytest.approx({"ResNet": 0.1, "DenseNet": -0.1})
