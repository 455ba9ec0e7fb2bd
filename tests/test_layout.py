"""The tree is the data flow: a file imports only from what stands above it in ORDER."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdlib"
# Files of one line may import each other.
ORDER = [
    ["__init__"],
    ["registry", "runs", "code", "progress", "config", "seeding", "device"],
    ["data"],
    ["teachers"],
    ["features"],
    ["students"],
    ["anatomy"],
    ["losses"],
    ["loader"],
    ["distiller"],
    ["checkpoints"],
    ["trainer"],
    ["metrics", "uncertainty"],
    ["evaluate"],
    ["inputs", "controls", "record"],
    ["cell"],
    ["study"],
    ["state"],
    ["plan"],
    ["results"],
    ["table"],
    ["finished", "transfer"],
    ["search"],
    ["verdicts", "threeway", "claims", "tuning", "plots"],
    ["gallery"],
    ["cards", "inside_plots", "cell_plots", "charts", "spent", "provenance", "compare"],
    ["show", "exhibits", "listing", "summary", "costs", "ablations", "comparison", "speed"],
    ["inside", "explorer"],
    ["warm", "kernel", "worker", "prepare", "execute", "report"],
    ["calibrate"],
    ["grid"],
    ["bench"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
# Training a stand-in ends with scoring it, by the same metrics as everything else.
ALLOWED = {("teachers/standins/__main__.py", "evaluate")}


def imported(path: Path) -> set[str]:
    """First parts below kdlib of everything a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "kdlib":
            found |= {alias.name for alias in node.names if not alias.name.startswith("_")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdlib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kdlib.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layout__a_file_imports_only_from_above(path):
    name = path.relative_to(PACKAGE).as_posix()
    own = name.split("/")[0].removesuffix(".py")
    below = {other for other in imported(path) if LEVEL[other] > LEVEL[own]}
    assert not {other for other in below if (name, other) not in ALLOWED}


def test_layout__every_file_has_its_place():
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert names == set(LEVEL)


def test_layout__every_module_says_what_it_is_for():
    silent = [path.name for path in PACKAGE.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_layout__no_path_of_a_machine_in_any_file():
    roots = ("/" + "work/", "/" + "home/", "/" + "root/")
    suffixes = {".py", ".ipynb", ".yaml", ".yml", ".toml", ".md", ".cff"}
    files = [path for path in ROOT.rglob("*") if path.suffix in suffixes and not path.is_relative_to(ROOT / ".venv")]
    files = [path for path in files if path.relative_to(ROOT).parts[0] not in ("runs", "reports")]
    assert files
    named = [str(path) for path in files if any(root in path.read_text() for root in roots)]
    assert not named
