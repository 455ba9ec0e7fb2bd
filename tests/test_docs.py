"""The pages of docs/ do what they say: every block is run, in order, in an empty folder.

``python test_docs.py PAGE.md``: a block that begins with a comment that is a file's name is saved as that file; other
``python`` blocks are one session, as in a notebook; ``sh`` blocks are given to bash; ``text`` is only to be read.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import made_runs
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")


def run(page: Path) -> None:
    text, session = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    found = list(BLOCK.finditer(text))
    if 2 * len(found) != len(re.findall(r"^\s*```", text, flags=re.MULTILINE)):
        raise ValueError(f"{page}: a block is not closed, or is indented")
    sys.path.insert(0, "")  # as in an interactive Python
    for block in found:
        language, content = block.groups()
        line = text[: block.start()].count("\n") + 1
        if name := FILE.match(content):
            Path(name[1]).write_text(content, encoding="utf-8")
        elif language == "python":
            exec(compile("\n" * line + content, page.name, "exec"), session)
        elif language == "sh":
            subprocess.run(["bash", "-euo", "pipefail", "-c", content], check=True, stdin=subprocess.DEVNULL)
        elif language != "text":
            raise ValueError(f"{page.name}, line {line}: '{language}' cannot be run; what is only to be read is text")


@pytest.mark.parametrize("page", PAGES)
def test_docs__every_block_runs(page, tmp_path):
    if page == "results.md":  # reads a finished demo study
        made_runs.index(made_runs.grid(study="mini"), "mini")
    (tmp_path / "work").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of a reader who has installed kdlib
    reader = os.environ | {"PATH": path, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command, where = [sys.executable, __file__, DOCS / page], tmp_path / "work"
    done = subprocess.run(command, cwd=where, env=reader, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES)
def test_docs__links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", (DOCS / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (DOCS / link).exists()] == []


if __name__ == "__main__":
    run(Path(sys.argv[1]))
