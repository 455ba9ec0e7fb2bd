"""The tree is the flow of data: a file imports only from rooms before its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdlib"
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = [
    ["__init__"],
    ["utils"], ["config"], ["machine"], ["keys"],
    ["data"], ["teachers"], ["features"], ["loader"], ["students"], ["losses"], ["distiller"], ["trainer"],
    ["evaluate"], ["tables"], ["result"], ["experiment"], ["comparisons", "show"], ["report"],
    ["study"], ["status"], ["worker"], ["run"], ["plan"], ["export"], ["explorer"], ["cli"], ["__main__"],
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    return place(path).split("/")[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms of kdlib that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "kdlib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdlib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kdlib.")}
    return found & set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=place)
def test_layout__a_file_imports_only_from_rooms_before_its_own(path):
    assert {other for other in imported(path) if LEVEL[other] > LEVEL[room(path)]} == set()


def test_layout__every_file_has_its_place_and_says_what_it_is_for():
    assert {room(path) for path in FILES} <= set(LEVEL)
    silent = [place(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []


def test_layout__no_file_is_longer_than_one_reads():
    long = {place(path): size for path in FILES if (size := len(path.read_text(encoding="utf-8").splitlines())) > 260}
    assert long == {}


def test_style__ruff_finds_nothing_and_every_text_is_read_as_utf8():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_files__name_no_path_of_a_machine():
    roots = ("/" + "work/", "/" + "home/", "/" + "root/")
    suffixes = {".py", ".ipynb", ".yaml", ".yml", ".toml", ".md", ".cff", ".csv"}
    places = [ROOT / name for name in ("kdlib", "tests", "notebooks", "docs", "reports/example", ".ci")]
    found = [*ROOT.glob("*"), *(path for place in places for path in place.rglob("*"))]
    files = [path for path in found if path.suffix in suffixes]
    assert [str(path) for path in files if any(root in path.read_text(encoding="utf-8") for root in roots)] == []
