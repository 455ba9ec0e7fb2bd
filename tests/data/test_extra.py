import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdlib import data as datasets
from kdlib.data import extra, splits
from kdlib.data.dataset import DataError


@pytest.fixture
def gathered(tmp_path):
    """A folder of five images in two folders, and other things; its zip archive beside it."""
    folder = tmp_path / "gathered"
    for number, name in enumerate(("a.png", "b.JPG", "more/c.webp", "more/d.bmp", "more/e.jpeg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 7, 3), 40 * number, dtype=np.uint8)).save(path)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "gathered.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return folder


@pytest.fixture
def fit(small_shapes):
    return {name: datasets.load(name, small_shapes, "fit") for name in ("tinyimagenet", "coco")}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_load__takes_all_images_of_a_folder_or_a_zip(gathered, fit, form):
    given = gathered if form == "folder" else gathered.with_suffix(".zip")
    found = extra.load(str(given), fit["tinyimagenet"])
    assert found.image_names == ("a.png", "b.JPG", "more/c.webp", "more/d.bmp", "more/e.jpeg")
    assert found.ids[0] == "extra/a.png" and found.labels is None and found.captions is None
    assert found.images[1].size == (7, 9)


def test_load__captions_are_read_where_the_data_have_some(gathered, fit):
    names = ["a.png", "b.JPG", "more/c.webp", "more/d.bmp", "more/e.jpeg"]
    assert extra.load(str(gathered), fit["coco"]).captions is None
    (gathered / "captions.json").write_text(json.dumps({name: [f"picture {name}"] for name in names}))
    assert extra.load(str(gathered), fit["coco"]).captions[2] == ("picture more/c.webp",)
    assert extra.load(str(gathered), fit["tinyimagenet"]).captions is None
    (gathered / "captions.json").write_text(json.dumps({name: [f"picture {name}"] for name in names[1:]}))
    with pytest.raises(DataError, match=r"1 images have no caption in captions.json: a.png"):
        extra.load(str(gathered), fit["coco"])
    for wrong in ("[]", "{", '{"a.png": 3}', '{"a.png": "a dog"}', '{"a.png": {"a": "dog"}}', "[" * 100_000):
        (gathered / "captions.json").write_text(wrong)
        with pytest.raises(DataError, match="is not of the form"):
            extra.load(str(gathered), fit["coco"])


@pytest.mark.parametrize("caption", [" \n", None, 7, "\ud83d dog"])
def test_load__a_caption_that_cannot_be_read_is_an_error_that_names_its_image(gathered, fit, caption):
    names = ["a.png", "b.JPG", "more/c.webp", "more/d.bmp", "more/e.jpeg"]
    known = {name: ["a dog"] for name in names} | {"b.JPG": ["a dog", caption]}
    (gathered / "captions.json").write_text(json.dumps(known))
    with pytest.raises(DataError, match=r"1 images have a caption that is blank.*: b.JPG\. Add a list"):
        extra.load(str(gathered), fit["coco"])


@pytest.mark.parametrize("given", ["nowhere", "drawn:", "drawn:many", "drawn:1", "drawn:200000"])
def test_load__what_cannot_be_had_is_an_error_with_the_remedy(tmp_path, fit, given):
    with pytest.raises(DataError, match="drawn:20000"):
        extra.load(given if given.startswith("drawn") else str(tmp_path / given), fit["coco"])


def test_drawn__objects_have_labels_and_scenes_have_captions(fit):
    objects = extra.load("drawn:50", fit["tinyimagenet"])
    assert len(objects) == 50 and len(objects.labels) == 50 and objects.captions is None
    scenes = extra.load("drawn:30", fit["coco"])
    assert len(scenes) == 30 and all(len(texts) == 5 for texts in scenes.captions) and scenes.labels is None
    assert len(set(objects.ids)) == 50 and len(set(scenes.ids)) == 30
    assert extra.load("drawn:50", fit["tinyimagenet"]).fingerprint == objects.fingerprint


def test_drawn__no_image_is_one_of_the_studys_or_of_the_stand_ins(fit, small_shapes):
    from kdlib.teachers.standins import __main__ as standins

    assert extra.SEED not in (standins.SEED, 0)
    for name, first in fit.items():
        loaded = {split: datasets.load(name, small_shapes, split) for split in ("fit", "dev", "test")}
        assert not any(splits.overlaps(loaded | {"extra": extra.load("drawn:40", first)}).values())


def test_drawn__labels_of_another_data_set_are_not_taken(fit):
    from dataclasses import replace

    other = replace(fit["tinyimagenet"], class_names=("goldfish", "tench"))
    assert extra.load("drawn:20", other).labels is None


def test_separate__an_extra_image_that_is_scored_is_found_by_its_bytes(gathered, fit, small_shapes):
    test = datasets.load("tinyimagenet", small_shapes, "test")
    (gathered / "innocent.jpg").write_bytes(test.tree.read(test.image_names[3]))
    loaded = {"fit": fit["tinyimagenet"], "test": test, "extra": extra.load(str(gathered), fit["tinyimagenet"])}
    with pytest.raises(DataError, match=r"1 images are in two splits: innocent.jpg and .*val_3"):
        splits.separate(loaded)
    kept = splits.separate(loaded, "drop")
    assert "innocent.jpg" not in kept["extra"].image_names and len(kept["test"]) == len(test)
    assert kept["extra"].left_out[0][0] == "innocent.jpg"
