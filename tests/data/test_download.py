import hashlib
import shutil
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tenacity import wait_none

from kdlib.data import download
from kdlib.data.dataset import DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8).tobytes()


class Site(ThreadingHTTPServer):
    """An archive site on 127.0.0.1 that can misbehave in the ways real ones do."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.knows_range = True
        self.faults = []  # one a request: a status to answer, or ('drop', bytes to send before the drop)
        self.ranges = []  # the Range header of each request

    @property
    def archive(self) -> download.Archive:
        url = f"http://127.0.0.1:{self.server_port}/zips/set.zip"
        return download.Archive(url, len(CONTENT), hashlib.md5(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site, wanted = self.server, self.headers.get("Range")
        site.ranges.append(wanted)
        fault = site.faults.pop(0) if site.faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        body, first = site.content, 0
        if wanted and site.knows_range:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        self.wfile.write(body[first : first + fault[1]] if fault else body[first:])

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setitem(download.ARCHIVES, "set", (site.archive,))
    monkeypatch.setattr(download, "WAIT", wait_none())
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield site
    site.shutdown()
    site.server_close()
    thread.join()


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_get__leaves_the_whole_file_and_nothing_else(site, tmp_path):
    assert download.get("set", tmp_path / "data") == [tmp_path / "data" / "set.zip"]
    assert (tmp_path / "data" / "set.zip").read_bytes() == CONTENT
    assert visible(tmp_path / "data") == ["set.zip"]
    assert site.ranges == [None]


def test_get__asks_only_for_what_an_earlier_part_lacks(site, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:150_000])
    download.get("set", tmp_path)
    assert site.ranges == ["bytes=150000-"]
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert not (tmp_path / "set.zip.part").exists()


def test_get__starts_over_when_the_server_ignores_the_range(site, tmp_path):
    site.knows_range = False
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:150_000])
    download.get("set", tmp_path)
    assert site.ranges == ["bytes=150000-"]
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_get__goes_on_where_the_connection_was_dropped(site, tmp_path):
    site.faults = [("drop", 100_000), ("drop", 50_000)]
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    first, *later = site.ranges
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in later]
    assert first is None
    assert starts == [100_000, 150_000]


def test_get__tries_again_when_the_server_is_busy(site, tmp_path):
    site.faults = [503, 429, 500]
    download.get("set", tmp_path)
    assert len(site.ranges) == 4
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_get__does_not_ask_again_for_what_is_not_there(site, tmp_path):
    site.faults = [404]
    with pytest.raises(DataError, match=r"/zips/set\.zip: the server answered 404 Not Found"):
        download.get("set", tmp_path)
    assert len(site.ranges) == 1


def test_get__keeps_the_part_when_the_site_stays_down_and_uses_it_next_time(site, tmp_path):
    site.faults = [("drop", 100_000)] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(DataError, match=r"503.*100,000 of 400,000 bytes.*same command goes on"):
        download.get("set", tmp_path)
    assert len(site.ranges) == download.ATTEMPTS
    assert visible(tmp_path) == ["set.zip.part"]
    download.get("set", tmp_path)
    assert site.ranges[-1] == "bytes=100000-"
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_get__a_complete_part_needs_no_request(site, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    download.get("set", tmp_path)
    assert site.ranges == []
    assert visible(tmp_path) == ["set.zip"]


def test_get__sets_a_file_with_the_wrong_md5_aside_and_names_both(site, tmp_path):
    site.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DataError) as caught:
        download.get("set", tmp_path)
    for part in ("set.zip", site.archive.md5, hashlib.md5(site.content).hexdigest(), "Run the same command"):
        assert part in str(caught.value)
    assert visible(tmp_path) == ["set.zip.bad"]

    site.content = CONTENT
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert site.ranges[-1] is None  # from the beginning, not from the bad bytes


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"more"], ids=["shorter", "longer"])
def test_get__refuses_a_file_of_another_size(site, tmp_path, content):
    site.content = content
    with pytest.raises(DataError, match=r"MD5"):
        download.get("set", tmp_path)
    assert visible(tmp_path) == ["set.zip.bad"]


def test_get__keeps_a_right_file_and_says_so(site, tmp_path, capsys):
    (tmp_path / "set.zip").write_bytes(CONTENT)
    assert download.get("set", tmp_path) == [tmp_path / "set.zip"]
    assert site.ranges == []
    assert f"{tmp_path / 'set.zip'}: already there" in capsys.readouterr().err


def test_get__replaces_a_wrong_file_and_keeps_it_aside(site, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"an error page of a proxy")
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert (tmp_path / "set.zip.bad").read_bytes() == b"an error page of a proxy"


def test_get__refuses_before_it_starts_when_the_disk_is_too_small(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"Downloading set takes .* MB free.*Make room"):
        download.get("set", tmp_path)
    assert site.ranges == []
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:10])  # so much less is needed
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_get__names_the_data_sets_that_can_be_downloaded(tmp_path):
    with pytest.raises(ValueError, match=r"'imagenet'.*tinyimagenet, coco"):
        download.get("imagenet", tmp_path)


def test_archives__have_a_folder_for_each_data_set():
    assert set(download.FOLDERS) == set(download.ARCHIVES)
    for archive in [archive for archives in download.ARCHIVES.values() for archive in archives]:
        assert len(bytes.fromhex(archive.md5)) == 16
        assert archive.file.endswith(".zip")


# ---------------------------------------------------------------- extraction


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_extract__writes_every_file_and_leaves_no_scratch(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"val2017/": "", "val2017/1.jpg": b"one", "val2017/deep/2.jpg": b"two"})
    folder = tmp_path / "data" / "coco"
    assert download.extract(archive, folder) == folder
    assert (folder / "val2017/1.jpg").read_bytes() == b"one"
    assert (folder / "val2017/deep/2.jpg").read_bytes() == b"two"
    assert visible(folder) == ["val2017"]
    assert not [path for path in folder.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_extract__merges_archives_that_share_a_folder(tmp_path):
    download.extract(make_zip(tmp_path / "a.zip", {"annotations/a.json": "{}"}), tmp_path / "coco")
    download.extract(make_zip(tmp_path / "b.zip", {"annotations/b.json": "[]"}), tmp_path / "coco")
    assert visible(tmp_path / "coco" / "annotations") == ["a.json", "b.json"]


def test_extract__twice_is_the_same_as_once(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"train/1": "one", "train/2": "two"})
    download.extract(archive, tmp_path / "out")
    (tmp_path / "out/train/2").unlink()
    untouched = (tmp_path / "out/train/1").stat()
    download.extract(archive, tmp_path / "out")
    assert (tmp_path / "out/train/2").read_text() == "two"
    assert (tmp_path / "out/train/1").stat().st_ino == untouched.st_ino


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_extract__refuses_a_path_out_of_the_folder(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", {"good": "good", name: "evil"})
    with pytest.raises(DataError, match=r"a\.zip: '.*evil' would lie outside"):
        download.extract(archive, tmp_path / "out")
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
        download.extract(tmp_path / "a.zip", tmp_path / "out")
    assert visible(tmp_path / "out") == []


def test_extract__refuses_an_archive_that_does_not_fit_on_the_disk(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"zeros": bytes(1_000_000)})
    assert archive.stat().st_size < 10_000  # small itself: what counts is what it unpacks to
    usage = shutil.disk_usage(tmp_path)._replace(free=999_999)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"Extracting a\.zip takes 1 MB"):
        download.extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out") == []


@pytest.mark.parametrize("there", ["train/1", "train"], ids=["other content", "a file for a folder"])
def test_extract__overwrites_nothing_that_differs(tmp_path, there):
    mine = tmp_path / "out" / there
    mine.parent.mkdir(parents=True)
    mine.write_text("own")
    archive = make_zip(tmp_path / "a.zip", {"new": "new", "train/1": "one"})
    with pytest.raises(DataError, match=r"is there already, and differs from 'train/1' in .*a\.zip"):
        download.extract(archive, tmp_path / "out")
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
        download.extract(archive, tmp_path / "out")
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
            download.extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out") == []
    download.extract(archive, tmp_path / "out")
    assert visible(tmp_path / "out" / "train") == ["1", "2"]
