"""The guides do what they say: every block of them is run, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import guide
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDES = sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md")


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory):
    """The guides use the same drawn images, so the teacher's features are computed once for all of them."""
    return tmp_path_factory.mktemp("guides") / "runs"


def reader(folder: Path, runs: Path) -> dict[str, str]:
    """The environment of a reader who has installed the package: its commands are on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    threads = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return os.environ | threads | {"PATH": path, "KDLIB_RUNS": str(runs), "KDLIB_REPORTS": str(folder / "reports")}


@pytest.mark.parametrize("name", GUIDES)
def test_guide__every_block_runs(name, tmp_path, shared_runs):
    folder = tmp_path / "work"
    folder.mkdir()
    command = [sys.executable, guide.__file__, str(DOCS / name)]
    done = subprocess.run(
        command, cwd=folder, env=reader(folder, shared_runs), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_contents__list_every_guide():
    listed = re.findall(r"\]\((\w+\.md)\)", (DOCS / "README.md").read_text())
    assert sorted(listed) == GUIDES


@pytest.mark.parametrize("name", GUIDES)
def test_guide__has_blocks_that_run_and_links_that_lead_somewhere(name):
    text = (DOCS / name).read_text()
    assert any(language in ("python", *guide.SHELLS) for language, _, _ in guide.blocks(text))
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.mark.parametrize(
    "text",
    ["```python\n1 / 0\n```\n", "```sh\nfalse\n```\n", "```perl\n1\n```\n", "```python\nprint(1)\n", "```\nls\n```\n"],
)
def test_guide__a_block_that_does_not_run_is_an_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "guide.md").write_text(text)
    with pytest.raises((ZeroDivisionError, RuntimeError, ValueError)):
        guide.run(tmp_path / "guide.md")
