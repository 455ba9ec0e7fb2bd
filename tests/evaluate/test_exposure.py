"""What a teacher has seen of the test images: known, stated by its owner, or unknown."""

import json

import pytest

from kdlib import teachers
from kdlib.evaluate.exposure import KNOWN, LEVELS, exposure
from kdlib.teachers import STANDIN


@pytest.mark.parametrize(
    ("source", "dataset", "root", "pretrained", "level"),
    [
        (STANDIN, "coco", "shapes", False, "none"),
        (STANDIN, "coco", "/data", False, "none"),
        (STANDIN, "tinyimagenet", "/data", True, "labels"),
        ("facebook/dino-vitb16", "tinyimagenet", "/data", False, "images"),
        ("facebook/dino-vitb16", "tinyimagenet", "shapes", False, "none"),
        ("facebook/dino-vitb16", "tinyimagenet", "/data", True, "labels"),
        ("microsoft/beit-base-patch16-224-pt22k-ft22k", "tinyimagenet", "/data", False, "labels"),
        ("Salesforce/blip-itm-base-coco", "coco", "/data", False, "images"),
        ("openai/clip-vit-base-patch32", "coco", "/data", True, "unknown"),
        ("someone/else", "coco", "/data", False, "unknown"),
    ],
)
def test_exposure__is_the_worse_of_teacher_and_initial_weights(source, dataset, root, pretrained, level):
    found = exposure(source, dataset, root, pretrained)
    assert found["level"] == level and found["why"]


@pytest.mark.parametrize(
    ("extra", "level", "told"),
    [("drawn:20000", "none", "20000 images drawn"), ("/more/photos", "unknown", "/more/photos")],
)
def test_exposure__extra_images_count_and_are_named(extra, level, told):
    """No drawn one is scored; of a folder's it is known only that no file is one of the scored ones."""
    found = exposure(STANDIN, "coco", "shapes", extra_images=extra)
    assert found["level"] == level and told in found["why"]
    beit = "microsoft/beit-base-patch16-224-pt22k-ft22k"
    assert exposure(beit, "tinyimagenet", "/data", extra_images=extra)["level"] == "labels"


def test_exposure__of_a_local_checkpoint_is_unknown(tmp_path):
    assert exposure(str(tmp_path), "coco", "/data")["level"] == "unknown"


@pytest.mark.parametrize("family", list(teachers.TEACHERS))
def test_exposure__of_every_published_teacher_is_recorded(family):
    dataset = "coco" if family in ("clip", "blip", "siglip2") else "tinyimagenet"
    assert (teachers.TEACHERS[family].DEFAULT, dataset) in KNOWN


def test_exposure__of_a_local_checkpoint_is_what_its_owner_states(tmp_path):
    stated = {"coco": {"level": "none", "why": "trained on drawings"}, "tinyimagenet": {"level": "seen"}}
    (tmp_path / "exposure.json").write_text(json.dumps(stated))
    assert exposure(str(tmp_path), "coco", "/data") == {"level": "none", "why": "trained on drawings"}
    found = exposure(str(tmp_path), "tinyimagenet", "/data")
    assert found["level"] == "unknown" and all(level in found["why"] for level in LEVELS)


@pytest.mark.parametrize("content", ["", "[]", "{", '"coco"', "null", '{"coco": ["none", "because"]}'])
def test_exposure__a_statement_that_cannot_be_read_is_unknown(tmp_path, content):
    (tmp_path / "exposure.json").write_text(content)
    assert exposure(str(tmp_path), "coco", "/data")["level"] == "unknown"
