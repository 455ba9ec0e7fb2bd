"""Published checkpoints from a loopback hub by the hub's own client: pinned, on main, gated, gone, offline, damaged."""

import errno
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.teachers.checkpoint import TeacherError, snapshot

DINO = teachers.TEACHERS["dino"]


class Hub:
    """``repositories[id]``: revision -> files; ``gated`` and ``cut``: ids that are refused, files that break off."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.repositories, self.gated, self.cut, self.requests = {}, set(), set(), []
        handler = type("Answer", (Answer,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commit(self, name: str, folder: Path, *revisions: str, sha: str = "") -> str:
        """Publish a folder's files; the commit's hash is made up unless given."""
        content = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        sha = sha or hashlib.sha1(name.encode() + b"".join(content.values())).hexdigest()
        self.repositories.setdefault(name, {}).update(dict.fromkeys((sha, *revisions), (sha, content)))
        return sha


class Answer(BaseHTTPRequestHandler):
    """The addresses, headers and errors that the hub's client relies on."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.hub.requests.append("/".join(parts))
        api = parts[:2] == ["api", "models"]
        name, rest = ("/".join(parts[2:4]), parts[4:]) if api else ("/".join(parts[:2]), parts[2:])
        if name not in self.hub.repositories:
            return self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if rest[1] not in self.hub.repositories[name]:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        sha, content = self.hub.repositories[name][rest[1]]
        if rest[0] == "revision":
            return self.send(200, {"id": name, "modelId": name, "sha": sha, "siblings": [], "tags": []})
        if rest[0] == "tree":
            return self.send(200, [self.entry(file, data) for file, data in content.items()])
        if name in self.hub.gated:
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        if rest[2] not in content:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        etag = self.entry(rest[2], content[rest[2]])["oid"]
        return self.send(200, content[rest[2]], {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}, rest[2] in self.hub.cut)

    do_GET = do_HEAD

    @staticmethod
    def entry(file: str, data: bytes) -> dict:
        large = file.endswith((".bin", ".safetensors"))  # named by their SHA-256, as in git-lfs
        oid = hashlib.sha256(data).hexdigest() if large else hashlib.sha1(data).hexdigest()
        lfs = {"lfs": {"oid": oid, "size": len(data), "pointerSize": 134}} if large else {}
        return {"type": "file", "oid": oid, "size": len(data), "path": file} | lfs

    def send(self, status: int, content, headers: dict | None = None, cut: bool = False):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start and status == 200 else status)
        for key, value in ({"Content-Length": str(len(body) - start)} | (headers or {})).items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start : start + 1000] if cut else body[start:])
            self.close_connection = cut

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("home"))
    yield hub
    hub.server.shutdown()


@pytest.fixture
def hub(running, monkeypatch):
    """The hub, where its client looks: addresses that huggingface_hub reads once, and no waiting between retries."""
    monkeypatch.setattr(constants, "ENDPOINT", running.address)
    files = running.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(running.cache))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return running


def client(name: str, **fields):
    """What a function of ``teachers`` gives, as in a new process."""
    snapshot.cache_clear()
    return getattr(teachers, name)(RunConfig(**{"teacher": "dino", "dataset": "coco"} | fields))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """``published("main")``: DINO as on main, pickled; ``published("request")``: with safetensors."""
    toy, root = Path(teachers.__file__).parent / "toy" / "dino", tmp_path_factory.mktemp("published")
    for kind in ("main", "request"):
        (root / kind).mkdir()
        shutil.copy(toy / "config.json", root / kind)
        old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 64}
        (root / kind / "preprocessor_config.json").write_text(json.dumps(old), encoding="utf-8")
    shutil.copy(toy / "model.safetensors", root / "request")
    torch.save(load_file(toy / "model.safetensors"), root / "main" / "pytorch_model.bin")
    for name in ("open_clip_model.safetensors", "open_clip_config.json", "code.py"):
        (root / "request" / name).write_text("not a part of it", encoding="utf-8")
    return lambda kind: root / kind


