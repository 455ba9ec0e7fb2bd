"""docs/take_away.md keeps its word: its search runs with neither torch nor kdlib, and ranks as the student does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "take_away.md"
REFUSED = ("torch", "torchvision", "transformers", "kdlib", "safetensors", "pandas")
HOOK = f"import sys\nsys.modules.update(dict.fromkeys({REFUSED}))"  # None there refuses an import
SEARCH = re.search(r"^```python\n(# search\.py\n.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)[1]


def bare(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run Python in ``folder`` where REFUSED cannot be imported."""
    (folder / "bare").mkdir(exist_ok=True)
    (folder / "bare" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    options = {"env": environment | {"PYTHONPATH": str(folder / "bare")}, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, *command], cwd=folder, timeout=300, **options)


def test_search__ranks_as_the_student_does_with_neither_torch_nor_kdlib(clip, small_shapes, tmp_path):
    for name in REFUSED:
        assert f"import of {name} halted" in bare(tmp_path, "-c", f"import {name}").stderr
    lines = [line for line in SEARCH.splitlines() if line.strip() and not line.startswith(("#", '"""'))]
    assert len(lines) <= 22
    (tmp_path / "search.py").write_text(SEARCH, encoding="utf-8")
    images, words = small_shapes / "coco" / "val2017", "a blue square above a green zebra"
    done = bare(tmp_path, "search.py", str(clip.folder), str(images), words)
    assert done.returncode == 0, done.stderr
    paths, student = sorted(images.iterdir()), clip.student
    cosines = (student.encode_images([Image.open(path) for path in paths]) @ student.encode_texts([words])[0]).numpy()
    best, found = np.argsort(-cosines)[:5], [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    np.testing.assert_allclose([float(cosine) for cosine, _ in found], cosines[best], atol=6e-4)
    assert [Path(path).name for _, path in found] == [paths[row].name for row in best]
