"""Which method for my teacher: chosen on dev, compared on test, and said in a sentence."""

import pandas as pd
import pytest

from kdlib.evaluate.uncertainty import BETTER, OPEN, OVERRULED, WORSE
from kdlib.files import project_root
from kdlib.report import learning, methods
from kdlib.report.style import teacher_name
from kdlib.study.file import studies_folder


def tried(objective: str, lr: float, dev: float, student: float, epochs: int = 10, **more) -> dict:
    given = {"teacher": "dino", "method": "resnet", "variant": f"{objective}-{lr}", "objective": objective}
    return (
        given | {"lr_peak": lr, "dev": dev, "student": student, "epochs": epochs, "images_seen": 1000 * epochs} | more
    )


@pytest.fixture
def rows(made_study) -> pd.DataFrame:
    """Three methods at two rates; the rate that is best on test is another than that on dev for the second."""
    return made_study(
        tried("anchor_kl", 1e-3, dev=0.5, student=0.5),
        tried("anchor_kl", 2e-3, dev=0.7, student=0.85),
        tried("anchor_kl", 2e-3, dev=0.6, student=0.6, epochs=5),
        tried("relational", 1e-3, dev=0.6, student=0.4),
        tried("relational", 2e-3, dev=0.5, student=0.8),
        tried("dist", 1e-3, dev=0.65, student=0.85, luck=1),
        tried("labels", 1e-3, dev=0.9, student=0.9),
    )


def part(rows: pd.DataFrame) -> pd.DataFrame:
    return next(group for _, group in methods._of_teachers(rows))


def test_tuned__is_chosen_on_dev_and_never_on_test(rows):
    kept = methods.tuned(part(rows))
    rates = kept.drop_duplicates("objective").set_index("objective").lr_peak.to_dict()
    assert rates == {"anchor_kl": 2e-3, "relational": 1e-3, "dist": 1e-3}
    assert set(kept[kept.objective == "anchor_kl"].epochs) == {5, 10}


def test_tuned__trials_that_differ_in_something_else_are_not_mixed(made_study):
    """Two variants with one learning rate: the mean of their scores is that of no training."""
    of = part(made_study(
        tried("anchor_kl", 1e-3, dev=0.5, student=0.3, variant="crops"),
        tried("anchor_kl", 1e-3, dev=0.7, student=0.8, variant="whole"),
    ))  # fmt: skip
    assert list(methods.tuned(of).variant) == ["whole"]
    (line,) = methods.comparison(of).to_dict("records")
    assert line["trials"] == 2 and line["score"].startswith("0.800 [")


def test_comparison__holds_the_best_on_dev_against_each_other_method(rows):
    table = methods.comparison(part(rows)).set_index("losses")
    assert list(table.index) == ["anchor_kl", "dist", "relational"]  # a method without a teacher is none
    assert table.loc["relational", "verdict on the first"] == "better"
    assert table.loc["relational", "first − this"].startswith("+0.450 [")
    assert table.loc["dist", "verdict on the first"] == "not distinguishable"
    assert list(table.trials) == [2, 1, 2]


def test_images__until_a_share_of_the_teacher(rows):
    """The teacher has 0.9: 90 % of it is 0.81, which 0.85 after 10 epochs is above and 0.6 after 5 is not."""
    of = part(rows)
    best = of[(of.objective == "anchor_kl") & (of.lr_peak == 2e-3)]
    assert methods.images_until(best) == "10,000"
    assert methods.images_until(best[best.epochs == 5]) == "more than 5,000"


def test_answer__says_each_verdict_once():
    table = pd.DataFrame({"losses": ["both", "dist", "relational", "anchor_kl", "logit_matching", "contrastive"]})
    table["share of the teacher"] = 0.94
    table["verdict on the first"] = ["", OPEN, BETTER, OVERRULED, WORSE, BETTER]
    assert methods.answer(table) == (
        "both is best on dev and has 94 % of the teacher's score on test. On test it is better than relational, "
        "contrastive; worse than logit_matching; not distinguishable from dist; undecided after correction against "
        "anchor_kl."
    )
    assert methods.answer(table.head(1)).endswith("on test.")


def test_answers__are_the_verdicts_of_the_tables(study, shown, rows):
    found = study(tried("anchor_kl", 2e-3, dev=0.7, student=0.85), tried("relational", 1e-3, dev=0.6, student=0.4),
                  tried("dist", 1e-3, dev=0.65, student=0.85, luck=1))  # fmt: skip
    methods.answers(found)
    said = " ".join(shown)
    assert "On test it is better than relational; not distinguishable from dist." in said
    assert "Like the teacher" not in said  # the findings of a study are of methods that nobody tuned here


def test_convergences__say_what_twice_the_epochs_brought(made_study):
    rows = made_study(
        tried("anchor_kl", 1e-3, dev=0.4, student=0.4, epochs=5),
        tried("anchor_kl", 1e-3, dev=0.7, student=0.6, epochs=10),
        tried("dist", 1e-3, dev=0.7, student=0.6, epochs=5),
        tried("dist", 1e-3, dev=0.7, student=0.6, epochs=10),
    )
    found = learning.convergences(rows).set_index("student")["what twice the epochs bring on dev"]
    assert [words.split(":")[0] for words in found] == ["still learning", "converged"]
    assert learning.convergences(rows[rows.epochs == 5]).empty


