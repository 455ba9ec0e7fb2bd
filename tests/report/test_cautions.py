"""What a reader must know before any number."""

import pytest

from kdlib.report.cautions import cautions


def said(rows) -> dict[str, str]:
    return dict(cautions(rows))


def test_cautions__of_an_honest_study_are_few(study):
    fine = {"teacher_source": "openai/clip-vit-base-patch32", "data_root": "/data", "convnet": "full"}
    assert said(study(*({**fine, "seed": seed} for seed in (0, 1))).rows) == {}


@pytest.mark.parametrize(
    ("facts", "short", "words"),
    [
        ({}, "stand-in teachers", "say nothing about the published checkpoints"),
        ({}, "drawn data", "not the data sets themselves"),
        ({}, "one seed", "not that of initial weights"),
        ({"score_on": "dev"}, "scored on dev", "none of them is a result"),
        ({"method": "resnet"}, "narrow networks", "narrow here"),
        ({"untrained_teacher": True, "variant": "untrained_heads"}, "untrained heads", "CLIP, untrained heads"),
        ({"exposure": "labels"}, "exposure: labels", "clip on coco have seen test images or their classes"),
        ({"skipped_images": 3}, "unreadable images", "Up to 3"),
        ({"commit": "abc-dirty"}, "uncommitted code", "in no commit"),
        ({"teacher_source": "mine.pt"}, "checkpoint by hand", "mine.pt"),
        ({"left_out_images": 1, "left_out": "a (a copy of b)"}, "copies between splits", "a (a copy of b)"),
        ({"duplicate_images": 3}, "copies in a split", "COCO: 3 images"),
        ({"coinciding": "1,989 of 2,500 captions"}, "equal embeddings", "CLIP 1,989 of 2,500 captions"),
        ({"reference": "Misses public measurements: x."}, "public figures missed", "CLIP: Misses public"),
    ],
)
def test_cautions__each_has_two_words_and_a_sentence(study, facts, short, words):
    assert words in said(study(facts).rows)[short]


@pytest.mark.parametrize("own", ["efficientnet", "my_teachers:EfficientNet"])
def test_cautions__a_teacher_of_ones_own_stands_in_the_place_of_no_published_one(study, own):
    found = said(study({"teacher": own, "dataset": "flowers", "teacher_source": "/models/lite0"}).rows)
    assert "checkpoint by hand" not in found and "stand-in teachers" not in found


def test_cautions__a_teacher_that_meets_public_figures_is_none(study):
    assert "public figures missed" not in said(study({"reference": "Meets public measurements: x."}).rows)


def test_at_chance__a_teacher_like_a_constant_encoder_is_noticed(study):
    assert "0.010 against 0.010" in said(study({"teacher_score": 0.01, "constant": 0.01}).rows)["CLIP at chance"]


def test_at_chance__in_zero_shot_too(study):
    rows = study({"teacher zeroshot_map": 0.211, "constant zeroshot_map": 0.232}).rows
    assert "0.211 is no better than a constant encoder's 0.232" in said(rows)["CLIP at chance in zero-shot"]
    assert "CLIP at chance in zero-shot" not in said(
        study({"teacher zeroshot_map": 0.3, "constant zeroshot_map": 0.2}).rows
    )


def test_cautions__are_none_where_nothing_has_finished(made_study):
    assert cautions(made_study({"outcome": "absent"})) == []
