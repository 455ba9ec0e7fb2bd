"""Extra images: a folder with captions or without, and synthetic ones; they follow fit as 'train'."""

import shutil

import made
import pytest

from kdlib import data
from kdlib.data import DataError, folder

NAMES = ("a.png", "b.JPG", "more/c d.webp", "more/f.tif", "more/é.bmp")


@pytest.fixture
def gathered(tmp_path):
    """A folder of five images, one folder of them linked, and other things."""
    root = tmp_path / "gathered"
    for seed, name in enumerate(NAMES):
        made.picture(root / name, seed)
    (root / "more").rename(tmp_path / "elsewhere")
    (root / "more").symlink_to(tmp_path / "elsewhere")
    (root / "more/loop").symlink_to(root)
    made.write(root / "notes.txt", "no image")
    made.write(root / ".hidden.png", "no image")
    return root


def test_loose__captions_are_read_where_the_data_have_some(gathered, small_shapes):
    fit = {name: data.load(name, small_shapes, "fit") for name in ("tinyimagenet", "coco")}
    assert folder.loose(gathered, fit["coco"], "error").captions is None
    texts = {name: [f"picture {name}"] * 7 for name in NAMES}
    made.write(gathered / "captions.json", texts)
    assert folder.loose(gathered, fit["coco"], "error").captions[2] == ("picture more/c d.webp",) * 5
    assert folder.loose(gathered, fit["tinyimagenet"], "error").captions is None
    for wrong in ([], [" \n"], [None], ["a dog", "\ud83d dog"]):
        made.write(gathered / "captions.json", texts | {"b.JPG": wrong})
        with pytest.raises(DataError, match=r"captions\.json: 1 entries cannot be used: b\.JPG has no caption"):
            folder.loose(gathered, fit["coco"], "error")
        assert len(folder.loose(gathered, fit["coco"], "skip")) == 4
    for wrong in ("[]", "{", '{"a.png": 3}'):
        made.write(gathered / "captions.json", wrong)
        with pytest.raises(DataError, match=r"captions\.json is damaged"):
            folder.loose(gathered, fit["coco"], "error")


@pytest.mark.parametrize("given", ["nowhere", "shapes", "shapes:", "shapes:many", "shapes:1", "shapes:200000"])
def test_open_data__extra_images_that_are_not_there_are_an_error_with_the_remedy(small_run, given):
    with pytest.raises(DataError, match="shapes:20000"):
        data.open_data(small_run(extra_images=given))


@pytest.mark.parametrize("teacher", ["dino", "clip"])
def test_open_data__train_is_fit_and_then_the_extra_images(small_run, gathered, teacher):
    splits = data.open_data(small_run(teacher, extra_images=str(gathered), train_limit=20))
    train, first = splits["train"], splits["fit"]
    assert train.ids == (*first.ids, *(f"extra/{name}" for name in NAMES))
    assert len(train.images) == 25 and train.images[-1].size == (8, 8)
    assert train.split == "train" and train.left_out == (("notes.txt", "has no suffix of an image format"),)
    if teacher == "dino":
        assert train.labels.tolist() == [*first.labels.tolist(), *[-1] * 5] and train.class_names == first.class_names
    else:
        assert train.captions == (*first.captions, *[()] * 5) and train.category_names == first.category_names


def test_open_data__synthetic_extra_images_are_others_and_have_labels_or_captions(small_run, gathered):
    splits = data.open_data(small_run("dino", extra_images="shapes:40"))  # an overlap is an error
    assert (splits["train"].labels >= 0).all() and len(splits["train"]) == len(splits["fit"]) + 40
    splits = data.open_data(small_run("clip", extra_images="shapes:30"))
    assert len(splits["train"]) == len(splits["fit"]) + 30 and all(len(own) == 5 for own in splits["train"].captions)
    for seed, name in enumerate(("cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png", "dog/3.png")):
        made.picture(gathered.parent / "pets" / name, 100 + seed)
    pets = {"dataset": "folder", "data_root": str(gathered.parent / "pets")}
    assert set(data.open_data(small_run("dino", extra_images="shapes:40", **pets))["train"].labels[2:]) == {-1}


def test_open_data__an_extra_image_that_is_scored_is_found_by_its_content(small_run, gathered, small_shapes):
    test = data.load("tinyimagenet", small_shapes, "test")
    shutil.copy(test.paths[3], gathered / "innocent.jpg")
    with pytest.raises(DataError, match=r"1 images are in two splits: extra/innocent\.jpg is in test, as val_3\.JPEG"):
        data.open_data(small_run("dino", extra_images=str(gathered)))
    train = data.open_data(small_run("dino", extra_images=str(gathered), on_overlap="drop"))["train"]
    assert "extra/innocent.jpg" not in train.ids and train.left_out[-1][0] == "extra/innocent.jpg"