def test_images_seen__are_shares_of_the_teacher(rows):
    points = learning.images_seen_points(rows)
    one = points[(points.variant == "anchor_kl-0.002") & (points.epochs == 10)].iloc[0]
    assert one["mean"] == pytest.approx(0.85 / 0.9) and one.low < one["mean"] < one.high
    assert one.images_seen == 10_000
    drawn = learning.images_seen_drawn(points, False)
    assert drawn.axes[0].get_xscale() == "log"


def test_images_seen__has_no_share_of_a_teacher_at_chance(made_study):
    untrained = tried("anchor_kl", 1e-3, dev=0.1, student=0.1, untrained_teacher=True, method="cbam")
    nothing = tried("anchor_kl", 1e-3, dev=0.1, student=0.1, teacher_score=0.0, teacher="beit")
    points = learning.images_seen_points(made_study(untrained, nothing, tried("anchor_kl", 1e-3, dev=0.5, student=0.5)))
    assert list(zip(points.teacher, points.method, strict=True)) == [("dino", "resnet")]


def test_images_seen__lines_of_one_network_differ_in_colour_and_those_of_several_have_their_networks():
    one = learning._looks(pd.DataFrame({"method": "resnet", "variant": [str(number) for number in range(12)]}))
    assert len({(look["color"], look["ls"]) for look in one.values()}) == 12
    two = learning._looks(pd.DataFrame({"method": ["resnet", "resnet", "densenet"], "variant": ["", "a", ""]}))
    assert two["resnet", ""]["color"] == two["resnet", "a"]["color"] != two["densenet", ""]["color"]
    assert two["resnet", ""]["ls"] != two["resnet", "a"]["ls"]


@pytest.mark.parametrize("narrow", [False, True])
def test_images_seen__long_names_stay_inside_the_figure(rows, narrow):
    points = learning.images_seen_points(rows.assign(variant=rows.objective + " with a name that fills the width"))
    drawn = learning.images_seen_drawn(points, narrow)
    drawn.draw_without_rendering()
    inside, names = drawn.bbox.extents, drawn.legends[0].get_window_extent().extents
    assert len(drawn.legends) == 1 and inside[0] <= names[0] and names[2] <= inside[2]


def test_chosen__is_without_the_other_trials_and_keeps_what_is_no_method(study):
    found = methods.chosen(study(
        tried("anchor_kl", 1e-3, dev=0.5, student=0.5), tried("anchor_kl", 2e-3, dev=0.7, student=0.85),
        tried("anchor_kl", 2e-3, dev=0.6, student=0.6, epochs=5), tried("no_teacher", 1e-3, dev=0.9, student=0.9),
        tried("anchor_kl", 1e-3, dev=0.5, student=0.5, teacher="beit"),
    ))  # fmt: skip
    kept = [(row.teacher, row.objective, row.lr_peak, row.epochs) for row in found.rows.itertuples()]
    assert set(found.rows.variant[found.rows.objective == "anchor_kl"]) == {"anchor_kl"}  # the name of its line
    assert sorted(kept) == [
        ("beit", "anchor_kl", 1e-3, 10), ("dino", "anchor_kl", 2e-3, 5), ("dino", "anchor_kl", 2e-3, 10),
        ("dino", "no_teacher", 1e-3, 10),
    ]  # fmt: skip


def test_pages__of_a_study_without_cooldowns_say_so(study, shown):
    found = study({"teacher": "dino", "images_seen": None})
    methods.answers(found)
    methods.methods(found)
    methods.trials(found)
    assert "No student has a score on dev, so no method can be chosen" in " ".join(shown)
    learning.images_seen(found)
    learning.converged(found)


def test_readme__its_table_and_sentences_of_methods_are_the_results_beside_the_study():
    found = pd.read_csv(studies_folder() / "methods.csv").fillna({"verdict": ""})
    told = (project_root() / "README.md").read_text().split("## Which method for which teacher")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ")]
    marks = {OPEN: " ≈", OVERRULED: " ?", WORSE: " >", BETTER: ""}
    teachers = list(dict.fromkeys(found.teacher))
    scores = [f"{part.teacher_score.iloc[0]:.3f}" for _, part in found.groupby("teacher", sort=False)]
    heads = [f"{teacher_name(name)}, {score}" for name, score in zip(teachers, scores, strict=True)]
    assert lines[0] == ["losses", *heads] and len(lines) == 1 + found.losses.nunique()
    cells = {
        (line[0].strip("`"), teacher): text
        for line in lines[1:]
        for teacher, text in zip(teachers, line[1:], strict=True)
    }
    for row in found.itertuples():
        score = f"{row.score:.3f} [{row.low:.3f}, {row.high:.3f}]"
        assert cells[row.losses, row.teacher] == (score + marks[row.verdict] if row.verdict else f"**{score}**")
    names = {"share": "share of the teacher", "verdict": "verdict on the first"}
    for teacher, part in found.rename(columns=names).groupby("teacher", sort=False):
        assert f"- {teacher_name(teacher)}: {methods.answer(part)}" in " ".join(told.split())
    highest = (found.learning_rate == found.learning_rate.max()).sum()
    assert f"For {highest} of {len(found)} the best rate is the highest" in " ".join(told.split())
    tried = found[[name for name in found if name.startswith("dev_")]]
    assert tried.shape[1] == 3 and (tried.max(axis=1) == found.dev).all()
