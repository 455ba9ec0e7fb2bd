"""No image is in two splits, and the ids of each are on disk."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdlib import data
from kdlib.data import splits
from kdlib.data.dataset import DataError, Dataset
from kdlib.data.tree import Tree


def made(folder, name: str, pictures: dict[str, int], ids: list[str] | None = None) -> Dataset:
    """A split whose images are noise of a seed; the same seed gives the same bytes."""
    for file, seed in pictures.items():
        (folder / name).mkdir(exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name / file, format="PNG")
    names = tuple(f"{name}/{file}" for file in pictures)
    return Dataset(
        name="noise",
        split=name,
        tree=Tree(folder, "nothing"),
        ids=tuple(ids or pictures),
        image_names=names,
        labels=np.arange(len(names)),
        captions=tuple((f"caption of {file}",) for file in pictures),
    )


@pytest.fixture
def three(tmp_path):
    """fit holds a copy of an image of test and one of dev; dev an image with the id of one of test."""
    return {
        "fit": made(tmp_path, "fit", {"a": 1, "b": 20, "c": 3, "d": 10}),
        "dev": made(tmp_path, "dev", {"k": 10, "x": 11}),
        "test": made(tmp_path, "test", {"x": 20, "y": 21}),
    }


def test_overlaps__finds_the_same_bytes_and_the_same_id(three):
    found = splits.overlaps(three)
    assert found == {
        "test": [],
        "dev": [("dev/x", "test/x")],
        "fit": [("fit/b", "test/x"), ("fit/d", "dev/k")],
    }


def test_separate__is_an_error_that_names_the_images_and_the_remedy(three):
    with pytest.raises(DataError, match=r"3 images are in two splits: .*dev/x and test/x.*on_overlap"):
        splits.separate(three)


def test_separate__drop_takes_them_out_of_training_and_leaves_test_whole(three):
    kept = splits.separate(three, "drop")
    assert {name: dataset.image_names for name, dataset in kept.items()} == {
        "fit": ("fit/a", "fit/c"),
        "dev": ("dev/k",),
        "test": ("test/x", "test/y"),
    }
    assert kept["fit"].labels.tolist() == [0, 2] and kept["fit"].captions[1] == ("caption of c",)
    assert kept["fit"].fingerprint != three["fit"].fingerprint
    assert not any(splits.overlaps(kept).values())


def test_separate__leaves_clean_splits_untouched(tmp_path):
    clean = {"fit": made(tmp_path, "fit", {"a": 1}), "test": made(tmp_path, "test", {"b": 2})}
    assert splits.separate(clean) is clean


def test_overlaps__the_bytes_decide_where_size_and_checksum_agree(tmp_path, monkeypatch):
    clean = {"fit": made(tmp_path, "fit", {"a": 1}), "test": made(tmp_path, "test", {"b": 2})}
    monkeypatch.setattr(Tree, "checksums", lambda self, names: [(name, 100, 7) for name in names])
    assert not any(splits.overlaps(clean).values())


def test_overlaps__reads_archives_too(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, format="PNG")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("nothing/fit/a.png", picture.getvalue())
        archive.writestr("nothing/test/b.png", picture.getvalue())
    tree = Tree(tmp_path / "all.zip", "nothing")
    both = {
        name: Dataset("noise", name, tree, (file,), (f"{name}/{file}",))
        for name, file in (("fit", "a.png"), ("test", "b.png"))
    }
    assert splits.overlaps(both)["fit"] == [("fit/a.png", "test/b.png")]


@pytest.mark.parametrize("name", ["tinyimagenet", "coco"])
def test_embedded_data__has_no_image_in_two_splits(small_shapes, name):
    loaded = {split: data.load(name, small_shapes, split) for split in data.SPLITS}
    assert not any(splits.overlaps(loaded).values())


@pytest.mark.parametrize("name", ["tinyimagenet", "coco"])
def test_real_samples__have_no_image_in_two_splits(shared, name):
    loaded = {split: data.load(name, shared / "data", split) for split in data.SPLITS}
    assert not any(splits.overlaps(loaded).values())


def test_write_ids__writes_the_ids_under_their_digest():
    path = splits.write_ids("coco", "test", ["7", "12"])
    assert path.read_text() == "7\n12\n"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert splits.identity(["7", "12"]) == digest and path.name == f"coco_test-{digest[:16]}.txt"


def test_identity__depends_on_every_id_and_the_order():
    assert len({splits.identity(ids) for ids in (["1", "2"], ["2", "1"], ["12"], ["1", "2", "3"])}) == 4


def test_separate__what_was_left_out_is_named_by_the_split(three):
    kept = splits.separate(three, "drop")
    assert {name: dataset.left_out for name, dataset in kept.items()} == {
        "fit": (("fit/b", "test/x"), ("fit/d", "dev/k")),
        "dev": (("dev/x", "test/x"),),
        "test": (),
    }


def test_duplicates__are_counted_inside_a_split_and_are_no_error(tmp_path):
    fit = made(tmp_path, "fit", {"a": 1, "b": 2, "c": 1, "d": 1})
    assert splits.duplicates(fit) == [("fit/c", "fit/a"), ("fit/d", "fit/a")]
    both = {"fit": fit, "test": made(tmp_path, "test", {"e": 9})}
    assert splits.separate(both) is both


def test_overlaps_and_duplicates__images_that_cannot_be_read_are_no_twins(tmp_path):
    both = {name: made(tmp_path, name, {"a": 1, "b": 2}) for name in ("fit", "test")}
    for name in both:
        for file in ("a", "b"):
            (tmp_path / name / file).unlink()
            (tmp_path / name / file).symlink_to("gone")
    unlike = {name: dataset.__class__(**vars(dataset) | {"ids": (name, name + "2")}) for name, dataset in both.items()}
    assert not any(splits.overlaps(unlike).values())
    assert splits.duplicates(both["fit"]) == []
