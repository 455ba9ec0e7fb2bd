"""What a teacher has seen of the test images (known, stated by its owner, or unknown)."""

import json

import pytest

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.evaluate.known import LEVELS, SEEN, leakage

BEIT = "microsoft/beit-base-patch16-224-pt22k-ft22k"


def of(checkpoint: str, dataset: str = "coco", root: str = "/data", **fields) -> dict:
    return leakage(RunConfig(teacher="clip", dataset=dataset, checkpoint=str(checkpoint), data_root=root, **fields))


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
    assert SEEN[teachers.TEACHERS[family].DEFAULT][dataset]["level"] in LEVELS


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
