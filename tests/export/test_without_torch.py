"""docs/take_away.md keeps its word: its search runs with neither torch nor kdlib, and ranks as the student does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "take_away.md"
REFUSED = ("torch", "torchvision", "transformers", "kdlib", "safetensors", "pandas")
HOOK = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {REFUSED}:
            raise ModuleNotFoundError(f"{{name}} is not here")

sys.meta_path.insert(0, Refuse())
"""
SEARCH = re.search(r"^```python\n(# search\.py\n.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)[1]


def bare(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run Python in ``folder`` where REFUSED cannot be imported."""
    (folder / "bare").mkdir(exist_ok=True)
    (folder / "bare" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(folder / "bare"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_bare__refuses_what_it_should(tmp_path):
    found = bare(tmp_path, "-c", f"for name in {REFUSED}:\n try: __import__(name)\n except ImportError as e: print(e)")
    assert found.stdout.splitlines() == [f"{name} is not here" for name in REFUSED]


def test_search__is_about_twenty_lines():
    assert len([line for line in SEARCH.splitlines() if line.strip() and not line.startswith(("#", '"""'))]) <= 22


@pytest.mark.parametrize("words", ["a blue square above a green star", "zebra"])
def test_search__ranks_as_the_student_does_with_neither_torch_nor_kdlib(clip, small_shapes, tmp_path, words):
    (tmp_path / "search.py").write_text(SEARCH, encoding="utf-8")
    images = small_shapes / "coco" / "val2017"
    paths = sorted(images.iterdir())
    done = bare(tmp_path, "search.py", str(clip.folder), str(images), words)
    assert done.returncode == 0, done.stderr
    cosines = (
        clip.student.encode_images([Image.open(path) for path in paths]) @ clip.student.encode_texts([words])[0]
    ).numpy()
    best = np.argsort(-cosines)[:5]
    found = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    np.testing.assert_allclose([float(cosine) for cosine, _ in found], cosines[best], atol=6e-4)
    if (cosines[best[:-1]] - cosines[best[1:]] > 1e-4).all():  # no ties
        assert [Path(path).name for _, path in found] == [paths[row].name for row in best]
