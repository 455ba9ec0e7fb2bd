"""What a teacher has seen of the test images (known, stated by its owner, or unknown), and what others measured."""

import json

import pytest

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.evaluate.known import FIGURES, LEVELS, SEEN, leakage, reference

BEIT = "microsoft/beit-base-patch16-224-pt22k-ft22k"


def of(checkpoint: str, dataset: str = "coco", data_root: str = "/data", **fields) -> dict:
    config = RunConfig(teacher="clip", dataset=dataset, checkpoint=str(checkpoint), data_root=data_root, **fields)
    return leakage(config)


@pytest.mark.parametrize(
    ("source", "dataset", "root", "pretrained", "level"),
    [
        ("toy", "coco", "shapes", False, "none"),
        ("toy", "tinyimagenet", "/data", True, "labels"),
        ("facebook/dino-vitb16@0123abc", "tinyimagenet", "/data", False, "images"),
        ("facebook/dino-vitb16", "tinyimagenet", "shapes", False, "none"),
        ("openai/clip-vit-base-patch32", "coco", "/data", True, "unknown"),
        ("", "coco", "/data", False, "unknown"),
    ],
)
def test_leakage__is_the_worse_of_teacher_and_initial_weights(source, dataset, root, pretrained, level):
    found = of(source, dataset, root, pretrained=pretrained, method="resnet", convnet="full")
    assert found["level"] == level and found["reason"]
    heads = of(source, dataset, root, pretrained=pretrained)  # a projection has no weights of torchvision
    assert heads["level"] == of(source, dataset, root)["level"]


@pytest.mark.parametrize(("extra", "level"), [("shapes:20000", "none"), ("/more/photos", "unknown")])
def test_leakage__extra_images_count_and_are_named(extra, level):
    """No synthetic one is scored; of a folder's it is known only that no file is one of the scored ones."""
    found = of("toy", "coco", "shapes", extra_images=extra)
    assert found["level"] == level and extra in found["reason"]
    assert of(BEIT, "tinyimagenet", extra_images=extra)["level"] == "labels"


@pytest.mark.parametrize("family", ["dino", "dinov2", "dinov3", "beit", "clip", "siglip2", "blip"])
def test_leakage__of_every_published_teacher_is_recorded(family):
    dataset = "coco" if family in ("clip", "blip", "siglip2") else "tinyimagenet"
    assert (teachers.TEACHERS[family].DEFAULT.partition("@")[0], dataset) in SEEN


def test_leakage__of_a_local_checkpoint_is_what_its_owner_states(tmp_path):
    for content in (None, "", "{", "[]"):
        if content is not None:
            (tmp_path / "leakage.json").write_text(content, encoding="utf-8")
        assert of(tmp_path)["level"] == "unknown"
    stated = {"coco": {"level": "none", "reason": "trained on drawings"}, "tinyimagenet": {"level": "seen"}}
    (tmp_path / "leakage.json").write_text(json.dumps(stated), encoding="utf-8")
    assert of(tmp_path) == {"level": "none", "reason": "trained on drawings"}
    found = of(tmp_path, "tinyimagenet")
    assert found["level"] == "unknown" and all(level in found["reason"] for level in LEVELS)


CLIP = "openai/clip-vit-base-patch32"
GOOD = {"t2i_r@1": 0.3044, "t2i_r@5": 0.5477, "t2i_r@10": 0.6624, "i2t_r@1": 0.507, "zeroshot_map": 0.5}


def beside(changed: dict, images: int = 5000, texts: int = 25000, **fields) -> list[dict]:
    config = RunConfig(teacher="clip", dataset="coco", **fields)
    return reference(config, CLIP, images, texts, {name: [value] for name, value in (GOOD | changed).items()})


@pytest.mark.parametrize("name", FIGURES[CLIP, "coco", 5000, 25000])
def test_reference__a_figure_is_met_within_a_point(name):
    for away in (0, 0.009, -0.009):
        found = beside({name: GOOD[name] + away})
        assert len(found) == 4 and all(entry["met"] for entry in found)
    for away in (0.032, -0.032):
        found = beside({name: GOOD[name] + away})
        assert [entry["score"] for entry in found if not entry["met"]] == [name]
    assert beside({}, 159, 5000) == beside({}, score_on="dev") == []  # not that test set
