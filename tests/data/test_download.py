import dataclasses
import errno
import hashlib
import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tenacity import wait_none

from kdlib.data import archives, download
from kdlib.data.archives import Archive
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
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/zips/set.zip"

    @property
    def archive(self) -> Archive:
        digests = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
        return Archive((self.url,), len(CONTENT), *digests)


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
    monkeypatch.setitem(archives.ARCHIVES, "set", (site.archive,))
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
def test_get__refuses_an_offer_of_another_size_before_it_touches_what_is_there(site, tmp_path, content):
    """As the login page of a network, which must not cost the gigabytes that are there."""
    site.content, site.knows_range = content, False
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:150_000])
    with pytest.raises(DataError, match=rf"offers a file of {len(content):,} bytes, not 400,000.*150,000 of 400,000"):
        download.get("set", tmp_path)
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT[:150_000]


def test_get__a_wrong_sha256_alone_is_refused_too(site, tmp_path, monkeypatch):
    monkeypatch.setitem(archives.ARCHIVES, "set", (dataclasses.replace(site.archive, sha256="0" * 64),))
    with pytest.raises(DataError, match=r"has the SHA-256 [0-9a-f]{64}, not 0{64}; it is set aside"):
        download.get("set", tmp_path)
    assert visible(tmp_path) == ["set.zip.bad"]


# ---------------------------------------------------------------- another host


@pytest.fixture
def two_hosts(site, monkeypatch):
    """A dead first address and a living second one, as where only https gets through."""
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/zips/set.zip"
        monkeypatch.setitem(archives.ARCHIVES, "set", (dataclasses.replace(site.archive, urls=(dead, site.url)),))
        yield dead


def test_get__goes_to_the_next_address_where_the_first_is_dead(site, two_hosts, tmp_path, capsys):
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT and site.ranges == [None]
    assert f"trying {site.url}" in capsys.readouterr().err


def test_get__the_next_address_goes_on_with_what_the_first_gave(site, tmp_path, monkeypatch):
    first = site.url.replace("set.zip", "first/set.zip")
    monkeypatch.setitem(archives.ARCHIVES, "set", (dataclasses.replace(site.archive, urls=(first, site.url)),))
    site.faults = [("drop", 100_000)] + [503] * (download.FEW - 1)
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert site.ranges[-1] == "bytes=100000-" and len(site.ranges) == download.FEW + 1


def test_get__names_every_address_that_failed(site, two_hosts, tmp_path):
    site.faults = [404]
    with pytest.raises(DataError, match=rf"{two_hosts}: .*; {site.url}: the server answered 404 Not Found"):
        download.get("set", tmp_path)


def test_archives__a_file_of_ones_own_stands_in_the_place_of_the_official_ones(site, tmp_path, monkeypatch, capsys):
    facts = {"urls": [site.url], "bytes": len(CONTENT), "md5": site.archive.md5}
    (tmp_path / "mirror.json").write_text(json.dumps({"coco": [facts]}))
    monkeypatch.setenv(archives.ELSEWHERE, str(tmp_path / "mirror.json"))
    assert download.get("coco", tmp_path / "data") == [tmp_path / "data" / "set.zip"]
    assert f"addresses and digests are those of {tmp_path / 'mirror.json'}" in capsys.readouterr().err
    assert archives.archives("tinyimagenet") is archives.ARCHIVES["tinyimagenet"]
    site.content = CONTENT[::-1]  # its digests are checked like the official ones
    (tmp_path / "data" / "set.zip").unlink()
    with pytest.raises(DataError, match="has the MD5"):
        download.get("coco", tmp_path / "data")


@pytest.mark.parametrize("content", ["", "[]", '{"coco": [{"urls": ["u/a.zip"]}]}', '{"coco": [{"place": 1}]}', None])
def test_archives__a_file_of_ones_own_that_is_wrong_is_named(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "mirror.json").write_text(content)
    monkeypatch.setenv(archives.ELSEWHERE, str(tmp_path / "mirror.json"))
    with pytest.raises(DataError, match=r"mirror\.json \(\$KDLIB_ARCHIVES\) names no archives.*mend it, or unset"):
        archives.archives("coco")


# ---------------------------------------------------------------- what is there, and the disk


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


def test_get__says_what_it_takes_before_it_starts(site, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    download.get("set", tmp_path)
    assert "set: 0 MB to download; 2 MB are free" in capsys.readouterr().err
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_get__a_disk_that_fills_up_meanwhile_keeps_what_is_there(site, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "set.zip.part").write_bytes(CONTENT[:150_000])
    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", full)
        with pytest.raises(DataError, match=r"set\.zip\.part: cannot be written \(the disk is full\).*goes on"):
            download.get("set", tmp_path)
    download.get("set", tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_get__names_the_data_sets_that_can_be_downloaded(tmp_path):
    with pytest.raises(ValueError, match=r"'imagenet'.*tinyimagenet, coco"):
        download.get("imagenet", tmp_path)


def test_archives__have_digests_and_an_address_with_a_certificate():
    for archive in [archive for entries in archives.ARCHIVES.values() for archive in entries]:
        assert len(bytes.fromhex(archive.md5)) == 16 and len(bytes.fromhex(archive.sha256)) == 32
        assert archive.file.endswith(".zip")
        assert archive.urls[-1].startswith("https://") and archive.urls[-1].endswith(archive.file)
