"""The first screen of a study's report, as it is shown."""

import pytest

from kdlib.report import first_screen, provenance

METHODS = ("projection", "cbam")


def text_of(shown: list[str]) -> str:
    return "\n".join(shown)


def test_findings__failed_experiments_are_seen_before_any_number(study, shown):
    first_screen.findings(study({}, {"method": "cbam", "outcome": "out_of_memory"}))
    text = text_of(shown)
    assert "1 of 2 experiments have no result" in text and "out of memory" in text
    assert text.index("have no result") < text.index("<li><b>Teachers:</b>")


def test_cautions__are_one_box_with_a_line_that_names_them(study, shown):
    first_screen.cautions(study({}))
    (box,) = shown
    assert box.startswith(
        '<details class="cautions"><summary><b>Careful:</b> stand-in teachers · drawn data · one seed'
    )


def test_facts__every_caption_says_study_data_images_seeds_stand_ins_and_brackets(study, shown):
    found = study({}, {"teacher": "dino", "images": 300})
    first_screen.main_table(found)
    (table,) = shown
    for words in (found.name, "drawn shapes", "COCO 200, Tiny ImageNet 300 test images", "1 seed", "stand-in teachers",
                  "95 % interval over test images", "<b>Table 1.</b>"):  # fmt: skip
        assert words in table, words
    paper = (found.folder / "figures" / "main.tex").read_text()
    assert "stand-in teachers" in paper and "COCO 200" in paper


def test_picture__is_a_figure_that_says_what_is_on_the_front(study, shown):
    found = study(*({"method": method, "epochs": epochs} for method in METHODS for epochs in (5, 10)))
    first_screen.picture(found)
    assert "On the Pareto front, COCO: CLIP teacher" in text_of(shown)
    assert (found.folder / "figures" / "overview.svg").exists()


def test_findings__of_a_study_without_a_result_are_its_failures(study, shown):
    first_screen.findings(study({"outcome": "error"}))
    assert "1 of 1 experiments have no result" in text_of(shown) and "No experiment has finished yet" in text_of(shown)


@pytest.mark.parametrize(
    ("problems", "words"), [([], "9 results unaltered, 3 computed again"), (["a was altered"], "1 problems")]
)
def test_pages__say_when_the_study_was_verified_and_what_was_found(study, shown, problems, words):
    found = study({})
    verified = {"when": "2026-01-03T00:00:00Z", "results": 9, "recomputed": 3, "problems": problems}
    provenance.write(provenance.read(found.folder) | {"verified": verified}, found.folder)
    first_screen.pages(found)
    assert f"verified 2026-01-03T00:00:00Z: {words}" in shown[-1]
