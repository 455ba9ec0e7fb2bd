"""What a run reads: no image in two splits, contents hashed once, the training images cut, own data sets by name."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import made
import numpy as np
import pytest

from kdlib import data
from kdlib.data import DataError, Dataset, files
from kdlib.utils import runs_root


def noise(folder, split: str, pictures: dict[str, int]) -> Dataset:
    """A split whose images are noise of a seed; the same seed gives the same bytes."""
    paths = tuple(str(made.picture(folder / split / name, seed)) for name, seed in pictures.items())
    captions = tuple((f"caption of {name}",) for name in pictures)
    return Dataset("noise", split, tuple(pictures), paths, np.arange(len(paths)), captions=captions)


@pytest.fixture
def three(tmp_path):
    """fit holds a copy of an image of test and one of dev; dev an image with the id of one of test."""
    return {
        "fit": noise(tmp_path, "fit", {"a.png": 1, "b.png": 20, "c.png": 3, "d.png": 10}),
        "dev": noise(tmp_path, "dev", {"k.png": 10, "x.png": 11}),
        "test": noise(tmp_path, "test", {"x.png": 20, "y.png": 21}),
    }


def test_separate__an_image_in_two_splits_is_an_error_or_leaves_training_and_is_named(three):
    with pytest.raises(
        DataError, match=r"3 images are in two splits: x\.png is in test, as x\.png; b\.png is.*on_overlap"
    ):
        data.separate(three)
    kept = data.separate(three, "drop")
    assert {name: each.ids for name, each in kept.items()} == {
        "fit": ("a.png", "c.png"), "dev": ("k.png",), "test": ("x.png", "y.png"),
    }  # fmt: skip
    assert kept["fit"].labels.tolist() == [0, 2] and kept["fit"].captions[1] == ("caption of c.png",)
    assert kept["fit"].left_out == (("b.png", "is in test, as x.png"), ("d.png", "is in dev, as k.png"))
    assert kept["fit"].fingerprint != three["fit"].fingerprint and kept["test"] is three["test"]
    assert data.separate(kept)["fit"] is kept["fit"]


def test_fingerprint__is_of_content_and_annotations_and_not_of_the_place(tmp_path):
    first = noise(tmp_path / "here", "fit", {"a.png": 1, "b.png": 2})
    prints = {first.fingerprint, noise(tmp_path / "there", "fit", {"a.png": 1, "b.png": 2}).fingerprint}
    assert len(prints) == 1
    for other in ({"a.png": 3, "b.png": 2}, {"b.png": 2, "a.png": 1}, {"a.png": 1}):
        prints.add(noise(tmp_path / str(len(prints)), "fit", other).fingerprint)
    prints.add(first.take([0, 1], captions=(("another",), ("caption of b.png",))).fingerprint)
    prints.add(first.take([0, 1], labels=np.array([0, 0])).fingerprint)
    assert len(prints) == 6


def test_content_hashes__a_file_is_read_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    paths = [str(made.picture(tmp_path / f"{number}.png", number)) for number in range(3)]
    first = files.content_hashes(paths)
    assert (runs_root() / "cache/content.json").exists()
    monkeypatch.setattr(files, "_known", {"": ""})  # as in another process
    monkeypatch.setattr(files, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert files.content_hashes(paths) == first
    monkeypatch.undo()
    made.write(runs_root() / "cache/content.json", "damaged")  # which costs only time
    made.picture(Path(paths[1]), 9)
    os.utime(paths[1], ns=(1, 1))
    again = files.content_hashes(paths)
    assert [one == other for one, other in zip(first, again, strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "archive", "counts"),
    [("coco", "coco-2017-small", [72, 8, 159]), ("tinyimagenet", "tiny-imagenet-200-small", [9000, 1000, 2000])],
)
def test_load__samples_have_the_announced_counts(shared, tmp_path, name, archive, counts):
    shutil.unpack_archive(shared / f"data/{archive}.zip", tmp_path)
    splits = [data.load(name, tmp_path, split) for split in data.SPLITS]
    assert list(map(len, splits)) == counts and {each.images[0].mode for each in splits} == {"RGB"}


def test_open_data__reads_what_the_run_needs(small_run):
    assert list(data.open_data(small_run("dino"))) == ["fit", "dev", "test"]
    assert list(data.open_data(small_run("dino", score_on="dev"))) == ["fit", "dev"]
    assert list(data.open_data(small_run("clip"))) == ["fit", "test"]
    assert list(data.open_data(small_run("clip", cooldown=0.5))) == ["fit", "dev", "test"]


def test_train_limit__cuts_the_data_set_equally_for_every_seed(small_run):
    whole = data.open_data(small_run("dino"))["fit"]
    cut = [data.open_data(small_run("dino", train_limit=30, seed=seed))["fit"] for seed in (0, 1)]
    assert cut[0].ids == cut[1].ids and len(cut[0]) == 30
    assert [name for name in whole.ids if name in cut[0].ids] == list(cut[0].ids)  # in their order
    assert set(data.open_data(small_run("dino", train_limit=20))["fit"].ids) < set(cut[0].ids)
    assert len(set(cut[0].labels.tolist())) > 10 and cut[0].fingerprint != whole.fingerprint
    assert data.open_data(small_run("dino", train_limit=10**6))["fit"].fingerprint == whole.fingerprint


def test_open_data__an_own_data_set_is_a_function_by_name(tmp_path, monkeypatch, small_run):
    def pets(root, split):
        path = made.picture(Path(root) / f"{split}.png", data.SPLITS.index(split))
        return Dataset("pets", split, [split], [str(path)], labels=[0], class_names=["pet"])

    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(pets=pets))
    splits = data.open_data(small_run("dino", dataset="mine:pets", data_root=str(tmp_path)))
    assert [each.ids for each in splits.values()] == [("fit",), ("dev",), ("test",)]
    assert splits["fit"].labels.dtype == np.int64 and splits["fit"].class_names == ("pet",)
