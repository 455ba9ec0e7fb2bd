"""The published CLIP on the whole of val2017, held against what others measured."""

import pytest

from kdlib.evaluate.reference import REFERENCES, check, in_words

CLIP = ("openai/clip-vit-base-patch32", "coco", 5000, 25000)
GOOD = {"t2i_r@1": 0.3044, "t2i_r@5": 0.5477, "t2i_r@10": 0.6624, "i2t_r@1": 0.507, "zeroshot_map": 0.5}


def test_check__what_others_measured_meets_itself_and_a_point_beside_it():
    for away in (0, 0.009, -0.009):
        found = check(*CLIP, {name: score + away for name, score in GOOD.items()})
        assert len(found) == 4 and all(entry["met"] for entry in found)
    assert in_words(found).startswith("Meets public measurements") and "i2t_r@1 49.8% (public 50.0% to 52.0%)" in (
        in_words(found)
    )


@pytest.mark.parametrize("name", REFERENCES[0].figures)
@pytest.mark.parametrize("away", [-0.032, 0.032])
def test_check__one_figure_elsewhere_is_a_miss_that_is_named(name, away):
    found = check(*CLIP, GOOD | {name: GOOD[name] + away})
    assert [entry["score"] for entry in found if not entry["met"]] == [name]
    assert in_words(found).startswith("Misses") and "Look at the checkpoint" in in_words(found)


@pytest.mark.parametrize(
    "other",
    [
        ("openai/clip-vit-large-patch14", "coco", 5000, 25000),
        ("stand-in", "coco", 5000, 25000),
        ("openai/clip-vit-base-patch32", "tinyimagenet", 5000, 25000),
        ("openai/clip-vit-base-patch32", "coco", 159, 795),
        ("openai/clip-vit-base-patch32", "coco", 5000, 5000),
    ],
)
def test_check__another_checkpoint_or_test_set_is_not_compared(other):
    assert check(*other, GOOD) == [] and in_words([]) == ""
