"""Downloads from a site that drops connections, archives that would write elsewhere, and data that are at hand."""

import errno
import hashlib
import io
import os
import shutil
import socket
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import made
import pytest

from kdlib import data
from kdlib.data import DataError, download


class Site(ThreadingHTTPServer):
    """An archive site on 127.0.0.1 that can misbehave in the ways real ones do."""

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.knows_range = content, True
        self.faults = []  # one a request: a status to answer, or ('drop', bytes to send before the drop)
        self.ranges = []  # the Range header of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site, wanted = self.server, self.headers.get("Range")
        site.ranges.append(wanted)
        fault = site.faults.pop(0) if site.faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        first = int(wanted[len("bytes=") : -1]) if wanted and site.knows_range else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(site.content) - first))
        self.end_headers()
        self.wfile.write(site.content[first : first + fault[1]] if fault else site.content[first:])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small Tiny ImageNet as the official zip has it."""
    root = tmp_path_factory.mktemp("site")
    made.tinyimagenet(root)
    return shutil.make_archive(root / "tiny-imagenet-200", "zip", root, "tiny-imagenet-200")


@pytest.fixture
def site(archive, monkeypatch):
    with open(archive, "rb") as file:
        site = Site(file.read())
    threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    digests = (hashlib.md5(site.content).hexdigest(), hashlib.sha256(site.content).hexdigest())
    facts = ("files/tiny.zip", len(site.content), *digests)
    monkeypatch.setitem(download.ARCHIVES, "tinyimagenet", [facts])
    monkeypatch.setitem(download.HOSTS, "tinyimagenet", (site.url,))
    monkeypatch.setattr(download, "WAIT", 0)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield site
    site.shutdown()
    site.server_close()


def visible(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


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


def test_get__starts_over_when_the_server_ignores_the_range(site, tmp_path):
    site.knows_range = False
    (tmp_path / "tiny.zip.part").write_bytes(site.content[:5_000])
    download.get("tinyimagenet", tmp_path)
    assert site.ranges == ["bytes=5000-"] and is_whole(tmp_path)


@pytest.mark.parametrize("extra", [b"", b"more than there is"])
def test_get__a_part_that_is_whole_needs_no_request_and_a_larger_one_starts_over(site, tmp_path, extra):
    (tmp_path / "tiny.zip.part").write_bytes(site.content + extra)
    download.get("tinyimagenet", tmp_path)
    assert len(site.ranges) == bool(extra) and is_whole(tmp_path)


def test_get__a_site_that_stays_down_is_one_sentence_and_what_came_is_used_next_time(site, tmp_path):
    site.faults = [("drop", 10_000)] + [503] * download.ATTEMPTS
    with pytest.raises(DataError, match=r"tiny\.zip: the server answered 503\. 10,000 of .*the same command continues"):
        download.get("tinyimagenet", tmp_path)
    assert visible(tmp_path) == ["tiny.zip.part"]
    site.faults.clear()
    download.get("tinyimagenet", tmp_path)
    assert site.ranges[-1] == "bytes=10000-" and is_whole(tmp_path)


def test_get__goes_to_the_next_address_where_the_first_is_dead(site, tmp_path, monkeypatch):
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setitem(download.HOSTS, "tinyimagenet", (dead, site.url))
        download.get("tinyimagenet", tmp_path)
        assert is_whole(tmp_path)


def test_get__an_offer_of_another_size_touches_nothing(site, tmp_path):
    """As the login page of a network, which must not cost the gigabytes that are there."""
    part, whole = tmp_path / "tiny.zip.part", site.content
    part.write_bytes(whole[:5_000])
    site.content, site.knows_range = b"<html>please log in</html>", False
    with pytest.raises(DataError, match=r"it offers 26 bytes, not [\d,]+\. 5,000 of"):
        download.get("tinyimagenet", tmp_path)
    assert part.read_bytes() == whole[:5_000]


def test_get__a_wrong_digest_is_named_and_the_file_set_aside(site, tmp_path):
    site.content = site.content[::-1]
    with pytest.raises(DataError, match=r"tiny\.zip has the md5 [0-9a-f]+, not [0-9a-f]+, and is now \.bad"):
        download.get("tinyimagenet", tmp_path)
    assert visible(tmp_path) == ["tiny.zip.bad"]


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "ftp://127.0.0.1:1", "nonsense://"])
def test_get__a_proxy_that_cannot_be_used_is_one_sentence(site, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(DataError, match=r"The proxy that http_proxy.*cannot be used: .*--from FILE"):
        download.get("tinyimagenet", tmp_path)


def test_get__a_full_disk_is_said_before_and_meanwhile(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=len(site.content)))
    with pytest.raises(DataError, match=r"tinyimagenet takes 0 MB, and 0 MB are free\. Make room"):
        download.get("tinyimagenet", tmp_path)
    assert site.ranges == []
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        download.get("tinyimagenet", tmp_path)


def test_get__an_extraction_that_was_killed_is_done_again(site, tmp_path, monkeypatch):
    def killed(archive, root, folder):
        made.tinyimagenet(root, each=2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "extract", killed)
        with pytest.raises(KeyboardInterrupt):
            download.get("tinyimagenet", tmp_path)
    download.get("tinyimagenet", tmp_path)
    assert is_whole(tmp_path) and len(site.ranges) == 1


@pytest.mark.parametrize("form", ["zip", "gztar"])
def test_get__takes_an_archive_that_is_at_hand_and_leaves_it(tmp_path, form):
    made.tinyimagenet(tmp_path / "source")
    path = shutil.make_archive(tmp_path / "own", form, tmp_path / "source")
    download.get("tinyimagenet", tmp_path / "data", source=path)
    assert is_whole(tmp_path / "data") and visible(tmp_path / "data") == ["tiny-imagenet-200"]
    assert is_whole(tmp_path / "data") and os.path.exists(path)


def test_get__coco_comes_in_parts_that_lie_at_the_top_of_their_archives(tmp_path):
    top = made.coco(tmp_path / "source")
    for part in ("annotations", "train2017", "val2017"):
        path = shutil.make_archive(tmp_path / part, "zip", top, part)
        download.get("coco", tmp_path / "data", source=path)
    assert len(data.load("coco", tmp_path / "data", "test")) == 4 and visible(tmp_path / "data") == ["coco"]


def tar_member(name, kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, 7 if kind == tarfile.REGTYPE else 0
    return member


LINK = zipfile.ZipInfo("link")
LINK.external_attr = 0o120777 << 16
HOSTILE = {
    "zip that leads out": "../evil.txt",
    "zip with backslashes": "..\\evil.txt",
    "zip with an absolute path": "/tmp/evil.txt",
    "zip with a link": LINK,
    "tar that leads out": tar_member("a/../../evil.txt"),
    "tar with an absolute path": tar_member("/tmp/evil.txt"),
    "tar with a link": tar_member("a", tarfile.SYMTYPE, "../.."),
    "tar with a hard link": tar_member("a", tarfile.LNKTYPE, "/etc/passwd"),
    "tar with a device": tar_member("a", tarfile.CHRTYPE),
    "tar with a pipe": tar_member("a", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_extract__an_archive_that_would_write_elsewhere_writes_nothing(tmp_path, kind):
    (tmp_path / "inner").mkdir()
    if kind.startswith("zip"):
        with zipfile.ZipFile(tmp_path / "hostile", "w") as box:
            for member in ("good.txt", HOSTILE[kind]):
                box.writestr(member, "content")
    else:
        with tarfile.open(tmp_path / "hostile", "w") as box:
            for member in (tar_member("good.txt"), HOSTILE[kind]):
                box.addfile(member, io.BytesIO(b"content"))
    with pytest.raises(DataError, match=r"hostile: .* is a link, a device, or leads out\. Nothing was extracted"):
        download.extract(tmp_path / "hostile", tmp_path / "inner", "folder")
    assert visible(tmp_path) == ["hostile", "inner"] and visible(tmp_path / "inner") == []


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_extract__a_file_that_is_no_whole_archive_is_named(archive, tmp_path, content):
    path = tmp_path / "broken.zip"
    with open(archive, "rb") as file:
        whole = file.read()
    path.write_bytes(whole[:2000] + b"\0" * 2000 + whole[4000:] if content is None else content)
    with pytest.raises(DataError, match=r"broken\.zip cannot be extracted"):
        download.extract(path, tmp_path, "folder")


# ---------------------------------------------------------------- check


def test_check__says_what_each_split_holds(tmp_path):
    top = made.tinyimagenet(tmp_path)
    made.picture(top / "train/n99/a.png", 1)
    assert download.check("tinyimagenet", tmp_path).splitlines() == [
        "fit: 54 images, 1 left out", "dev: 6 images, 0 left out", "test: 6 images, 0 left out",
    ]  # fmt: skip


def test_check__lists_all_that_a_run_would_refuse_in_one_error(tmp_path):
    top = made.coco(tmp_path)
    train, test = sorted((top / "train2017").iterdir()), sorted((top / "val2017").iterdir())
    shutil.copy(test[0], train[0])  # in two splits
    train[3].write_bytes(train[3].read_bytes()[:200])
    test[3].unlink()
    test[3].symlink_to("gone")
    with pytest.raises(DataError) as caught:
        download.check("coco", tmp_path)
    for part in ("3 problems", "images are in two splits", f"{train[3]}: not a readable", f"{test[3]}: no file"):
        assert part in str(caught.value)


def test_archives__have_digests_and_an_address_with_a_certificate():
    assert all(hosts[-1].startswith("https://") for hosts in download.HOSTS.values())
    for place, _, md5, sha256 in [facts for archives in download.ARCHIVES.values() for facts in archives]:
        assert place.endswith(".zip") and (len(md5), len(sha256)) == (32, 64)
