"""The parts of a study's report that open under their questions, as they are shown."""

import re

import pytest

from kdlib.files import file_digest
from kdlib.report import cost_page, first_screen, provenance, study_page

METHODS = ("projection", "cbam")


def text_of(shown: list[str]) -> str:
    return "\n".join(shown)


def test_as_in_the_paper__printed_and_ours_stand_together_and_are_files(study, shown):
    found = study(*({"method": method, "epochs": epochs} for method in METHODS for epochs in (5, 10)))
    study_page.as_in_the_paper(found)
    assert "0.7234" in text_of(shown)
    assert {path.name for path in (found.folder / "figures").glob("*.tex")} == {
        "coco-printed.tex", "coco-in_batch.tex", "threeway.tex"
    }  # fmt: skip


def test_as_in_the_paper__an_identity_is_said_once(study, shown):
    study_page.as_in_the_paper(study({"teacher": "dino", "degenerate": "in_batch@64"}))
    assert "trained or not: it is not repeated" in text_of(shown)
    assert "Tiny ImageNet, in_batch@64" not in text_of(shown)


def test_more_training__has_the_headline_at_every_number_of_epochs(study, shown, table_of_file):
    found = study(*({"method": method, "epochs": epochs, "images_seen": 100 * epochs}
                    for method in METHODS for epochs in (5, 10)))  # fmt: skip
    study_page.more_training(found)
    table = table_of_file(found, "coco-headline", index_col=0)
    assert table.index.tolist() == ["clip, untrained", "clip, 5 epochs", "clip, 10 epochs"]
    assert "Scores after 5 and 10 epochs" in text_of(shown)
    assert "No student was cooled down" in text_of(shown)


def test_more_training__says_which_student_that_was_cooled_down_has_converged(study, shown, table_of_file):
    cooled = {"method": "resnet", "variant": "standalone", "student": 0.6, "dev": 0.7}
    experiments = {"epochs": 5, **cooled}, {"epochs": 10, **cooled}, {"epochs": 10}
    found = study(*({"images_seen": 1000} | one for one in experiments))
    study_page.more_training(found)
    (line,) = table_of_file(found, "convergence").to_dict("records")
    assert line["student"] == "resnet, standalone"
    assert line["what twice the epochs bring on dev"].startswith("converged")
    points = table_of_file(found, "images-seen")
    assert set(zip(points.method, points.epochs, strict=True)) == {("resnet", 5), ("resnet", 10), ("projection", 10)}


def test_other_scores__only_those_that_were_taken(study, shown):
    study_page.other_scores(study({"student i2t_r@1": 0.4, "untrained i2t_r@1": 0.1, "teacher i2t_r@1": 0.5}))
    assert "COCO: i2t_r@1" in text_of(shown) and "zeroshot_map" not in text_of(shown)


def test_verdicts__are_counted_and_then_listed_behind_a_line(study, shown, table_of_file):
    found = study({"student": 0.8, "untrained": 0.2}, {"method": "cbam", "student": 0.2, "untrained": 0.2})
    study_page.verdicts(found, ("untrained",))
    counts = table_of_file(found, "verdicts-of-1-questions", index_col=0)
    assert counts.loc["The student against itself untrained"].to_dict() == {
        "better": 1, "not distinguishable": 1, "undecided after correction": 0, "worse": 0
    }  # fmt: skip
    assert any("<summary>The student against itself untrained: all 2" in text for text in shown)


def test_claims_in_short__has_each_claim_with_its_judgement_and_links_to_the_page(study, shown):
    study_page.claims_in_short(study({}))
    text = text_of(shown)
    assert 'href="claims.html"' in text and text.count("not testable here") >= 5
    assert "What became of the paper" in text


def test_claims__of_the_paper_are_not_judged_on_another_teacher(study, shown):
    found = study({"teacher": "efficientnet", "dataset": "flowers"})
    study_page.claims_in_short(found)
    study_page.as_in_the_paper(found)
    assert not shown
    study_page.claims(found)
    assert "none of the paper's teachers" in text_of(shown).replace("&#x27;", "'")


PARTS = [first_screen.picture, first_screen.main_table, first_screen.cautions,
         study_page.distilled, study_page.more_training, study_page.other_scores, study_page.as_in_the_paper,
         cost_page.costs, cost_page.bill, study_page.again, study_page.cite, study_page.variants]  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
@pytest.mark.parametrize("outcome", ["absent", "error"])
def test_parts__of_a_study_without_a_result_do_not_fail(study, shown, part, outcome):
    part(study({"outcome": outcome}))
    assert not any("<img" in text or "<table" in text for text in shown)


def test_again__says_commit_versions_command_and_hardware(study, shown):
    found = study({})
    versions = [{"kdlib": "0.1.0", "commit": "abc-dirty", "torch": "2.9.0", "experiments": 1}]
    hardware = [{"name": "A CPU", "experiments": 1}]
    made = {"study": {"study": "s"}, "versions": versions, "hardware": hardware, "configs": []}
    provenance.write(made | {"from": "then", "to": "2026-11-24"}, found.folder)
    study_page.again(found)
    text = text_of(shown)
    for words in ("git checkout abc\n", "kdlib run study.yaml", "torch==2.9.0", "A CPU", "study: s"):
        assert words in text, words
    assert 'href="study.yaml"' in text and 'href="requirements.txt"' in text


def test_cite__names_the_digest_of_the_file_that_holds_every_number(study, shown):
    found = study({})
    study_page.cite(found)
    assert file_digest(found.folder / "results.csv") in text_of(shown) and "@misc{kdlib-" in text_of(shown)


def test_variants__stand_beside_the_methods_own(study, shown, table_of_file):
    found = study({"student": 0.8}, {"variant": "no_kl", "student": 0.3})
    study_page.variants(found)
    frame = table_of_file(found, "variants-clip-coco")
    assert frame.training.tolist() == ["the method's own", "no kl"] and frame["verdict on the own"][1] == "better"


def test_experiments__the_score_comes_before_what_a_phone_cuts_off(study, shown):
    study_page.experiments(study({}))
    heads = re.findall(r'<th scope="col">([^<]*)</th>', text_of(shown))
    assert heads[:3] == ["page", "method", "score"]
