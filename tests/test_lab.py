"""A notebook in a real JupyterLab: opened, restarted and run whole, watched, and read as it was saved."""

import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from browser import page as browser_page
from lab import lab

from kdlib.study.file import notebooks_folder

NAME = "dino_tinyimagenet.ipynb"
MAKEFILE = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
# Collects what the training cell shows, as a reader sees it pass by.
WATCH = """
window.lines = new Set();
new MutationObserver(() => {
  for (const node of document.querySelectorAll('.jp-OutputArea-output'))
    if (node.innerText.startsWith('projection, steps')) window.lines.add(node.innerText.trim());
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""

ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
# Every code cell has its number, or one of them has failed, at which JupyterLab stops.
ENDED = f"""codes => document.querySelector("{ERROR}") || codes ==
  [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]
    .filter(node => /\\[\\d+\\]/.test(node.innerText)).length
"""


@pytest.fixture
def workshop(tmp_path, small_shapes):
    """A copy of the notebook with parameters of seconds, as a reader would set them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(notebooks_folder() / NAME, folder)
    book = nbformat.read(folder / NAME, as_version=4)
    cell = next(cell for cell in book.cells if cell.id == "parameters")
    given = {"epochs": 40, "batch_size": 8, "data_root": str(small_shapes), "timed_calls": 5}
    for name, value in given.items():
        cell.source = re.sub(rf"^({name}: \w+ =) \S+", rf"\1 {json.dumps(value)}", cell.source, flags=re.MULTILINE)
    book.cells.append(nbformat.v4.new_code_cell("import sys\n\nprint(sys.executable)", id="interpreter"))
    nbformat.write(book, folder / NAME)
    return folder


@pytest.fixture
def home(tmp_path):
    """A home in which somebody has registered another kernel, long gone, by the name that notebooks ask for."""
    folder = tmp_path / "home" / ".local/share/jupyter/kernels/python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["gone", "{connection_file}"], "display_name": "Python 3 (gone)", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return tmp_path / "home"


def test_lab__restart_and_run_all_is_live_and_leaves_a_readable_notebook(workshop, home):
    with browser_page() as page, lab(workshop, home, **makefile_environment()) as url:
        page.set_default_timeout(60_000)
        page.goto(url.format(path=f"lab/tree/{NAME}"))
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.get_by_text(
            "Python 3 (ipykernel) | Idle"
        ).wait_for()  # before it is connected, there is nothing to restart
        page.evaluate(WATCH)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Restart Kernel and Run All Cells").click()
        page.locator(".jp-Dialog .jp-mod-accept").click()
        codes = sum(cell.cell_type == "code" for cell in nbformat.read(workshop / NAME, 4).cells)
        page.wait_for_function(ENDED, arg=codes, timeout=180_000)
        assert page.locator(ERROR).all_inner_texts() == []
        page.get_by_role("table").filter(has_text="Scores on test").wait_for()
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
        assert "Error displaying widget" not in page.inner_text("body")
        seen = page.evaluate("[...window.lines]")
        page.keyboard.press("Control+s")
        page.wait_for_selector(".jp-mod-dirty", state="detached")
        book = saved(page, workshop)
    assert len(seen) >= 2, seen  # it moved while the cell ran
    (output,) = next(cell for cell in book.cells if cell.id == "train").outputs
    assert re.fullmatch(r"projection, steps: (\d+)/\1 - epoch 40, .* - done", output.data["text/plain"])
    assert book.cells[-1].outputs[0].text.strip() == sys.executable
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [kind for output in outputs for kind in output.get("data", {}) if "widget" in kind]


def test_lab__the_explorer_answers_there_as_on_its_page(finished_study, tmp_path, home):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(notebooks_folder() / "explore.ipynb", folder)
    with browser_page() as page, lab(folder, home, **makefile_environment()) as url:
        page.set_default_timeout(60_000)
        page.goto(url.format(path="lab/tree/explore.ipynb"))
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.get_by_label("Teacher", exact=True).select_option("clip on coco")
        page.get_by_text("The student projection has no attention map").first.wait_for()
        page.get_by_label("Student", exact=True).select_option("attention")
        page.get_by_text("where the student looks").first.wait_for()
        page.get_by_label("Caption").fill("a large white star")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="The student finds nearest to 'a large white star'").wait_for()
        assert page.locator(ERROR).all_inner_texts() == []
        assert "Error displaying widget" not in page.inner_text("body")


def makefile_environment() -> dict[str, str]:
    """The Jupyter settings that ``make lab`` starts it with."""
    return dict(re.findall(r"\b(JUPYTER_\w+)=(\S+) .*jupyter lab", MAKEFILE))


def saved(page, folder):
    """The notebook on disk, once JupyterLab has written what it shows."""
    for _ in range(100):
        book = nbformat.read(folder / NAME, as_version=4)
        if all(cell.execution_count for cell in book.cells if cell.cell_type == "code"):
            return book
        page.wait_for_timeout(100)
    raise AssertionError("JupyterLab did not save the notebook")
