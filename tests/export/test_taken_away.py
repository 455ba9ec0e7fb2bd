"""The page 'Take a student away' keeps its word: its search runs with neither torch nor kdlib, and it finds."""

import os
import subprocess
import sys
from pathlib import Path

import guide
import numpy as np
import pytest
import torch
from PIL import Image

from kdlib.config import RunConfig
from kdlib.data import shapes
from kdlib.experiment import Experiment
from kdlib.explore import search as search_in_runs
from kdlib.explore.explorer import Explorer
from kdlib.export import Standalone, choose, export
from kdlib.files import read_json
from kdlib.teachers import TeacherError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "take_a_student_away.md"
REFUSED = ("torch", "torchvision", "transformers", "kdlib", "safetensors", "pandas")
HOOK = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {REFUSED}:
            raise ModuleNotFoundError(f"{{name}} is not to be had here")

sys.meta_path.insert(0, Refuse())
"""
SCENES = 60


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> Path:
    """A folder with scenes, runs, and in 'my_student' a student of CLIP's stand-in with both sides its own."""
    folder = tmp_path_factory.mktemp("taken")
    shapes.ensure(shapes.ShapesSpec(0, 0, 0, 1200, SCENES), root=folder / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(folder / "runs"))
        config = RunConfig(
            study="away",
            teacher="clip",
            dataset="coco",
            method="resnet",
            text_side="bag",
            objective="feature_regression+anchor_kl",
            lr_peak=2e-3,
            epochs=15,
            data_root=str(folder / "small"),
            timed_calls=5,
        )
        experiment = Experiment.open(config)
        history = experiment.train()
        experiment.finish(experiment.evaluate(), history)
        export(choose(["away"]), folder / "my_student", int8=True)
    return folder


def bare(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run Python where REFUSED cannot be imported."""
    (folder / "bare").mkdir(exist_ok=True)
    (folder / "bare" / "sitecustomize.py").write_text(HOOK)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(folder / "bare"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def search() -> str:
    """The page's search.py."""
    return next(content for _, content, _ in guide.blocks(PAGE.read_text()) if content.startswith("# search.py\n"))


def test_bare__refuses_what_it_should(tmp_path):
    for name in REFUSED:
        assert "is not to be had here" in bare(tmp_path, "-c", f"import {name}").stderr
    assert bare(tmp_path, "-c", "import numpy, onnxruntime, tokenizers, PIL").returncode == 0


def test_search__is_short():
    lines = [line for line in search().splitlines() if line.strip() and not line.startswith(("#", '"""'))]
    assert len(lines) <= 22


def test_search__ranks_as_the_student_does_with_neither_torch_nor_kdlib(taken):
    (taken / "search.py").write_text(search())
    images = taken / "small" / "coco" / "val2017"
    paths = sorted(images.iterdir())
    student = Standalone.from_pretrained(taken / "my_student")
    seen = student.encode_images([Image.open(path) for path in paths])
    for words in ("a red circle", "a blue square above a green star", "zebra"):
        done = bare(taken, "search.py", "my_student", "small/coco/val2017", words)
        assert done.returncode == 0, done.stderr
        cosines = (seen @ student.encode_texts([words])[0]).numpy()
        found = [line.split() for line in done.stdout.splitlines()]
        best = np.argsort(-cosines)[:5]
        assert len(paths) == SCENES and len(found) == 5
        np.testing.assert_allclose([float(cosine) for cosine, _ in found], cosines[best], atol=6e-4)
        ties = cosines[best[:-1]] - cosines[best[1:]] < 1e-4
        if not ties.any():
            assert [Path(path).name for _, path in found] == [paths[row].name for row in best]


def test_files__find_drawn_scenes_by_caption(taken):
    rows = read_json(taken / "my_student" / "parity.json")["rows"]
    for row in ("onnx", "onnx_int8"):
        assert rows[row]["intervals"]["t2i_r@5"][0] > 5 / SCENES  # above chance by its whole interval
        assert rows[row]["scores"]["t2i_r@5"] > 3 * 5 / SCENES


def test_text__any_text_is_read_and_cut_where_the_teacher_cuts_it(taken):
    student = Standalone.from_pretrained(taken / "my_student")
    made = student.encode_texts(["a red circle", "", "Xylophon qz 987", "a red circle " * 60])
    assert made.shape == (4, 64) and torch.isfinite(made).all()
    alone = student.encode_texts(["a red circle"])
    torch.testing.assert_close(made[:1], alone, rtol=0, atol=1e-6)  # padding changes nothing


def test_explorer__searches_with_the_exported_student_alone_where_the_teacher_is_gone(taken, monkeypatch):
    def gone(config):
        raise TeacherError("not to be had")

    monkeypatch.setenv("KDLIB_RUNS", str(taken / "runs"))
    monkeypatch.setattr(search_in_runs, "teacher_of", gone)
    explorer = Explorer("away")
    run = explorer.run
    found = search_in_runs.encode_text(run, run.texts[7])
    assert set(found) == {"student"}
    torch.testing.assert_close(found["student"], search_in_runs.space(run, "student")["text"][7], rtol=0, atol=1e-5)
    explorer.caption.value = "a red circle"
    assert "the exported student answers alone" in explorer.panels["answer"].value
    assert "The teacher finds" not in explorer.panels["answer"].value


def test_record__checks_both_sides_of_every_file(taken):
    record = read_json(taken / "my_student" / "parity.json")
    assert {name.split(":")[0] for name in record["parity"]} == {"image", "text"}
    assert all(entry["cosine_min"] >= 0.9999 for name, entry in record["parity"].items() if "int8" not in name)
    assert set(record["cost"]) == {"teacher", "onnx", "onnx_int8"}
    assert all(set(sides) == {"image", "text"} for sides in record["cost"].values())
    files = record["files"]
    wanted = sum(files[f"{side}.onnx"]["bytes"] for side in ("image", "text")) / 2**20
    assert record["rows"]["onnx"]["mb"] == pytest.approx(wanted)
