"""Tiny ImageNet: the official layout, what preparation scripts make of it, and what is wrong with it."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import made
import numpy as np
import pytest
from made import WNIDS

from kdlib import data
from kdlib.data import DataError
from kdlib.data.tinyimagenet import ANNOTATIONS


@pytest.fixture
def top(tmp_path):
    return made.tinyimagenet(tmp_path / "data")


def load(top, split="fit", **options):
    return data.load("tinyimagenet", top, split, **options)


def test_load__fit_and_dev_share_train_by_the_sha1_of_the_file_name(top):
    fit, dev = load(top), load(top, "dev")
    expected = set()
    for wnid in WNIDS:
        files = [f"{wnid}_{number}.JPEG" for number in range(20)]
        expected.update(sorted(files, key=lambda file: hashlib.sha1(file.encode()).hexdigest())[:2])
    assert set(dev.ids) == expected
    assert len(dev) + len(fit) == len({*dev.ids, *fit.ids}) == 60
    assert fit.labels.dtype == np.int64
    assert [WNIDS[label] for label in fit.labels] == [name.split("_")[0] for name in fit.ids]
    assert fit.left_out == dev.left_out == ()


def test_load__test_is_val_in_the_order_and_with_the_labels_of_its_annotations(top):
    test = load(top, "test")
    assert test.ids == tuple(f"val_{number}.JPEG" for number in range(6))
    assert [WNIDS[label] for label in test.labels] == sorted(WNIDS) * 2
    assert test.class_names == ("bullfrog", "goldfish", "n00000002") and test.title == "Tiny ImageNet"


def test_load__train_may_have_no_folders_of_images_and_linked_classes(top, tmp_path):
    expected = load(top, "dev").fingerprint
    for wnid in WNIDS:
        for path in (top / "train" / wnid / "images").iterdir():
            path.rename(top / "train" / wnid / path.name)
    shutil.move(top / "train" / WNIDS[0], tmp_path / "elsewhere")
    (top / "train" / WNIDS[0]).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(top / "train")
    assert load(top, "dev").fingerprint == expected


def test_load__images_of_any_format_are_used_and_what_is_not_used_is_named_with_the_reason(top):
    for number, name in enumerate(("a.webp", "b.bmp", "c.tif", "d.gif", "images/e.PNG", "images/more/f.jpg", "g.ppm")):
        made.picture(top / "train" / WNIDS[0] / name, 60 + number)
    assert len(load(top)) + len(load(top, "dev")) == 67 and load(top).images[0].mode == "RGB"
    made.picture(top / "train/n99/images/x.JPEG", 50)
    made.picture(top / "train/loose.png", 51)
    made.write(top / "train" / WNIDS[0] / "images/photo.heic", "not read")
    made.write(top / "train" / WNIDS[0] / ".DS_Store", "hidden")
    splits = {split: load(top, split) for split in data.SPLITS}
    assert splits["dev"].left_out == () and splits["fit"].left_out == (
        ("train/loose.png", "is in no folder of a class"),
        (f"train/{WNIDS[0]}/images/photo.heic", "has no suffix of an image format"),
        ("train/n99/images/x.JPEG", "is in no folder of a class"),
    )
    fit = data.counts(splits)["fit"]
    assert fit["left_out"] == 3 and fit["by_class"] == {"bullfrog": 24, "goldfish": 18, "n00000002": 18}
    assert sum(fit["by_suffix"].values()) == 60 and fit["by_suffix"][".jpeg"] == 55 and fit["by_suffix"][".webp"] == 1
    assert fit["left_out_by_reason"] == {"is in no folder of a class": 2, "has no suffix of an image format": 1}
    text = data.summary(splits)
    assert "classes of 18 (goldfish) to 24 (bullfrog), 3 left out\n  is in no folder of a class: 2 (train/l" in text
    assert "test: 6 images (6 .jpeg), 3 classes of 2 each, 0 left out" in text


@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("annotations", [True, False])
def test_load__a_val_that_was_sorted_into_class_folders_is_read(top, inner, annotations):
    expected = load(top, "test")
    for name, label in zip(expected.ids, expected.labels, strict=True):
        target = top / "val" / WNIDS[label] / inner / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(top / "val/images" / name, target)
    (top / "val/images").rmdir()
    if not annotations:
        (top / ANNOTATIONS).unlink()
    test = load(top, "test")
    assert dict(zip(test.ids, test.labels, strict=True)) == dict(zip(expected.ids, expected.labels, strict=True))
    assert test.left_out == () and (test.ids == expected.ids or not annotations)


@pytest.mark.parametrize("place", ["data", "data/tiny-imagenet-200", ".", "data/tiny-imagenet-200/train"])
def test_load__a_folder_more_or_less_is_found(top, tmp_path, place):
    shutil.rmtree(top / "val")  # which training does not need
    assert len(load(tmp_path / place)) == 54


def test_load__an_archive_beside_the_folder_is_not_read(top):
    shutil.make_archive(top.parent / "tiny-imagenet-200", "zip", top.parent, "tiny-imagenet-200")
    expected = load(top.parent).paths
    Path(expected[0]).unlink()
    assert load(top.parent).paths == expected[1:]


def test_load__another_folder_is_an_error_that_says_what_is_there(top, tmp_path):
    made.picture(tmp_path / "photos/cats/1.png", 1)
    (tmp_path / "photos/tiny.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"photos: wnids\.txt is missing, and there is cats, tiny\.zip\..*data get"):
        load(tmp_path / "photos")
    for name in ("data/copy", "both/a", "both/b"):
        shutil.copytree(top, tmp_path / name)
    assert load(tmp_path / "data").paths[0].startswith(str(top))  # the official name comes first
    with pytest.raises(DataError, match=r"both holds several data sets: .*a/wnids\.txt, .*Give one"):
        load(tmp_path / "both")


def test_load__own_classes_with_camera_names_keep_images_apart(tmp_path):
    folders = ("train/cat", "train/dog", "val/cat", "val/dog")
    names = [f"{folder}/{number} ü.png" for folder in folders for number in (1, 2)]
    for seed, name in enumerate(names):
        made.picture(tmp_path / "pets" / name, seed)
    made.write(tmp_path / "pets/wnids.txt", "cat\ndog\n")
    splits = data.separate({split: load(tmp_path / "pets", split) for split in data.SPLITS})
    assert {name for each in splits.values() for name in each.ids} == {*names} and splits["fit"].title == "pets"


@pytest.mark.parametrize(
    ("file", "edit", "split", "message"),
    [
        ("wnids.txt", lambda lines: lines.append(WNIDS[1]), "fit", "'different ids': 54"),
        ("wnids.txt", lambda lines: lines.append("n99"), "fit", r"1 entries cannot be used: train/n99 has no image"),
        ("wnids.txt", lambda lines: lines.clear(), "fit", r"the split 'fit' is empty; not used: "),
        (ANNOTATIONS, lambda lines: lines.append("a\tn99"), "test", r"annotations\.txt is damaged.*'n99' is not"),
        (ANNOTATIONS, lambda lines: lines.pop(2), "test", r"val/images/val_2\.JPEG has no line"),
    ],
)
def test_load__a_wrong_list_is_an_error_that_names_file_and_entry(top, file, edit, split, message):
    lines = (top / file).read_text(encoding="utf-8").splitlines()
    edit(lines)
    made.write(top / file, "\n".join(lines))
    with pytest.raises(DataError, match=message):
        load(top, split)


def test_load__listed_images_that_are_not_there_are_an_error_or_counted(top):
    for number in (1, 3):
        (top / f"val/images/val_{number}.JPEG").unlink()
    shutil.rmtree(top / "train" / WNIDS[2])
    with pytest.raises(DataError, match=r"2 entries cannot be used: val_1\.JPEG is not in val/; val_3.*on_missing"):
        load(top, "test")
    test, fit = load(top, "test", on_missing="skip"), load(top, on_missing="skip")
    assert test.ids == ("val_0.JPEG", "val_2.JPEG", "val_4.JPEG", "val_5.JPEG")
    assert test.left_out == (("val_1.JPEG", "is not in val/"), ("val_3.JPEG", "is not in val/"))
    assert Counter(fit.labels.tolist()) == {0: 18, 1: 18} and fit.left_out == ((f"train/{WNIDS[2]}", "has no image"),)


def test_load__text_is_utf8_with_a_byte_order_mark_or_without(top):
    before = load(top, "test").fingerprint
    for file in ("wnids.txt", "words.txt", ANNOTATIONS):
        (top / file).write_bytes(b"\xef\xbb\xbf" + (top / file).read_bytes())
    assert load(top, "test").fingerprint == before
    (top / "words.txt").write_bytes(b"n00000001\tcaf\xe9\n")
    with pytest.raises(DataError, match=r"words\.txt is damaged.*'utf-8' codec"):
        load(top)
