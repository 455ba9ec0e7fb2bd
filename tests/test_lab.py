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

# The numbers of the run before are gone.
BEGUN = """() =>
  [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]
    .some(node => /\\[[ *]\\]/.test(node.innerText))
"""
# What a reader types below the student: another network, and a part of it frozen.
EDIT = """from kdlib.students import Student, standardised, unit
from torch import nn

class Wide(Student):
    reads = "features"

    def __init__(self, spec):
        super().__init__(spec)
        self.image = nn.Sequential(nn.Linear(spec.teacher_width, 200), nn.GELU(), nn.Linear(200, spec.width))

    def see(self, batch):
        return {"image": unit(self.image(standardised(batch["image"])))}

experiment = Experiment.open(config, student=Wide)
distiller = experiment.distiller()
distiller.student.image[0].bias.requires_grad_(False)
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
        opened(page, url)
        page.evaluate(WATCH)
        restart_and_run_all(page, sum(cell.cell_type == "code" for cell in nbformat.read(workshop / NAME, 4).cells))
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


def test_lab__an_edit_that_is_typed_into_the_notebook_is_trained_and_marked(workshop, home):
    """A class in a cell, and a frozen part: trained by the cell below, gone on with after the kernel's restart."""
    with browser_page() as page, lab(workshop, home, **makefile_environment()) as url:
        opened(page, url)
        page.locator(".jp-CodeCell").filter(has_text="distiller = experiment.distiller()").locator(
            ".cm-line"
        ).last.click()
        page.keyboard.press("Escape")
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.keyboard.insert_text(EDIT)
        codes = 1 + sum(cell.cell_type == "code" for cell in nbformat.read(workshop / NAME, 4).cells)
        lines = []
        for _ in range(2):
            restart_and_run_all(page, codes)
            assert page.locator(ERROR).all_inner_texts() == []
            page.get_by_text("Edited by hand").filter(has_text="student.image.0.bias: trained → frozen").wait_for()
            lines.append(page.locator(".jp-OutputArea-output").filter(has_text="Wide, steps:").inner_text())
    assert re.fullmatch(r"Wide, steps: (\d+)/\1 - epoch 40, .* - done", lines[0].strip())
    assert re.fullmatch(r"Wide, steps: (\d+)/\1 done before", lines[1].strip())


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


def opened(page, url: str) -> None:
    """Open the notebook and wait until its kernel is there: before that there is nothing to restart."""
    page.set_default_timeout(60_000)
    page.goto(url.format(path=f"lab/tree/{NAME}"))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def restart_and_run_all(page, codes: int) -> None:
    """By the menu, and wait until all ``codes`` cells of code have run or one has failed."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Restart Kernel and Run All Cells").click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_function(BEGUN, timeout=60_000)
    page.wait_for_function(ENDED, arg=codes, timeout=180_000)


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
