"""Tables of a study: what an experiment says, and where the controls stand."""

import re

import pytest

from kdlib.report import scores
from kdlib.study.file import METHODS

NUMBER = re.compile(r"(\S+)(?: ± (\S+))? \[(\S+), (\S+)\]")


# ---------------------------------------------------------------- the text of an experiment


def cell_text(frame, line="clip, 5 epochs", method="projection", **options) -> str:
    return scores.score_table(frame, "coco", **options).loc[line, method]


def test_figure__one_seed_is_its_score_and_the_interval_over_images(made_study):
    """160 of 200 right: the interval is about that of a share, 0.8 ± 1.96 √(0.8 · 0.2 / 200)."""
    score, spread, low, high = NUMBER.fullmatch(cell_text(made_study({"student": 0.8}))).groups()
    assert score == "0.800" and spread is None
    half = 1.96 * (0.8 * 0.2 / 200) ** 0.5
    assert float(low) == pytest.approx(0.8 - half, abs=0.01) and float(high) == pytest.approx(0.8 + half, abs=0.01)


def test_figure__three_seeds_are_their_mean_and_their_deviation(made_study):
    frame = made_study(*({"seed": seed, "student": share} for seed, share in enumerate((0.7, 0.8, 0.9))))
    score, spread, low, high = NUMBER.fullmatch(cell_text(frame)).groups()
    assert (score, spread) == ("0.800", "0.100") and float(low) < 0.8 < float(high)


def test_figure__seeds_that_did_not_finish_are_counted(made_study):
    seeds = [{"seed": 0, "student": 0.7}, {"seed": 1, "student": 0.9}, {"seed": 2, "outcome": "error"}]
    text = cell_text(made_study(*seeds))
    assert text.startswith("0.800 ± 0.141 [") and text.endswith("] (2 of 3 seeds)")
    assert "seeds" not in cell_text(made_study(*seeds[:2]))


def test_figure__digits_and_score_are_as_asked(made_study):
    frame = made_study({"student": 0.8, "student in_batch@64": 0.455})
    assert cell_text(frame, digits=1).startswith("0.8 [0.")
    assert cell_text(frame, score="in_batch@64").startswith("0.455 [")
    assert cell_text(frame, score="mean_recall") == cell_text(frame)


@pytest.mark.parametrize("outcome", ["error", "out_of_memory", "kernel_died", "stale", "absent"])
def test_figure__an_experiment_without_a_number_says_why(made_study, outcome):
    frame = made_study({}, {"method": "cbam", "outcome": outcome})
    assert cell_text(frame, method="cbam") == outcome.replace("_", " ")
    alone = made_study({"method": "cbam", "outcome": outcome})
    assert cell_text(alone, method="cbam") == outcome.replace("_", " ")


def test_figure__an_experiment_that_the_study_does_not_have_is_empty(made_study):
    frame = made_study({"epochs": 5}, {"epochs": 10, "method": "cbam"})
    assert cell_text(frame, method="cbam") == "" and cell_text(frame, "clip, 10 epochs") == ""


def test_figure__a_score_that_these_data_lack_is_a_dash(made_study):
    frame = made_study({"student in_batch@64": 0.5}, {"method": "cbam", "student in_batch@64": None})
    assert cell_text(frame, method="cbam", score="in_batch@64") == "–"
    assert cell_text(frame, score="zeroshot_map") == "–"


def test_figure__a_score_that_is_not_resampled_is_shown_without_interval(made_study):
    """CKA is one number an encoder: no replicates, but a number."""
    frame = made_study({"seed": 0}, {"seed": 1})
    frame["student cka"] = [0.5, 0.75]
    frame["teacher cka"] = 1.0
    assert cell_text(frame, score="cka") == "0.625 ± 0.177"
    assert cell_text(frame.head(1), score="cka") == "0.500"
    assert scores.score_table(frame, "coco", "cka").loc["clip, untrained", "teacher itself"].startswith("1.000")


def test_figure__every_number_of_epochs_is_a_line_with_its_own_scores(made_study):
    frame = made_study({"epochs": 5, "student": 0.4}, {"epochs": 10, "student": 0.6})
    assert cell_text(frame).startswith("0.400 [") and cell_text(frame, "clip, 10 epochs").startswith("0.600 [")


# ---------------------------------------------------------------- the layout


def test_figure__methods_are_columns_in_the_papers_order_and_controls_the_last(made_study):
    made = made_study(*({"method": name} for name in ("own", *reversed(METHODS))))
    assert list(scores.score_table(made, "coco")) == [*METHODS, "own", *scores.CONTROLS.values()]


def test_figure__holds_one_data_set(made_study):
    frame = made_study({"teacher": "clip"}, {"teacher": "dino", "method": "attention"})
    assert list(scores.score_table(frame, "coco").index) == ["clip, untrained", "clip, 5 epochs"]
    assert list(scores.score_table(frame, "tinyimagenet").index) == ["dino, untrained", "dino, 5 epochs"]
    assert scores.score_table(frame, "tinyimagenet").columns[0] == "attention"


