"""A notebook in a real JupyterLab, in a browser: opened, restarted and run whole, changed, run again, saved."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest

from kdlib.utils import project_root, runs_root

NAME = "dino_tinyimagenet.ipynb"
ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
PROMPTS = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(node => node.innerText)"
BEGUN = f"() => {PROMPTS}.some(text => /\\[[ *]\\]/.test(text))"  # the numbers of the run before are gone
# Every code cell has its number, or one of them has failed, at which JupyterLab stops.
ENDED = f"""codes => document.querySelector("{ERROR}")
  || {PROMPTS}.filter(text => /\\[\\d+\\]/.test(text)).length == codes"""
# Nothing asks the network for news, and every cell is in the page however far it is scrolled.
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false", "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
# What a reader types into the cell that shows the student: a loss at another temperature, a part that is frozen.
EDIT = """
distiller.config = distiller.config.model_copy(update={"tau": 4.0})
distiller.student.image.bias.requires_grad_(False)
"""


@pytest.fixture
def page():
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("needs chromium on the PATH")
    with driver.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.set_default_timeout(300_000)
        yield page
        chromium.close()


@pytest.fixture
def notebook(tmp_path, small_shapes):
    """A copy of the notebook with parameters of seconds, as a reader would set them."""
    path = tmp_path / "notebooks" / NAME
    path.parent.mkdir()
    book = nbformat.read(project_root() / "notebooks" / NAME, 4)
    cell = next(cell for cell in book.cells if cell.id == "parameters")
    small = {"epochs": [2], "data_root": str(small_shapes), "overrides": {"batch_size": 16, "timed_calls": 5}}
    for name, value in small.items():
        cell.source = re.sub(rf"^({name}: \w+ =) .*", rf"\1 {json.dumps(value)}", cell.source, flags=re.MULTILINE)
    nbformat.write(book, path)
    return path


@contextlib.contextmanager
def jupyterlab(folder, home):
    """``jupyter lab`` over ``folder``, started as ``make lab`` does; its address. ``home`` takes all else it writes."""
    for name, content in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    # Somebody has registered another kernel, long gone, by the name that the notebooks ask for.
    gone = home / ".local/share/jupyter/kernels/python3"
    gone.mkdir(parents=True)
    spec = {"argv": ["gone", "{connection_file}"], "display_name": "Python 3 (gone)", "language": "python"}
    (gone / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython", "HOME": ""}
    makefile = (project_root() / "Makefile").read_text(encoding="utf-8")
    own = {name: str(home / part) for name, part in own.items()} | dict(re.findall(r"(JUPYTER_\w+)=(\S+) ", makefile))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", "--IdentityProvider.token=secret", str(folder)]
    with open(home / "lab.log", "wb") as log:
        process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        while not (found := list((home / "runtime").glob("jpserver-*-open.html"))):  # written last
            assert process.poll() is None, (home / "lab.log").read_text(encoding="utf-8")
            time.sleep(0.1)
        server = found[0].with_name(found[0].name.replace("-open.html", ".json"))
        yield json.loads(server.read_text(encoding="utf-8"))["url"]
    finally:
        process.terminate()  # it ends its kernels
        process.wait(30)


def restart_and_run_all(page, codes: int) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Restart Kernel and Run All Cells").click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_function(BEGUN)
    page.wait_for_function(ENDED, arg=codes, timeout=120_000)
    assert page.locator(ERROR).all_inner_texts() == []


def test_lab__runs_a_notebook_whole_and_trains_what_is_typed_into_it(page, notebook, tmp_path):
    codes = sum(cell.cell_type == "code" for cell in nbformat.read(notebook, 4).cells)
    (tmp_path / "home").mkdir()
    with jupyterlab(notebook.parent, tmp_path / "home") as url:
        page.goto(f"{url}lab/tree/{NAME}?token=secret")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that there is nothing to restart
        restart_and_run_all(page, codes)
        page.get_by_role("table").filter(has_text="student, 2 epochs").wait_for()
        notes = page.locator(".jp-RenderedMarkdown li")
        assert notes.count() and not notes.filter(has_text="Edited by hand").count()
        page.locator(".jp-CodeCell .cm-line").filter(has_text="distiller = experiment.distiller()").click()
        page.keyboard.press("End")
        page.keyboard.insert_text(EDIT)
        restart_and_run_all(page, codes)
        for words in ("config.tau: 2.0 → 4.0", "student.image.bias: trained → frozen"):
            notes.filter(has_text=f"Edited by hand: {words}").wait_for()
        page.keyboard.press("Control+s")
        page.wait_for_selector(".jp-mod-dirty", state="detached")
    runs = list(runs_root().glob("by_hand/dino_tinyimagenet/projection/*/result.json"))
    assert len(runs) == 2  # both trainings are there
    outputs = [one for cell in nbformat.read(notebook, 4).cells for one in cell.get("outputs", [])]
    assert outputs and not [one for one in outputs if one.get("name") == "stderr" or "widget" in str(one.get("data"))]
