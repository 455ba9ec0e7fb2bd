"""A folder of one's own images: one folder a class, cut by hash, or with train/ and val/."""

import hashlib
import shutil

import made
import pytest

from kdlib import data
from kdlib.data import DataError

CLASSES = ("Zoë's cats", "собаки", "鳥")


@pytest.fixture
def photos(tmp_path):
    """Three classes of 10 images, in several formats."""
    for number in range(30):
        name = f"bild {number % 10}{('.jpg', '.webp', '.bmp', '.tif', '.PNG')[number % 5]}"
        made.picture(tmp_path / "my photos" / CLASSES[number // 10] / name, number)
    return tmp_path / "my photos"


def load(root, split="fit"):
    return data.load("folder", root, split)


def test_load__a_flat_folder_is_cut_by_the_sha1_of_the_names(photos):
    splits = {split: load(photos.parent, split) for split in data.SPLITS}  # found in a folder more
    assert {split: len(each) for split, each in splits.items()} == {"fit": 21, "dev": 3, "test": 6}
    names = [path.name for path in (photos / "鳥").iterdir()]
    names.sort(key=lambda name: hashlib.sha1(name.encode()).hexdigest())
    own = {split: {name[2:] for name in each.ids if name.startswith("鳥")} for split, each in splits.items()}
    assert own == {"fit": set(names[3:]), "dev": {names[2]}, "test": set(names[:2])}
    for each in splits.values():
        assert each.class_names == CLASSES and each.title == "my photos" and len(each.fingerprint) == 64
        assert [each.class_names[label] for label in each.labels] == [name.split("/")[0] for name in each.ids]
        assert {image.mode for image in each.images} == {"RGB"}


@pytest.mark.parametrize("val", ["val", "validation", "test"])
def test_load__train_and_val_are_taken_as_they_are(tmp_path, val):
    for number in range(20):
        for seed, part in enumerate(("train", val)):
            made.picture(tmp_path / part / ("cat", "dog")[number % 2] / f"{number}.png", number + 100 * seed)
    made.picture(tmp_path / f"{val}/bird/1.jpg", 5000)
    made.picture(tmp_path / "elsewhere/1.jpg", 5001)
    splits = {split: load(tmp_path, split) for split in data.SPLITS}
    assert {split: len(each) for split, each in splits.items()} == {"fit": 18, "dev": 2, "test": 20}
    assert all(name.startswith(f"{val}/") for name in splits["test"].ids)
    assert splits["fit"].left_out == (
        (f"{val}/bird/1.jpg", "is in no folder of a class"),
        ("elsewhere/1.jpg", f"is beside train and {val}"),
    )
    data.separate(splits)


def test_load__folders_in_a_class_belong_to_it_and_links_are_followed(photos, tmp_path):
    (photos / "鳥/2019").mkdir()
    for path in list((photos / "鳥").glob("*.jpg")):
        path.rename(photos / "鳥/2019" / path.name)
    shutil.move(photos / CLASSES[0], tmp_path / "disk")
    (photos / CLASSES[0]).symlink_to(tmp_path / "disk")
    (photos / "鳥/2019/loop").symlink_to(photos)
    assert sum(len(load(photos, split)) for split in data.SPLITS) == 30


def test_load__few_images_are_in_all_splits_and_two_in_two(tmp_path):
    for number in range(3):
        made.picture(tmp_path / f"cat/{number}.png", number)
    assert [len(load(tmp_path, split)) for split in data.SPLITS] == [1, 1, 1]
    (tmp_path / "cat/1.png").unlink()
    with pytest.raises(DataError, match="the split 'dev' is empty"):
        load(tmp_path, "dev")
    with pytest.raises(DataError, match=r"shapes: there is no such folder\. Set data_root"):
        load("shapes")
