import shutil
import stat
import zipfile

import numpy as np
import pytest

from kdlib.data import extract as extraction
from kdlib.data.dataset import DataError
from kdlib.data.extract import extract

CONTENT = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8).tobytes()


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_extract__writes_every_file_and_leaves_no_scratch(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"val2017/": "", "val2017/1.jpg": b"one", "val2017/deep/2.jpg": b"two"})
    folder = tmp_path / "data" / "coco"
    assert extract(archive, folder) == folder
    assert (folder / "val2017/1.jpg").read_bytes() == b"one"
    assert (folder / "val2017/deep/2.jpg").read_bytes() == b"two"
    assert visible(folder) == ["val2017"]
    assert not [path for path in folder.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_extract__merges_archives_that_share_a_folder(tmp_path):
    extract(make_zip(tmp_path / "a.zip", {"annotations/a.json": "{}"}), tmp_path / "coco")
    extract(make_zip(tmp_path / "b.zip", {"annotations/b.json": "[]"}), tmp_path / "coco")
    assert visible(tmp_path / "coco" / "annotations") == ["a.json", "b.json"]


def test_extract__twice_is_the_same_as_once(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"train/1": "one", "train/2": "two"})
    extract(archive, tmp_path / "out")
    (tmp_path / "out/train/2").unlink()
    untouched = (tmp_path / "out/train/1").stat()
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out/train/2").read_text() == "two"
    assert (tmp_path / "out/train/1").stat().st_ino == untouched.st_ino


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_extract__refuses_a_path_out_of_the_folder(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", {"good": "good", name: "evil"})
    with pytest.raises(DataError, match=r"a\.zip: '.*evil' would lie outside"):
        extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out") == []
    assert not (tmp_path / "evil").exists()


def test_extract__refuses_a_symbolic_link(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", "good")
        archive.writestr(link, "/etc")
    with pytest.raises(DataError, match=r"a\.zip: 'link' is a link"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert visible(tmp_path / "out") == []


def test_extract__refuses_an_archive_that_does_not_fit_on_the_disk(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"zeros": bytes(1_000_000)})
    assert archive.stat().st_size < 10_000  # small itself: what counts is what it unpacks to
    usage = shutil.disk_usage(tmp_path)._replace(free=999_999)
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"Extracting a\.zip takes 1 MB"):
        extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out") == []


@pytest.mark.parametrize("there", ["train/1", "train"], ids=["other content", "a file for a folder"])
def test_extract__overwrites_nothing_that_differs(tmp_path, there):
    mine = tmp_path / "out" / there
    mine.parent.mkdir(parents=True)
    mine.write_text("own")
    archive = make_zip(tmp_path / "a.zip", {"new": "new", "train/1": "one"})
    with pytest.raises(DataError, match=r"is there already, and differs from 'train/1' in .*a\.zip"):
        extract(archive, tmp_path / "out")
    assert mine.read_text() == "own"
    assert visible(tmp_path / "out") == ["train"]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_extract__leaves_nothing_of_a_damaged_archive(tmp_path, damage):
    archive = make_zip(tmp_path / "a.zip", {"first": b"whole", "second": CONTENT})
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: not a whole zip archive .*Download it again"):
        extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out") == []
    assert not (tmp_path / "out" / ".a.zip.extracting").exists()


def test_extract__an_interruption_leaves_nothing_half_done(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"train/1": "one", "train/2": "two"})
    extract_one, done = zipfile.ZipFile.extract, []

    def interrupted(source, entry, folder):
        if done:
            raise KeyboardInterrupt
        done.append(entry)
        return extract_one(source, entry, folder)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out") == []
    extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out" / "train") == ["1", "2"]
