"""The notebooks as files: what a reader, papermill and git expect of them."""

import json
import re
import subprocess
import sys

import nbformat
import papermill
import pytest

from kdlib.config import RunConfig
from kdlib.study.file import notebooks_folder

FIRST = ["method", "epochs", "seed", "checkpoint", "data_root", "width", "objective", "batch_size", "lr_peak", "tau"]
REPORTS = ["clip_coco", "blip_coco", "dino_tinyimagenet", "beit_tinyimagenet"]
ALL = sorted(path.stem for path in notebooks_folder().glob("*.ipynb"))


def read(name: str):
    return nbformat.read(notebooks_folder() / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", ALL)
def test_notebook__is_committed_clean(name):
    book = read(name)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in book.cells)
    assert all(re.fullmatch(r"[a-z-]+", cell.id) for cell in book.cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in book.cells) == 1
    assert len(book.cells) <= 26


@pytest.mark.parametrize("name", ALL)
def test_notebook__shows_and_does_not_compute(name):
    code = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    assert not re.search(r"^\s*(def|class|for|while)\b", code, flags=re.MULTILINE)


def test_notebooks__have_the_same_headings_and_parameters():
    def headings(book):
        return [line for cell in book.cells for line in cell.source.splitlines() if line.startswith("## ")]

    def parameters(book):
        return next(cell.source for cell in book.cells if cell.id == "parameters")

    first = read(REPORTS[0])
    for name in REPORTS[1:]:
        assert headings(read(name)) == headings(first)
        assert parameters(read(name)) == parameters(first)


@pytest.mark.parametrize("name", REPORTS)
def test_parameters__are_the_fields_of_the_configuration(name):
    """papermill sees every parameter with its default and its help, as RunConfig states them.

    What a reader changes first stands first, then all others in RunConfig's order, below a line that says so.
    """
    seen = papermill.inspect_notebook(notebooks_folder() / f"{name}.ipynb")
    fields = {key: field for key, field in RunConfig.model_fields.items() if key not in ("teacher", "dataset")}
    assert list(seen) == [*FIRST, *(key for key in fields if key not in FIRST)]
    for key, field in fields.items():
        default = {"True": True, "False": False}.get(seen[key]["default"])
        value = default if default is not None else json.loads(seen[key]["default"])
        assert value == field.default, key
        assert seen[key]["help"] == field.description, key


@pytest.mark.parametrize(("name", "method"), [
    ("clip_coco", "cbam"), ("dino_tinyimagenet", "resnet"), ("blip_coco", "attention"),
    ("beit_tinyimagenet", "bottleneck"),
])  # fmt: skip
def test_papermill__runs_a_single_notebook_from_any_directory(tmp_path, small_shapes, name, method):
    given = [
        "-p",
        "method",
        method,
        "-p",
        "epochs",
        "1",
        "-p",
        "data_root",
        str(small_shapes),
        "-p",
        "batch_size",
        "16",
        "-p",
        "timed_calls",
        "5",
    ]
    command = [sys.executable, "-m", "papermill", str(notebooks_folder() / f"{name}.ipynb"), "out.ipynb", *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    book = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (output,) = next(cell for cell in book.cells if cell.id == "train").outputs
    assert re.match(rf"{method}, steps: \d+/\d+ - epoch 1, loss .* images/s", output["data"]["text/plain"])
    assert not any(
        "widget" in kind for cell in book.cells for out in cell.get("outputs", []) for kind in out.get("data", {})
    )
    shown = "\n".join(str(out["data"]) for cell in book.cells for out in cell.get("outputs", []) if "data" in out)
    assert "def forward(self, batch" in shown and "def logit_matching(" in shown  # the science by its own source
    (terms,) = next(cell for cell in book.cells if cell.id == "terms").outputs
    assert "grad_fn" in terms["data"]["text/plain"] and "'" in terms["data"]["text/plain"]
    outputs = [out["data"] for cell in book.cells for out in cell.get("outputs", []) if "data" in out]
    pictures = [image for data in outputs for image in re.findall(r"<img [^>]*>", data.get("text/html", ""))]
    assert len(pictures) >= 4 and all(re.search(r'alt="[^"]+"', image) for image in pictures)
