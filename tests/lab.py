"""JupyterLab for the tests: alone with a temporary folder, on a free port of this machine."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Nothing asks the network for news, and every cell is in the page however far it is scrolled.
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false", "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@contextmanager
def lab(folder: Path, home: Path, **environment: str) -> Iterator[str]:
    """``jupyter lab`` over ``folder``, on a free port of this machine: its address, with a token as {query}.

    ``home`` takes all that JupyterLab writes beside the notebooks, so that nobody's settings play a part.
    """
    token = secrets.token_hex(16)
    for name, content in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython", "HOME": ""}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={free_port()}", f"--IdentityProvider.token={token}", str(folder)]
    log = open(home / "lab.log", "wb")  # noqa: SIM115 - closed below
    process = subprocess.Popen(
        command,
        env=os.environ | {name: str(home / part) for name, part in own.items()} | environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield f"{address(process, home)}{{path}}?token={token}"
    finally:
        process.terminate()
        try:
            process.wait(20)  # it ends its kernels
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def free_port() -> int:
    """A port that nobody listens on; should somebody be faster, the server takes one near it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def address(process: subprocess.Popen, home: Path, seconds: float = 60) -> str:
    """Where the server listens, as it writes down itself."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        for path in (home / "runtime").glob("jpserver-*.json"):
            if url := _url(path):
                return url
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{(home / 'lab.log').read_text()[-2000:]}")


def _url(path: Path) -> str:
    try:
        return json.loads(path.read_text())["url"]
    except json.JSONDecodeError:  # not yet whole
        return ""
