"""The tree is the data flow: files import from rooms above their own, and the science never from the machinery."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdlib"
GROUND = ["registry", "files", "progress", "config", "seeding", "machine", "keys"]
SCIENCE = [
    "data",
    "teachers",
    "features",
    "students",
    "losses",
    "projectors",
    "distiller",
    "edits",
    "checkpoints",
    "trainer",
    "evaluate",
    "sources",
    "result",
    "experiment",
    "finished",
]
MACHINERY = ["notebook", "study", "report", "export", "explore", "bench", "cli", "__main__"]
# A room may import itself and what stands before it; files of the ground may import each other.
ORDER = [["__init__"], GROUND, *([room] for room in (*SCIENCE, *MACHINERY))]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
# Training a stand-in ends with scoring it, by the same metrics as everything else.
ALLOWED = {("teachers/standins/__main__.py", "evaluate")}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules below kdlib that a file imports, inside functions too, as 'room.file'."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdlib":
            base = node.module.removeprefix("kdlib").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".removeprefix(".")
                is_module = (PACKAGE / f"{name.replace('.', '/')}.py").exists() or (
                    PACKAGE / name.replace(".", "/")
                ).is_dir()
                found.add(name if is_module else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("kdlib.") for alias in node.names if alias.name.startswith("kdlib.")}
    return {name for name in found if name and not name.startswith("_")}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_layout__a_file_imports_only_from_rooms_above(path):
    own = place(path).split("/")[0].removesuffix(".py")
    below = {room for room in (name.split(".")[0] for name in imported(path)) if LEVEL[room] > LEVEL[own]}
    assert not {room for room in below if (place(path), room) not in ALLOWED}


def test_layout__the_science_imports_nothing_from_above_the_wall():
    crossed = [
        (place(path), name)
        for path in FILES
        if place(path).split("/")[0].removesuffix(".py") in (*GROUND, *SCIENCE)
        for name in imported(path)
        if name.split(".")[0] in MACHINERY
    ]
    assert not crossed


def test_layout__no_circle():
    graph = {}
    for path in FILES:
        name = place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[name] = imported(path) - {name}
    rooms = {name for name in graph if (PACKAGE / name.replace(".", "/")).is_dir()}
    for name in graph:  # a room's __init__ gathers its files, which may name the room
        graph[name] = {other for other in graph[name] if not (other in rooms and name.startswith(f"{other}."))}
    # Scoring a stand-in is the one arrow that runs up.
    graph["teachers.standins.__main__"] = {
        name for name in graph["teachers.standins.__main__"] if "evaluate" not in name
    }
    assert list(TopologicalSorter(graph).static_order())


def test_layout__every_file_has_its_place():
    names = {place(path).split("/")[0].removesuffix(".py") for path in FILES}
    assert names <= set(LEVEL)


def test_layout__no_file_bears_the_name_of_another_room():
    rooms = {room.rstrip("s") for room in (*SCIENCE, *MACHINERY)}
    strays = [
        place(path)
        for path in FILES
        if len(path.relative_to(PACKAGE).parts) > 1
        and path.stem != "__main__"
        and path.stem.rstrip("s") in rooms
        and path.stem.rstrip("s") != path.relative_to(PACKAGE).parts[0].rstrip("s")
    ]
    assert not strays


def test_layout__every_module_says_what_it_is_for():
    silent = [path.name for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_layout__no_path_of_a_machine_in_any_file():
    roots = ("/" + "work/", "/" + "home/", "/" + "root/")
    suffixes = {".py", ".ipynb", ".yaml", ".yml", ".toml", ".md", ".cff"}
    files = [path for path in ROOT.rglob("*") if path.suffix in suffixes and not path.is_relative_to(ROOT / ".venv")]
    files = [path for path in files if path.relative_to(ROOT).parts[0] not in ("runs", "reports")]
    assert files
    named = [str(path) for path in files if any(root in path.read_text() for root in roots)]
    assert not named
