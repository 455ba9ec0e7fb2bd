"""COCO and captions in its layout: splits, captions, categories, ids of any kind, and what is wrong with the files."""

import hashlib
import shutil

import made
import pytest

from kdlib import data
from kdlib.data import DataError, coco

CAPTIONS, INSTANCES = "annotations/captions_val2017.json", "annotations/instances_val2017.json"


@pytest.fixture
def top(tmp_path):
    return made.coco(tmp_path / "data")


def load(top, split="test", **options):
    return data.load("coco", top, split, **options)


def test_load__fit_and_dev_share_train2017_by_the_sha1_of_the_image_id(top, monkeypatch):
    fit, dev = load(top, "fit"), load(top, "dev")
    numbers = [str(number) for number in range(100, 130)]
    assert set(dev.ids) == set(sorted(numbers, key=lambda text: hashlib.sha1(text.encode()).hexdigest())[:3])
    assert sorted(dev.ids + fit.ids) == numbers
    monkeypatch.setattr(coco, "DEV_LARGEST", 2)
    assert [len(load(top, split)) for split in ("fit", "dev")] == [28, 2]


def test_load__test_is_val2017_with_five_captions_by_annotation_id_and_its_categories(top):
    test = load(top)
    assert test.ids == ("900", "901", "902", "903") and test.title == "COCO" and test.left_out == ()
    assert test.paths == tuple(str(top / f"val2017/{number:012d}.jpg") for number in range(900, 904))
    assert test.captions == tuple(tuple(f"caption {i} of {number}." for i in range(5)) for number in test.ids)
    assert test.category_names == ("person", "dog", "toothbrush")  # in the order of their ids
    assert test.categories == ((), (0, 2), (0, 2), (2,))  # 900: none; 901 % 3 + 1 = 2 instances, and so on


def test_load__captions_alone_are_enough(top):
    expected = load(top)
    shutil.rmtree(top / "train2017")
    for name in (INSTANCES, INSTANCES.replace("val", "train"), CAPTIONS.replace("val", "train")):
        (top / name).unlink()
    test = load(top)
    assert (test.ids, test.captions, test.categories) == (expected.ids, expected.captions, None)


@pytest.mark.parametrize("kind", [str, float, "{:012d}".format, "{}.0".format])
def test_load__ids_of_any_kind_match(top, kind):
    def edit(record):
        for note in record["annotations"]:
            note |= {"image_id": kind(note["image_id"]), "id": str(note["id"])}

    expected = load(top).fingerprint
    made.change(top / CAPTIONS, edit)
    assert load(top).fingerprint == expected
    made.change(top / CAPTIONS, lambda record: record["images"].extend(record["images"]))  # an entry twice
    assert load(top).fingerprint == expected


@pytest.mark.parametrize("place", ["val2017/val2017", "images/val2017"])
def test_load__a_folder_more_is_found(top, tmp_path, place):
    shutil.move(top / "val2017", top / "moved")
    (top / place).parent.mkdir()
    shutil.move(top / "moved", top / place)
    shutil.move(top.parent, tmp_path / "coco2017")
    assert load(tmp_path).images[0].size == (8, 8)


def subset(record):
    """903 has no caption, 901 three that are no text, and one is of an image of elsewhere."""
    record["annotations"] = [note for note in record["annotations"] if note["image_id"] != 903]
    mine = [note for note in record["annotations"] if note["image_id"] == 901]
    for note, text in zip(mine, (" \n ", None, "\ud83d dog"), strict=False):  # half of a surrogate pair
        note["caption"] = text
    record["annotations"].append({"id": 7, "image_id": 555, "caption": "of another file"})


def test_load__what_is_missing_is_one_error_or_left_out_and_counted(top):
    (top / "val2017/000000000902.jpg").unlink()
    made.picture(top / "val2017/more.png", 1)
    made.change(top / CAPTIONS, subset)
    with pytest.raises(DataError, match=r"captions_val2017\.json: 6 entries cannot be used: caption 7 has no image"):
        load(top)
    test = load(top, on_missing="skip")
    assert test.ids == ("900", "901") and test.captions[1] == tuple(f"caption {i} of 901." for i in (0, 1, 2))
    assert dict(test.left_out) == {f"caption {number}": "is no text" for number in (9013, 9014, 9015)} | {
        "more.png": "is not in captions_val2017.json",
        "caption 7": "has no image, 555",
        "000000000902.jpg": f"is not in {top}/val2017",
        "000000000903.jpg": "has no caption",
    }


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (CAPTIONS, b"\xff\xfe{}", r"captions_val2017\.json is damaged"),
        (CAPTIONS, b'{"images": []}', r"captions_val2017\.json is damaged, or another file.*KeyError: 'annotations'"),
        (CAPTIONS, b'{"images": [], "annotations": []}', "the split 'test' is empty"),
        (INSTANCES, b'{"annotations": [{"image_id": 900, "category_id": 5}], "categories": []}', "KeyError: '5'"),
    ],
)
def test_load__a_file_that_is_no_record_is_named(top, file, content, message):
    (top / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(top)
