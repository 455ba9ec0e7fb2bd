"""The notebooks: as files, and the four of the teachers run by papermill on small data."""

import ast
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from kdlib.config import RunConfig
from kdlib.data import DATASETS
from kdlib.experiment import run_folder
from kdlib.report import page
from kdlib.students import STUDENTS
from kdlib.utils import project_root, read_json, runs_root

FOLDER = project_root() / "notebooks"
ALL = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
EACH_TEACHER = pytest.mark.parametrize("name", ["dino_tinyimagenet", "beit_tinyimagenet", "clip_coco", "blip_coco"])


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def parameters(book: nbformat.NotebookNode) -> str:
    (cell,) = [cell for cell in code(book) if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


# ---------------------------------------------------------------- as files


@pytest.mark.parametrize("name", ALL)
def test_notebook__is_committed_clean_with_short_cells(name):
    book = read(name)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3" and parameters(book)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(book))
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", cell.id) for cell in book.cells)
    assert not re.search(r"(/home|/root|/Users|/tmp|/work|[A-Z]:\\)", "\n".join(cell.source for cell in book.cells))
    for cell in code(book):
        lines = re.sub(r"  # (noqa|fmt).*", "", cell.source).splitlines()
        assert len(lines) <= 15 and max(map(len, lines)) <= 120, cell.id


@EACH_TEACHER
def test_notebook__states_no_score_in_its_prose(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    assert not re.search(r"\b0\.[1-9]\d*\b|\d %(?! of that order)", text)


@EACH_TEACHER
def test_parameters__are_fields_with_their_defaults_and_choices(name):
    book = read(name)
    seen = papermill.inspect_notebook(FOLDER / f"{name}.ipynb")
    # A line with a second = would be hidden from papermill.
    assert list(seen) == [node.target.id for node in ast.parse(parameters(book)).body]
    assert 10 <= len(seen) <= 13 and list(seen)[-1] == "overrides"
    assert all(parameter["help"] for parameter in seen.values())
    assert seen["method"]["help"] == ", ".join(STUDENTS)
    assert set(seen["dataset"]["help"].split(", ")) <= set(DATASETS)
    own = {"dataset": book.metadata.kdlib.dataset, "epochs": [5, 10], "overrides": {}}
    for field, parameter in seen.items():
        default = own[field] if field in own else RunConfig.model_fields[field].default
        assert ast.literal_eval(parameter["default"]) == default, field


@EACH_TEACHER
def test_notebook__assigns_no_field_after_its_parameters(name):
    """Cells can be run again in any order: set-up would take such a variable for a parameter."""
    cells = [cell.source for cell in code(read(name)) if "parameters" not in cell.metadata.get("tags", [])]
    names = [node for node in ast.walk(ast.parse("\n".join(cells))) if isinstance(node, ast.Name)]
    assert not {name.id for name in names if isinstance(name.ctx, ast.Store)} & set(RunConfig.model_fields)


@pytest.mark.parametrize(("given", "words"), [
    ({"epoch": 3}, "'epoch'.*Did you mean epochs"), ({"teacher": "clip"}, "'teacher'.*whose teacher is dino"),
    ({"overrides": {"batchsize": 16}}, "'batchsize'.*Did you mean batch_size"),
])  # fmt: skip
def test_parameters__that_papermill_would_only_warn_of_are_errors(given, words):
    book = parameterize_notebook(load_notebook_node(str(FOLDER / "dino_tinyimagenet.ipynb")), given)
    cells = [cell.source for cell in book.cells if "parameters" in " ".join(cell.metadata.tags)]
    variables = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, variables)
    with pytest.raises(ValueError, match=words):
        RunConfig.from_notebook(variables, "dino")


def test_parameters__are_taken_as_papermill_hands_them_over():
    for epochs in (3, [3], "3", "[3]"):
        assert RunConfig.from_notebook({"dataset": "coco", "epochs": epochs}, "clip").epochs == [3]
    assert RunConfig.from_notebook({"dataset": "coco", "epochs": "5,10"}, "clip").epochs == [5, 10]


# ---------------------------------------------------------------- run


@pytest.fixture
def run(tmp_path, small_shapes):
    """``run('clip_coco', edit=..., method='cbam')``: the executed notebook, and its page as text."""

    def execute(name: str, edit: str = "", **given) -> tuple[nbformat.NotebookNode, str]:
        book, target = read(name), tmp_path / f"{name}.ipynb"
        if edit:
            place = [cell.id for cell in book.cells].index("losses")
            book.cells.insert(place, nbformat.v4.new_code_cell(edit, id="edit"))
        small = {"data_root": str(small_shapes), "study": "test", "epochs": [1, 2]}
        small["overrides"] = {"batch_size": 16, "image_size": 32, "timed_calls": 5}
        papermill.execute_notebook(book, target, small | given, kernel_name="python3", progress_bar=False)
        page(target, tmp_path / "page.html")
        return nbformat.read(target, 4), (tmp_path / "page.html").read_text(encoding="utf-8")

    return execute


def output(book: nbformat.NotebookNode, name: str, kind: str = "text/markdown") -> str:
    (cell,) = [cell for cell in book.cells if cell.id == name]
    return "\n".join(str(one["data"][kind]) for one in cell.outputs if kind in one.get("data", {}))


def check_page(book: nbformat.NotebookNode, html: str) -> None:
    """What holds for each: small, whole, described, and nothing on stderr."""
    assert len(html) < 2**20 and "<script" not in html
    pictures = re.findall(r"<img [^>]*>", html)
    assert len(pictures) > 12 and all(re.search(r'alt="[^"]+"', picture) for picture in pictures)
    outputs = [one for cell in code(book) for one in cell.outputs]
    assert not [one for one in outputs if one.get("name") == "stderr" or "widget" in str(one.get("data", {}).keys())]


def test_dino__by_the_command_line_of_papermill(tmp_path, small_shapes):
    """From another folder, with fields that the parameters cell does not have."""
    given = {"method": "cbam", "epochs": "2", "data_root": small_shapes, "batch_size": 16, "timed_calls": 5}
    options = [part for name, value in given.items() for part in ("-p", name, str(value))]
    notebook = FOLDER / "dino_tinyimagenet.ipynb"
    command = [sys.executable, "-m", "papermill", notebook, "out.ipynb", "-k", "python3", "--no-progress-bar"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    book = nbformat.read(tmp_path / "out.ipynb", 4)
    page(tmp_path / "out.ipynb", tmp_path / "page.html")
    check_page(book, (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "def logit_matching(" in output(book, "sources") and "def attention_transfer(" in output(book, "sources")
    assert '"""' not in output(book, "sources")
    scores = output(book, "table", "text/html")
    assert "student, 2 epochs" in scores and "random init" in scores and "PCA of its features" in scores
    assert "student, mean cosine with the teacher" in output(book, "maps", "text/html")
    again = output(book, "command")  # it is the one that made the page
    assert "-p method 'cbam'" in again and "-p epochs '2'" in again and "-p batch_size 16" in again


def test_clip__trains_what_a_cell_edited_and_marks_it(run, small_run):
    edit = """
def softer(outputs, batch):
    return losses.logit_matching(outputs["logits"], outputs["teacher_logits"], tau=temperature)


temperature = 4.0
distiller.objective = {"softer": softer}
distiller.student.image = torch.nn.Linear(128, config.width, bias=False)
"""
    book, html = run("clip_coco", edit)
    check_page(book, html)
    assert "tau=temperature" in output(book, "sources")
    assert "softer" in output(book, "train", "text/html")
    (file,) = runs_root().glob("test/clip_coco/projection/*/result.json")
    assert file.parent != run_folder(small_run("clip", epochs=[1, 2]))
    edits = read_json(file)["edited"]
    assert any("bias=False" in line for line in edits) and any("softer" in line for line in edits)
    assert all(f"Edited by hand: `{line}`" in output(book, "notes") for line in edits)
    assert "does not make the edits" in output(book, "command")


def test_blip__with_the_heads_that_the_paper_probably_had(run):
    book, html = run("blip_coco", method="attention", untrained_heads=True)
    check_page(book, html)
    assert "The teacher has random weights in" in output(book, "notes")
    assert "visual_projection" in output(book, "notes")
    assert output(book, "examples", "text/html").count("<small>t2i_rank") == 6


def test_beit__on_somebodys_own_three_classes_takes_its_words_from_the_data(run, tmp_path, small_shapes):
    photos = tmp_path / "garden birds"
    folders = sorted((small_shapes / "tiny-imagenet-200" / "train").iterdir())
    for name, folder, count in zip(("wren", "<b>tit & co", "robin"), folders, (8, 6, 4), strict=False):
        shutil.copytree(folder / "images", photos / name)
        for file in sorted((photos / name).iterdir())[count:]:
            file.unlink()
    book, html = run("beit_tinyimagenet", dataset="folder", data_root=str(photos), method="projection")
    check_page(book, html)
    shown = output(book, "samples", "text/html")
    assert "garden birds, 3 classes" in shown and "wren" in shown and "&lt;b&gt;tit &amp; co" in shown
    assert "<b>tit" not in html and "Tiny ImageNet" not in html
    assert list(runs_root().glob("test/beit_folder/projection/*/result.json"))
