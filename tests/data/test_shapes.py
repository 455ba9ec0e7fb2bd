import dataclasses
import errno
import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from kdlib import data
from kdlib.data import coco, drawing, shapes, tinyimagenet
from kdlib.data.dataset import DataError
from kdlib.data.shapes import ShapesSpec

SMALL = ShapesSpec(train_per_class=3, val_per_class=2, train_scenes=12, val_scenes=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes.ensure(SMALL, tmp_path_factory.mktemp("shapes") / "small")


def contents(root):
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def test_ensure__is_a_function_of_the_seed(root, tmp_path):
    assert contents(shapes.ensure(SMALL, tmp_path / "again")) == contents(root)


def test_ensure__another_seed_draws_other_images_and_writes_other_captions(root, tmp_path):
    one, two = contents(root), contents(shapes.ensure(dataclasses.replace(SMALL, seed=1), tmp_path / "other"))
    assert set(one) == set(two)
    images = [name for name in one if name.lower().endswith((".jpg", ".jpeg"))]
    assert not [name for name in images if one[name] == two[name]]
    assert one["coco/annotations/captions_val2017.json"] != two["coco/annotations/captions_val2017.json"]


def test_write__more_images_leave_the_first_ones_as_they_are(root, tmp_path):
    larger = contents(shapes.ensure(dataclasses.replace(SMALL, train_per_class=4, train_scenes=13), tmp_path / "l"))
    smaller = contents(root)
    for name in smaller:
        if "/train" in name and not name.endswith(".json"):
            assert larger[name] == smaller[name]


def test_load__the_class_set_is_read_by_the_loader_of_tiny_imagenet(root):
    fit, dev, test = (tinyimagenet.load(root, split) for split in data.SPLITS)
    assert [len(fit), len(dev), len(test)] == [40, 20, 40]  # of 3 images a class one is dev
    assert len(fit.class_names) == len(set(fit.class_names)) == 20
    assert set(fit.class_names) == {f"{fill} {outline}" for fill in drawing.FILLS for outline in drawing.OUTLINES}
    assert np.bincount(test.labels).tolist() == [2] * 20
    assert {image.size for image in test.images} == {(64, 64)}


def test_load__the_scenes_are_read_by_the_loader_of_coco(root):
    fit, dev, test = (coco.load(root, split) for split in data.SPLITS)
    assert [len(fit), len(dev), len(test)] == [11, 1, 8]
    assert test.category_names == drawing.OUTLINES
    for dataset in (fit, dev, test):
        for captions, categories in zip(dataset.captions, dataset.categories, strict=True):
            assert len(captions) == len(set(captions)) == 5
            assert 1 <= len(categories) <= 4
            assert sorted(set(categories)) == list(categories)
    assert all(min(image.size) >= 84 for image in test.images)


@pytest.mark.parametrize("name", ["tinyimagenet", "coco"])
def test_load__no_image_of_test_is_in_fit_or_dev(root, name):
    def images(split):
        dataset = data.load(name, root, split)
        return {hashlib.sha256(dataset.tree.read(file)).hexdigest() for file in dataset.image_names}

    fit, dev, test = (images(split) for split in data.SPLITS)
    total = sum(len(data.load(name, root, split)) for split in data.SPLITS)
    assert len(fit | dev | test) == total


def test_captions__name_the_objects_of_the_scene(root):
    test = coco.load(root, "test")
    for captions, categories in zip(test.captions, test.categories, strict=True):
        objects = {drawing.OUTLINES[index] for index in categories}
        listing, counting = captions[0], captions[3]
        for outline in drawing.OUTLINES:
            assert (f" {outline}" in listing) == (outline in objects)
            assert (f" {outline}" in counting) == (outline in objects)


def test_ensure__writes_nothing_when_all_is_there(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert shapes.ensure(SMALL, root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_ensure__concurrent_callers_write_once_and_get_the_same_folder(tmp_path, monkeypatch):
    write, written, barrier, found = shapes.write, [], threading.Barrier(4), []

    def counting(root, spec):
        written.append(root)
        write(root, spec)

    def call():
        barrier.wait()
        found.append(shapes.ensure(tiny, tmp_path / "data" / "set"))

    tiny = ShapesSpec(train_per_class=2, val_per_class=1, train_scenes=2, val_scenes=1)
    monkeypatch.setattr(shapes, "write", counting)
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "data" / "set"] * 4
    assert len(written) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.is_dir()) == ["set"]


def test_ensure__an_interrupted_writing_leaves_nothing_and_the_next_one_completes(tmp_path, monkeypatch):
    tiny = ShapesSpec(train_per_class=2, val_per_class=1, train_scenes=2, val_scenes=1)

    def interrupted(root, spec):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_write_coco", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shapes.ensure(tiny, tmp_path / "data" / "set")
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
    assert len(coco.load(shapes.ensure(tiny, tmp_path / "data" / "set"), "test")) == 1


def test_ensure__another_size_replaces_what_is_there(tmp_path):
    tiny = ShapesSpec(train_per_class=2, val_per_class=1, train_scenes=2, val_scenes=1)
    place = tmp_path / "set"
    shapes.ensure(tiny, place)
    shapes.ensure(dataclasses.replace(tiny, val_scenes=3), place)
    assert len(coco.load(place, "test")) == 3


def test_load__the_root_shapes_is_the_generated_data_in_the_runs_folder(tmp_path, monkeypatch):
    tiny = ShapesSpec(train_per_class=2, val_per_class=1, train_scenes=2, val_scenes=1)
    monkeypatch.setattr(shapes, "ShapesSpec", lambda: tiny)
    test = data.load("tinyimagenet", "shapes", "test")
    assert len(test) == 20
    assert Path(test.tree.where).parent == tmp_path / "runs" / "data"


def test_ensure__a_full_disk_is_an_error_with_the_folder_and_leaves_nothing(tmp_path, monkeypatch):
    saved = []

    def full(image, path):
        saved.append(path)
        if len(saved) == 30:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        image.save(path, format="JPEG", quality=92)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_save", full)
        with pytest.raises(DataError, match=rf"{tmp_path}/s: .*could not be drawn.*No space left.*KDLIB_RUNS"):
            shapes.ensure(SMALL, tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s.lock"]
    assert shapes.ensure(SMALL, tmp_path / "s") == tmp_path / "s"
    assert len(tinyimagenet.load(tmp_path / "s", "test")) == 40


def test_ensure__removes_what_a_killed_attempt_left(tmp_path):
    left = tmp_path / f"s.abc{shapes.SCRATCH}" / "coco"
    left.mkdir(parents=True)
    shapes.ensure(SMALL, tmp_path / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.lock"]


@pytest.mark.parametrize("record", ["", "{", "[]"])
def test_ensure__a_record_that_is_not_whole_is_drawn_anew(root, tmp_path, record):
    shapes.ensure(SMALL, tmp_path / "s")
    (tmp_path / "s" / "shapes.json").write_text(record)
    assert contents(shapes.ensure(SMALL, tmp_path / "s")) == contents(root)
