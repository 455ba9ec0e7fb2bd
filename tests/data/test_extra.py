"""Extra images: a folder with captions or without, and synthetic ones; they follow fit as 'train'."""

import shutil

import made
import pytest

from kdlib import data
from kdlib.data import DataError, extra

NAMES = ("a.png", "b.JPG", "more/c d.webp", "more/f.tif", "more/é.bmp")


@pytest.fixture
def gathered(tmp_path):
    """A folder of five images, one folder of them linked, and other things."""
    folder = tmp_path / "gathered"
    for seed, name in enumerate(NAMES):
        made.picture(folder / name, seed)
    (folder / "more").rename(tmp_path / "elsewhere")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "more/loop").symlink_to(folder)
    made.write(folder / "notes.txt", "no image")
    made.write(folder / ".hidden.png", "no image")
    return folder


@pytest.fixture
def fit(small_shapes):
    return {name: data.load(name, small_shapes, "fit") for name in ("tinyimagenet", "coco")}


def test_load__takes_all_images_below_a_folder(gathered, fit):
    loaded = extra.load(str(gathered), fit["tinyimagenet"])
    assert loaded.ids == tuple(f"extra/{name}" for name in NAMES) and loaded.labels is None and loaded.captions is None
    assert loaded.left_out == (("notes.txt", "has no suffix of an image format"),)
    assert {image.size for image in loaded.images} == {(8, 8)}


def test_load__captions_are_read_where_the_data_have_some(gathered, fit):
    assert extra.load(str(gathered), fit["coco"]).captions is None
    texts = {name: [f"picture {name}"] * 7 for name in NAMES}
    made.write(gathered / "captions.json", texts)
    assert extra.load(str(gathered), fit["coco"]).captions[2] == ("picture more/c d.webp",) * 5
    assert extra.load(str(gathered), fit["tinyimagenet"]).captions is None
    for wrong in ([], [" \n"], [None], ["a dog", "\ud83d dog"]):
        made.write(gathered / "captions.json", texts | {"b.JPG": wrong})
        with pytest.raises(DataError, match=r"captions\.json: 1 entries cannot be used: b\.JPG has no caption"):
            extra.load(str(gathered), fit["coco"])
        assert len(extra.load(str(gathered), fit["coco"], "skip")) == 4
    for wrong in ("[]", "{", '{"a.png": 3}', '{"a.png": "a dog"}', "[" * 100_000):
        made.write(gathered / "captions.json", wrong)
        with pytest.raises(DataError, match=r"captions\.json is damaged"):
            extra.load(str(gathered), fit["coco"])


@pytest.mark.parametrize("given", ["nowhere", "shapes", "shapes:", "shapes:many", "shapes:1", "shapes:200000"])
def test_load__what_is_not_there_is_an_error_with_the_remedy(tmp_path, fit, given):
    with pytest.raises(DataError, match="shapes:20000"):
        extra.load(given if given.startswith("shapes") else str(tmp_path / given), fit["coco"])


def test_shapes__objects_have_labels_and_scenes_have_captions(fit):
    objects = extra.load("shapes:50", fit["tinyimagenet"])
    assert len(objects) == 50 == len(objects.labels) and objects.captions is None and len(set(objects.ids)) == 50
    scenes = extra.load("shapes:30", fit["coco"])
    assert len(scenes) == 30 and all(len(texts) == 5 for texts in scenes.captions) and scenes.labels is None
    assert extra.load("shapes:50", fit["tinyimagenet"].take(range(9), class_names=("tench",))).labels is None


@pytest.mark.parametrize("teacher", ["dino", "clip"])
def test_open_data__train_is_fit_and_then_the_extra_images(small_run, gathered, teacher):
    splits = data.open_data(small_run(teacher, extra_images=str(gathered), train_limit=20))
    train, first = splits["train"], splits["fit"]
    assert train.ids == (*first.ids, *(f"extra/{name}" for name in NAMES)) and len(train.images) == 25
    assert train.split == "train" and train.left_out == (("notes.txt", "has no suffix of an image format"),)
    if teacher == "dino":
        assert train.labels.tolist() == [*first.labels.tolist(), *[-1] * 5] and train.class_names == first.class_names
    else:
        assert train.captions == (*first.captions, *[()] * 5) and train.category_names == first.category_names


def test_open_data__synthetic_extra_images_are_none_of_the_studys(small_run):
    splits = data.open_data(small_run("dino", extra_images="shapes:40"))  # an overlap is an error
    assert (splits["train"].labels >= 0).all() and len(splits["train"]) == len(splits["fit"]) + 40


def test_open_data__an_extra_image_that_is_scored_is_found_by_its_content(small_run, gathered, small_shapes):
    test = data.load("tinyimagenet", small_shapes, "test")
    shutil.copy(test.paths[3], gathered / "innocent.jpg")
    with pytest.raises(DataError, match=r"1 images are in two splits: extra/innocent\.jpg is val_3\.JPEG of test"):
        data.open_data(small_run("dino", extra_images=str(gathered)))
    train = data.open_data(small_run("dino", extra_images=str(gathered), on_overlap="drop"))["train"]
    assert "extra/innocent.jpg" not in train.ids and train.left_out[-1][0] == "extra/innocent.jpg"
