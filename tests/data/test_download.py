"""Downloads from a site that drops connections, archives that would write elsewhere, and data that are at hand."""

import hashlib
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import made
import pytest

from kdlib import data
from kdlib.data import DataError, download


class Site(BaseHTTPRequestHandler):
    """An archive site that can misbehave in the ways real ones do."""

    def do_GET(self):
        site, wanted = self.server, self.headers["Range"]
        fault = site.faults.pop(0) if site.faults else None
        site.ranges.append(wanted)
        first = int(wanted[len("bytes=") : -1]) if wanted and site.knows_range else 0
        body = b"" if isinstance(fault, int) else site.content[first:]
        self.send_response(fault if isinstance(fault, int) else 206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: fault[1]] if isinstance(fault, tuple) else body)  # then the connection closes

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small Tiny ImageNet as the official zip has it."""
    root = tmp_path_factory.mktemp("site")
    made.tinyimagenet(root)
    return Path(shutil.make_archive(root / "tiny-imagenet-200", "zip", root, "tiny-imagenet-200"))


@pytest.fixture
def site(archive, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.content, server.knows_range = archive.read_bytes(), True
        server.faults = []  # one a request: a status to answer, or ('drop', bytes to send before the drop)
        server.ranges = []  # the Range header of each request
        facts = (hashlib.sha256(server.content).hexdigest(), len(server.content), "files/tiny.zip")
        monkeypatch.setitem(download.ARCHIVES, "tinyimagenet", [facts])
        monkeypatch.setitem(download.SITES, "tinyimagenet", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(download, "WAIT", 0)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def visible(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def is_whole(folder) -> bool:
    return [len(data.load("tinyimagenet", folder, split)) for split in data.SPLITS] == [54, 6, 6]


def test_get__downloads_extracts_and_removes_the_archive(site, tmp_path):
    assert download.get("tinyimagenet", tmp_path) == tmp_path
    assert visible(tmp_path) == ["tiny-imagenet-200"] and is_whole(tmp_path)
    download.get("tinyimagenet", tmp_path)
    assert len(site.ranges) == 1  # what is complete stays
    download.get("tinyimagenet", tmp_path / "more", keep=True)
    assert visible(tmp_path / "more") == ["tiny-imagenet-200", "tiny.zip"]


def test_get__continues_where_connections_were_dropped(site, tmp_path):
    site.faults = [("drop", 10_000), 503, ("drop", 5_000), 429, ("drop", 1)]
    download.get("tinyimagenet", tmp_path)
    assert site.ranges == [None, "bytes=10000-", "bytes=10000-", "bytes=15000-", "bytes=15000-", "bytes=15001-"]
    assert is_whole(tmp_path)


@pytest.mark.parametrize(("part", "ranges"), [(5_000, ["bytes=5000-"]), (None, []), (10**6, [None])])
def test_get__a_whole_part_needs_no_request_and_one_that_cannot_be_continued_starts_over(site, tmp_path, part, ranges):
    site.knows_range = False
    (tmp_path / "tiny.zip.part").write_bytes(bytes(part) if part else site.content)
    download.get("tinyimagenet", tmp_path)
    assert site.ranges == ranges and is_whole(tmp_path)


def test_get__a_site_that_stays_down_is_one_sentence_and_what_came_is_used_next_time(site, tmp_path):
    site.faults = [("drop", 10_000)] + [503] * download.ATTEMPTS
    with pytest.raises(DataError, match=r"tiny\.zip: .*503.* 10,000 of .*The same command continues.*--from FILE"):
        download.get("tinyimagenet", tmp_path)
    assert visible(tmp_path) == ["tiny.zip.part"]
    site.faults.clear()
    download.get("tinyimagenet", tmp_path)
    assert site.ranges[-1] == "bytes=10000-" and is_whole(tmp_path)


def test_get__a_full_disk_a_login_page_and_a_wrong_digest_are_a_sentence_each(site, tmp_path, monkeypatch):
    part, whole = tmp_path / "tiny.zip.part", site.content
    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"part cannot be written: No space.*Make room"):
        patch.setattr(download.httpx, "stream", Mock(side_effect=OSError(28, "No space left on device")))
        download.get("tinyimagenet", tmp_path)
    part.write_bytes(whole[:5_000])
    site.content, site.knows_range = b"<html>please log in</html>", False
    with pytest.raises(DataError, match=r"login page.* 5,000 of"):
        download.get("tinyimagenet", tmp_path)
    assert part.read_bytes() == whole[:5_000]  # an offer of another size touches nothing
    site.content = whole[::-1]
    with pytest.raises(DataError, match=r"tiny\.zip .*SHA-256.* is now \.bad"):
        download.get("tinyimagenet", tmp_path)
    assert visible(tmp_path) == ["tiny.zip.bad"]


def test_get__an_extraction_that_was_killed_is_done_again(site, tmp_path, monkeypatch):
    made.tinyimagenet(tmp_path, each=2)  # a part of it
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "extract", Mock(side_effect=KeyboardInterrupt))
        download.get("tinyimagenet", tmp_path)
    download.get("tinyimagenet", tmp_path)
    assert is_whole(tmp_path) and len(site.ranges) == 1


def test_get__takes_archives_that_are_at_hand_whether_the_folder_is_in_them_or_not(archive, tmp_path):
    download.get("tinyimagenet", tmp_path / "tiny", source=archive)
    assert is_whole(tmp_path / "tiny") and visible(tmp_path / "tiny") == ["tiny-imagenet-200"] and archive.exists()
    top = made.coco(tmp_path / "source")
    for part in ("annotations", "train2017", "val2017"):
        path = shutil.make_archive(tmp_path / part, "zip", top, part)
        download.get("coco", tmp_path / "data", source=path)
    assert len(data.load("coco", tmp_path / "data", "test")) == 4 and visible(tmp_path / "data") == ["coco"]


LINK = zipfile.ZipInfo("link")
LINK.external_attr = 0o120777 << 16  # a symbolic link to what it contains


@pytest.mark.parametrize("member", ["../evil.txt", "a/../../evil.txt", "..\\evil.txt", "/tmp/evil-of-kdlib.txt", LINK])
def test_extract__nothing_is_written_outside_the_folder(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as box:
        box.writestr(member, "../outside")
    download.extract(tmp_path / "hostile.zip", tmp_path / "inner/folder")
    assert visible(tmp_path) == ["hostile.zip", "inner"] and visible(tmp_path / "inner") == ["folder"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*")) and not Path("/tmp/evil-of-kdlib.txt").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_extract__a_file_that_is_no_whole_archive_is_named(archive, tmp_path, content):
    path, whole = tmp_path / "broken.zip", archive.read_bytes()
    path.write_bytes(whole[:2000] + b"\0" * 2000 + whole[4000:] if content is None else content)
    with pytest.raises(DataError, match=r"broken\.zip cannot be extracted"):
        download.extract(path, tmp_path / "folder")


def test_check__says_what_each_split_holds_and_lists_what_a_run_would_refuse(tmp_path):
    top = made.coco(tmp_path)
    counts = {"fit": 27, "dev": 3, "test": 4}
    lines = [f"{split}: {count} images ({count} .jpg), 0 left out" for split, count in counts.items()]
    assert download.check("coco", tmp_path).splitlines() == lines
    train, test = sorted((top / "train2017").iterdir()), sorted((top / "val2017").iterdir())
    shutil.copy(test[0], train[0])  # in two splits
    with pytest.raises(DataError, match="1 images are in two splits"):
        download.check("coco", tmp_path)
    train[3].write_bytes(train[3].read_bytes()[:200])
    test[3].unlink()
    test[3].symlink_to("gone")
    message = rf"2 images of coco(?s:.)*{train[3]}: not a readable(?s:.)*{test[3]}: a broken"
    with pytest.raises(DataError, match=message):
        download.check("coco", tmp_path)
