"""``make lab`` with a stand-in for JupyterLab that says what it was started with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAYS = """#!/bin/sh
echo "$PATH"
echo "$@"
exec "{python}" -m jupyter kernelspec list --json
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout that is installed already, as far as make can tell."""
    folder = tmp_path / "checkout"
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    jupyter = folder / ".venv/bin/jupyter"
    jupyter.write_text(SAYS.format(python=sys.executable))
    jupyter.chmod(0o755)
    (folder / ".venv/installed").touch()
    return folder


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_lab__opens_the_notebooks_with_this_environments_kernel(checkout, tmp_path):
    """Even where somebody has registered another kernel, long gone, by the name that notebooks ask for."""
    other = tmp_path / "home/.local/share/jupyter/kernels/python3"
    other.mkdir(parents=True)
    spec = {"argv": ["gone", "{connection_file}"], "display_name": "Python 3 (gone)", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    hidden = {"JUPYTER_PATH": "", "JUPYTER_DATA_DIR": "", "XDG_DATA_HOME": "", "MAKEFLAGS": ""}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["HOME"] = str(tmp_path / "home")
    command = ["make", "--silent", "lab", "LAB=--no-browser"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path, arguments, listed = done.stdout.split("\n", 2)
    assert path.split(os.pathsep)[0] == str(checkout / ".venv/bin")  # terminals in JupyterLab find kdlib and papermill
    words = arguments.split()
    assert words[:2] == ["lab", "--no-browser"] and words[-1] == "notebooks"
    kernel = json.loads(listed)["kernelspecs"]["python3"]
    assert Path(kernel["resource_dir"]).is_relative_to(sys.prefix)
    assert kernel["spec"]["argv"][0] in ("python", sys.executable)  # 'python' is the one that JupyterLab itself runs on