def test_published__is_the_pinned_commit_without_its_pickle(hub, published, recwarn):
    hub.commit(DINO.DEFAULT, published("main"), "main")
    hub.commit(DINO.DEFAULT, published("request"), sha=DINO.REVISION)
    assert client("load", checkpoint="").revision == DINO.REVISION
    assert not [warning for warning in recwarn if "is gone" in str(warning.message)]
    identity = client("describe", checkpoint="")
    (client("resolve", checkpoint="") / "tf_model.h5").write_bytes(b"put into the cache by another program")
    assert client("describe", checkpoint="") == identity
    taken = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert taken == {"config.json", "preprocessor_config.json", "model.safetensors", "open_clip_config.json"}


def test_published__a_commit_that_is_gone_gives_main_with_a_warning(hub, published):
    shutil.copytree(published("main"), published("beit"))
    shutil.copy(Path(teachers.__file__).parent / "toy" / "beit" / "config.json", published("beit"))
    beit = teachers.TEACHERS["beit"]
    sha = hub.commit(beit.DEFAULT, published("beit"), "main")
    with pytest.warns(UserWarning, match=f"pinned commit {beit.REVISION} is gone"):
        folder = client("resolve", teacher="beit", checkpoint="")
    assert folder.name == sha and (folder / "pytorch_model.bin").is_file()


def test_model_id__means_main_or_the_revision_behind_the_at(hub, published):
    main = hub.commit("owner/two", published("main"), "main")
    other = hub.commit("owner/two", published("request"), "refs/pr/7", "v1")
    assert client("load", checkpoint="owner/two").revision == main
    assert {client("load", checkpoint=f"owner/two@{name}").revision for name in (other, "v1", "refs/pr/7")} == {other}
    with pytest.raises(TeacherError, match="owner/two has no revision 'v9'"):
        client("resolve", checkpoint="owner/two@v9")


def test_hub__says_what_to_do_about_a_gated_repository_and_one_that_is_none(hub, published):
    hub.commit("owner/gated", published("request"), "main")
    hub.gated.add("owner/gated")
    for name, words in {
        "owner/gated": r"owner/gated is gated\. Accept its conditions on http.*hf auth login",
        "/nowhere/my-vit": "neither a folder that is there nor a model id",
        "models/my-vit": rf"public model models/my-vit, and no such folder in {Path.cwd()}",
    }.items():
        with pytest.raises(TeacherError, match=words):
            client("resolve", checkpoint=name)


def test_hub__a_file_that_breaks_off_is_no_checkpoint_and_the_next_run_continues(hub, published):
    sha = hub.commit("owner/cut", published("request"), "main")
    hub.cut.add("model.safetensors")
    with pytest.raises(TeacherError, match=r"owner/cut is not all in .*, and did not come: .*Run again"):
        client("load", checkpoint="owner/cut")
    hub.cut.clear()
    assert client("load", checkpoint="owner/cut").revision == sha


def test_hub__a_full_disk_is_one_sentence(hub, monkeypatch):
    def full(*_, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(TeacherError, match=r"owner/large is not all in .*No space left.* set HF_HOME to a disk with"):
        client("resolve", checkpoint="owner/large")


def test_describe__finds_damage_by_the_hubs_own_digest(hub, published):
    hub.commit("owner/damaged", published("request"), "main")
    files = client("describe", checkpoint="owner/damaged")["files"]
    path = client("resolve", checkpoint="owner/damaged") / "model.safetensors"
    assert files["model.safetensors"] == path.resolve().name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(TeacherError, match=r"blobs.* is not what the hub published.* Delete it"):
        client("load", checkpoint="owner/damaged")


@pytest.mark.parametrize("switched_off", [False, True])
def test_offline__what_is_complete_in_the_cache_serves(hub, published, monkeypatch, switched_off):
    sha = hub.commit("owner/kept", published("main"), "main")
    assert client("load", checkpoint="owner/kept").revision == sha
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switched_off)
    assert {client("resolve", checkpoint=f"owner/kept{commit}").name for commit in ("", f"@{sha}")} == {sha}
    with pytest.raises(TeacherError, match="outgoing traffic" if switched_off else "Connection refused"):
        client("resolve", checkpoint="owner/other")