def test_figure__controls_stand_beside_the_untrained_students(made_study):
    shares = {"teacher_score": 0.95, "pca": 0.75, "shuffled": 0.02, "random": 0.03, "constant": 0.04}
    experiments_of = [{"method": method, "untrained": 0.2, **shares} for method in ("projection", "cbam")]
    frame = scores.score_table(made_study(*experiments_of), "coco")
    first, second = frame.loc["clip, untrained"], frame.loc["clip, 5 epochs"]
    for name, share in zip(scores.CONTROLS.values(), (0.95, 0.75, 0.02, 0.03, 0.04), strict=True):
        assert first[name].startswith(f"{share:.3f} [") and second[name] == "", name
    assert first["projection"].startswith("0.200 [") and first["cbam"].startswith("0.200 [")


def test_figure__controls_stand_once_however_many_epochs_and_seeds(made_study):
    frame = made_study(*({"epochs": epochs, "seed": seed} for epochs in (5, 10) for seed in (0, 1)))
    lines = scores.score_table(frame, "coco")
    assert list(lines.index) == ["clip, untrained", "clip, 5 epochs", "clip, 10 epochs"]
    assert "±" not in lines.loc["clip, untrained", "teacher itself"]
    spread = NUMBER.fullmatch(lines.loc["clip, untrained", "projection"]).group(2)
    assert spread == "0.000"  # two seeds, not four experiments


def test_figure__a_variant_has_its_own_controls_only_where_it_is_scored_otherwise(made_study):
    frame = made_study(
        {},
        {"variant": "no_teacher"},
        {"variant": "untrained_heads", "exam_key": "other", "teacher_score": 0.3},
    )
    lines = scores.score_table(frame, "coco")
    assert "clip, no teacher, untrained" not in lines.index
    assert lines.loc["clip, untrained", "teacher itself"].startswith("0.900 [")
    assert lines.loc["clip, untrained heads, untrained", "teacher itself"].startswith("0.300 [")
    assert {"clip, 5 epochs", "clip, no teacher, 5 epochs", "clip, untrained heads, 5 epochs"} <= set(lines.index)


def test_figure__without_a_finished_experiment_there_are_no_controls(made_study):
    frame = made_study({"outcome": "absent"}, {"method": "cbam", "outcome": "error"})
    lines = scores.score_table(frame, "coco")
    assert list(lines.index) == ["clip, 5 epochs"]
    assert {name: text for name, text in lines.iloc[0].items() if text} == {"projection": "absent", "cbam": "error"}


def test_of_the_paper__are_its_teachers_on_its_data(made_study):
    rows = made_study({}, {"teacher": "clip", "dataset": "flowers"}, {"teacher": "own"}, {"teacher": "dino"})
    assert scores.of_the_paper(rows).teacher.tolist() == ["clip", "dino"]


def test_seeds_of__students_have_a_line_a_seed_and_controls_one(made_study):
    frame = made_study(*({"seed": seed, "student": 0.5 + seed / 10} for seed in range(3)))
    values, replicates = scores.seeds_of(frame, "student", "")
    assert values == pytest.approx([0.5, 0.6, 0.7]) and replicates.shape == (3, 1000)
    assert replicates.mean(axis=1) == pytest.approx(values, abs=0.01)
    for who, share in (("teacher", 0.9), ("pca", 0.7)):
        values, replicates = scores.seeds_of(frame, who, "")
        assert values == [share] and replicates.shape == (1, 1000)


def test_seeds_of__experiments_that_did_not_finish_do_not_count(made_study):
    frame = made_study({"seed": 0, "outcome": "error"}, {"seed": 1, "student": 0.4}, {"seed": 2, "student": 0.6})
    values, replicates = scores.seeds_of(frame, "student", "mean_recall")
    assert values == [0.4, 0.6] and len(replicates) == 2


# ---------------------------------------------------------------- the printed results


@pytest.mark.parametrize(("value", "digits"), [("accuracy", 4), ("size_mb", 2)])
def test_paper_figure__has_every_printed_number(value, digits):
    for dataset in ("coco", "tinyimagenet"):
        figure = scores.printed_table(dataset, value, digits)
        for row in scores.paper().query("dataset == @dataset").itertuples():
            text, number = figure.loc[f"{row.teacher}, {row.epochs} epochs", row.method], getattr(row, value)
            assert text == (f"{number:.{digits}f}" if number == number else "out of memory"), row


def test_paper_figure__what_is_not_printed_is_said():
    printed = {(row.teacher, row.epochs, row.method) for row in scores.paper().itertuples()}
    for dataset in ("coco", "tinyimagenet"):
        figure = scores.printed_table(dataset)
        for line, texts in figure.iterrows():
            teacher, epochs = line.removesuffix(" epochs").split(", ")
            for method, text in texts.items():
                assert (text == "not printed") == ((teacher, int(epochs), method) not in printed)
