"""The synthetic data: the same images, captions and labels for ever, written by one of several callers."""

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from kdlib import data
from kdlib.data import DataError, shapes
from kdlib.data.shapes import ShapesSpec

TINY = ShapesSpec(train_per_class=2, val_per_class=1, train_scenes=2, val_scenes=1)
KNOWN = {  # SHA-256 of files of commit 2468eac
    "tiny-imagenet-200/train/n90000001/images/n90000001_0.JPEG": "cce33337142f273a2542a20bab83bf1d",
    "tiny-imagenet-200/train/n90000020/images/n90000020_7.JPEG": "0f7d50256ec19d12a4425898108c1d4f",
    "tiny-imagenet-200/val/images/val_13.JPEG": "89a86d125f17d808ff5114f5109a3ba7",
    "coco/train2017/000000200000.jpg": "7782b70c7399286e59f878c6b64cd539",
    "coco/train2017/000000200039.jpg": "a40e39a30cb6abc14af1914607204ab0",
    "coco/val2017/000000300007.jpg": "ad9193a99a26c63de87dcdeecea56e8d",
}


def test_ensure__draws_the_images_captions_and_labels_that_it_always_drew(small_shapes):
    for name, known in KNOWN.items():
        assert hashlib.sha256((small_shapes / name).read_bytes()).hexdigest().startswith(known), name
    scenes, objects = data.load("coco", small_shapes, "test"), data.load("tinyimagenet", small_shapes, "fit")
    assert scenes.captions[7] == (
        "a picture of a large red ring",
        "a red ring all alone",
        "there is a large red ring in the top right",
        "one ring on a plain background",
        "one shape coloured red, the first of them in the top right",
    )
    assert [scenes.category_names[index] for index in scenes.categories[7]] == ["ring"]
    assert objects.class_names[:3] == ("solid circle", "striped circle", "solid square")
    assert objects.labels[:9].tolist() == [0] * 7 + [1] * 2 and (len(objects), len(scenes)) == (140, 20)


def test_ensure__one_of_several_callers_draws_and_the_next_writes_nothing(tmp_path, monkeypatch):
    write, written = shapes._write_scenes, []
    monkeypatch.setattr(shapes, "_write_scenes", lambda *given: (written.append(1), write(*given)))
    with ThreadPoolExecutor(3) as pool:
        places = list(pool.map(lambda _: shapes.ensure(TINY, tmp_path / "set"), range(3)))
    assert places == [tmp_path / "set"] * 3 and written == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_ensure__what_was_interrupted_is_written_anew(tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, DataError)) as caught:
        patch.setattr(shapes, "_write_scenes", Mock(side_effect=error))
        shapes.ensure(TINY, tmp_path / "set")
    assert isinstance(error, KeyboardInterrupt) or "device). Make room, or set KDLIB" in str(caught.value)
    assert len(data.load("coco", shapes.ensure(TINY, tmp_path / "set"), "test")) == 1
    assert len(data.load("coco", shapes.ensure(replace(TINY, val_scenes=3), tmp_path / "set"), "test")) == 3


def test_load__the_root_shapes_is_the_synthetic_data_below_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "ShapesSpec", lambda: TINY)
    test = data.load("tinyimagenet", "shapes", "test")
    assert len(test) == 20 and Path(test.paths[0]).is_relative_to(tmp_path / "runs/data")
