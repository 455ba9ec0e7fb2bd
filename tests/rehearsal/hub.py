"""A model hub on a loopback address: the addresses, headers and errors that the hub's own client relies on.

Point the real client at it with the environment of :meth:`Hub.environment`, before it is imported. Large files are
kept as the hub keeps them: a redirect to another place, and their SHA-256 as ETag. Not rehearsed: the Xet protocol, by
which the hub delivers the same bytes to clients that ask for it.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".bin", ".safetensors", ".h5", ".msgpack")  # kept in LFS


@dataclass
class Repository:
    """Revisions by name, each a commit, and commits by hash, each a folder's files. What happens to who asks."""

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    refusal: int = 401  # of a gated repository to whoever is not logged in; 403 to whoever has not been let in
    private: bool = False
    dies_at: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the connection is cut
    deaths: int = 0  # how often it is still cut; below 0 each time

    def commit(self, folder: Path, *revisions: str, sha: str = "") -> str:
        """Publish a folder's files as a commit that ``revisions`` point to; its hash, made up unless given."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        sha = sha or hashlib.sha1("".join(f"{name}{sha256(path)}" for name, path in files.items()).encode()).hexdigest()
        self.commits[sha] = files
        self.revisions |= dict.fromkeys(revisions, sha)
        return sha

    def forget(self, sha: str) -> None:
        """Take a commit and its branches away, as when a pull request's branch is deleted."""
        del self.commits[sha]
        self.revisions = {name: commit for name, commit in self.revisions.items() if commit != sha}


class Hub:
    """The server. ``repositories`` by owner/name; ``requests`` are methods and paths, in the order they came."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.server: ThreadingHTTPServer | None = None
        self.port = 0

    def repository(self, name: str) -> Repository:
        """The repository of this name, made if it is new."""
        return self.repositories.setdefault(name, Repository())

    def start(self) -> "Hub":
        """Listen on a free port, or again on the one that it had."""
        handler = type("OfThisHub", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        """Nobody answers any more."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def address(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> str:
        """Where large files are, under another name: the hub's client must not take it for the hub itself."""
        return f"http://localhost:{self.port}"

    def environment(self, home: Path) -> dict[str, str]:
        """What sends the hub's client here, with its cache below ``home``, and no login or telemetry."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "60",  # on a busy machine the first answer may take long
            "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        }

    def __enter__(self) -> "Hub":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()


class Handler(BaseHTTPRequestHandler):
    """One request. ``hub`` is set by :meth:`Hub.start`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        """Headers only."""
        self._answer()

    def do_GET(self):
        """Headers and content."""
        self._answer()

    def log_message(self, *_):
        """Nothing on the terminal; the hub keeps the requests."""

    def _answer(self) -> None:
        if self.hub.server is None:  # stopped; this connection was open before
            self.close_connection = True
            return None
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        self.hub.requests.append((self.command, unquote(address.path)))
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._api("/".join(parts[2:4]), parts[4:], parse_qs(address.query))
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        if parts[0] == "lfs" and len(parts) == 5:  # lfs/owner/name/commit/file
            repository = self.hub.repositories["/".join(parts[1:3])]
            return self._content(repository, parts[4], repository.commits[parts[3]][parts[4]])
        return self._error(404, "EntryNotFound", "Not found")

    def _api(self, name: str, rest: list[str], query: dict) -> None:
        """api/models/NAME/revision/REV and api/models/NAME/tree/REV; gated repositories are listed all the same."""
        repository = self._repository(name)
        if repository is None:
            return None
        sha = self._sha(repository, rest[1] if len(rest) > 1 else "main")
        if sha is None:
            return None
        files = repository.commits[sha]
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": file} for file in files]
            return self._json(
                {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": [], "private": False}
            )
        if rest[0] == "tree":
            return self._json(
                [entry(file, path) for file, path in files.items() if "/" not in file or "recursive" in query]
            )
        return self._error(404, "", "Not found")

    def _resolve(self, name: str, revision: str, file: str) -> None:
        """A file: small ones at once, large ones by way of another address."""
        repository = self._repository(name)
        if repository is None:
            return None
        sha = self._sha(repository, revision)
        if sha is None:
            return None
        if repository.gated:
            return self._error(repository.refusal, "GatedRepo", f"Access to model {name} is restricted.")
        path = repository.commits[sha].get(file)
        if path is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        known = {"X-Repo-Commit": sha}
        if not file.endswith(LARGE):
            return self._content(repository, file, path, known | {"ETag": f'"{git_sha1(path)}"'})
        known |= {"X-Linked-ETag": f'"{sha256(path)}"', "X-Linked-Size": str(path.stat().st_size)}
        known |= {"Location": f"{self.hub.store}/lfs/{name}/{sha}/{file}", "Content-Length": "0"}
        return self._headers(302, known)

    def _content(self, repository: Repository, file: str, path: Path, headers: dict | None = None) -> None:
        """A file's bytes, from where a Range asks for them; cut off where the repository says so."""
        size = path.stat().st_size
        start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        given = {"Content-Length": str(size - start), "Accept-Ranges": "bytes"} | (headers or {})
        if start:
            given["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._headers(206 if start else 200, given)
        if self.command == "HEAD":
            return
        end = size
        if file in repository.dies_at and repository.deaths:
            repository.deaths -= 1
            end = min(size, repository.dies_at[file])
        with open(path, "rb") as content:
            content.seek(start)
            while content.tell() < end and (chunk := content.read(min(1 << 20, end - content.tell()))):
                self.wfile.write(chunk)
        if end < size:
            self.wfile.flush()
            self.close_connection = True

    def _repository(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or repository.private:  # the hub tells a stranger neither from the other
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        return repository

    def _sha(self, repository: Repository, revision: str) -> str | None:
        sha = repository.revisions.get(revision, revision)
        if sha not in repository.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return sha

    def _json(self, content) -> None:
        body = json.dumps(content).encode()
        self._headers(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str, headers: dict | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        known = {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": str(len(body))}
        self._headers(status, known | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def entry(name: str, path: Path) -> dict:
    """A line of a tree listing."""
    size = path.stat().st_size
    found = {"type": "file", "oid": git_sha1(path), "size": size, "path": name}
    return found | ({"lfs": {"oid": sha256(path), "size": size, "pointerSize": 134}} if name.endswith(LARGE) else {})


_known: dict[tuple, str] = {}


def sha256(path: Path) -> str:
    """A file's SHA-256, taken once."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _known:
        with open(path, "rb") as file:
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]


def git_sha1(path: Path) -> str:
    """What git names a file's content by; of a large file, its LFS pointer's stand-in."""
    if path.name.endswith(LARGE):
        return hashlib.sha1(sha256(path).encode()).hexdigest()
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()
