"""A site of archives on a loopback address: files of a folder, from where a Range asks for them."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """As S3 answers: 206 with Content-Range to a Range, else 200."""

    def do_GET(self):
        """A file's bytes."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        size = path.stat().st_size
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first and first >= size:
            return self.send_error(416)
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(first)
            while chunk := file.read(1 << 20):
                self.wfile.write(chunk)

    def log_message(self, *_):
        """Nothing on the terminal."""


@contextmanager
def serving(folder: Path):
    """The address of ``folder``, as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
