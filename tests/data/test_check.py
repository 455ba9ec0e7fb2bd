"""``kdlib data check`` finds all that a run would refuse, in one go."""

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from kdlib import data
from kdlib.cli import app
from kdlib.data import shapes
from kdlib.data.check import MEND, TWICE, UNREADABLE, check


@pytest.fixture
def root(small_shapes, tmp_path):
    """A copy of the small drawn data, to be damaged."""
    shutil.copytree(small_shapes, tmp_path / "data")
    return tmp_path / "data"


def remedies(name, root):
    return [(finding.remedy, finding.text) for finding in check(name, root) if finding.remedy]


@pytest.mark.parametrize("name", ["tinyimagenet", "coco"])
def test_check__sound_data_have_sizes_and_nothing_to_mend(small_shapes, name):
    found = list(check(name, small_shapes))
    assert [finding.text.split(":")[0] for finding in found] == list(data.SPLITS)
    assert not remedies(name, small_shapes)


def test_check__finds_damage_overlap_and_copies_of_all_splits_at_once(root):
    coco = root / "coco"
    train, test = sorted((coco / "train2017").iterdir()), sorted((coco / "val2017").iterdir())
    shutil.copy(test[0], train[0])  # in two splits
    shutil.copy(train[1], train[2])  # twice in one, or in fit and dev
    train[3].write_bytes(train[3].read_bytes()[:200])
    test[4].unlink()
    test[4].symlink_to("gone")
    found = remedies("coco", root)
    assert [text for remedy, text in found if remedy == TWICE and train[0].name in text and test[0].name in text]
    bad = [text for remedy, text in found if remedy == UNREADABLE]
    assert len(bad) == 2 and all(any(path.name in text for text in bad) for path in (train[3], test[4]))
    everything = "".join(finding.text for finding in check("coco", root))
    assert train[1].name in everything and train[2].name in everything


def test_check__goes_on_after_a_split_that_cannot_be_read(root):
    (root / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_bytes(b"\xff")
    found = list(check("tinyimagenet", root))
    assert [finding.text.split(":")[0] for finding in found] == ["fit", "dev", "test"]
    assert [finding.remedy for finding in found] == ["", "", MEND]


def test_check__an_unknown_name_is_an_error_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr(shapes, "write", lambda *_: pytest.fail("it was drawn"))
    with pytest.raises(KeyError, match="There is no dataset 'imagenet'"):
        next(check("imagenet", "shapes"))
    with pytest.raises(KeyError, match="There is no dataset 'imagenet'"):
        data.load("imagenet", "shapes", "fit")


def test_data_check__prints_everything_and_ends_with_1(root):
    name = json.loads((root / "coco/annotations/captions_val2017.json").read_text())["images"][0]["file_name"]
    Image.new("RGB", (9, 9)).save(root / "coco/val2017" / name, "JPEG")
    first = CliRunner().invoke(app, ["data", "check", "coco", str(root)])
    assert first.exit_code == 0, first.output
    (root / "coco/val2017" / name).write_bytes(b"no image")
    second = CliRunner().invoke(app, ["data", "check", "coco", str(root)])
    assert second.exit_code == 1
    assert f"val2017/{name}: not a readable image" in second.output
    assert "1 found: Replace it, or run with on_bad_image: skip" in second.output
