"""What a result depends on: digests of code, configuration, data and teacher, so that it knows when it is out of date.

Code enters by its content: the syntax tree without docstrings, comments and the module paths of kdlib's imports. So an
edited comment or a moved file makes no result out of date.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import linecache
import symtable
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kdlib.config import RunConfig
from kdlib.files import digest
from kdlib.registry import Registry

SCHEMA = 4  # of the result record; raised when a field changes its meaning

PACKAGE = Path(__file__).parent
# Stage -> the code below kdlib/ that can change its numbers, beyond that of the stages before it: files, or functions
# and classes of a file after a colon. {teacher} and {method} are those of the experiment; one of a user's own has no
# file here, and enters by own_code.
STAGES = {
    "pixels": (
        "data/dataset.py",
        "data/coco.py",
        "data/tinyimagenet.py",
        "features/encoders.py",
        "features/build.py:encoded",
        "features/build.py:_decode",
    ),
    "features": (
        "features/vocabulary.py:token_ids",
        "teachers/teacher.py",
        "teachers/loading.py",
        "teachers/{teacher}.py",
        "machine.py:autocast",
    ),
    "audit": ("teachers/audit.py",),
    "views": ("features/views.py",),
    "training": (
        "seeding.py",
        "features/loader.py",
        "features/stacked.py",
        "features/vocabulary.py:Vocabulary",
        "sources.py:training_split",
        "students/student.py",
        "students/pixels.py",
        "students/text.py",
        "students/transformer.py",
        "students/{method}.py",
        "losses.py",
        "projectors.py",
        "distiller.py",
        "trainer.py",
    ),
    "evaluation": (
        "evaluate/controls.py",
        "evaluate/embed.py",
        "evaluate/exam.py",
        "evaluate/fidelity.py",
        "evaluate/knn.py",
        "evaluate/linear.py",
        "evaluate/metrics.py",
        "evaluate/retrieval.py",
        "evaluate/uncertainty.py",
        "evaluate/zeroshot.py",
        "sources.py:open_split",
        "experiment.py:Experiment.score",
        "experiment.py:Experiment.controls",
        "experiment.py:Experiment.evaluate",
    ),
    "cost": ("evaluate/cost.py", "machine.py:call_times", "machine.py:latency", "machine.py:multiply_accumulates"),
}


def digest_of(stage: str, **names: str) -> str:
    """SHA-256 (24 hex digits) of the code of one stage; ``names``: the teacher's or the method's.

    By content alone: a file that is moved, with its line in STAGES, has the digest that it had.
    """
    places = [place.format(**{"teacher": "", "method": ""} | names) for place in STAGES[stage]]
    contents = sorted(content for place in places if (content := _content(PACKAGE, place)))
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:24]


@cache
def _content(package: Path, place: str) -> str:
    """The code at 'file.py' or 'file.py:name'; '' where there is no such file. Raises KeyError for an unknown name."""
    file, _, name = place.partition(":")
    path = package / file
    if not path.is_file():
        return ""
    tree = ast.parse(path.read_text())
    for part in filter(None, name.split(".")):
        found = [node for node in tree.body if getattr(node, "name", None) == part]
        if not found:
            raise KeyError(f"{file} has no '{name}', which STAGES in kdlib/keys.py names.")
        tree = found[0]
    return essence(tree)


def essence(tree: ast.AST) -> str:
    """A syntax tree as text, without positions, comments, docstrings and the module paths of kdlib's imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdlib":
            node.module = "kdlib"
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        if isinstance(getattr(body[0], "value", None), ast.Constant) and isinstance(body[0].value.value, str):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


# ---------------------------------------------------------------- code of a user's own


def own_code(noun: str, name: str) -> dict[str, str]:
    """The digest of a user's own student, loss or teacher as ``{"own": ...}``; nothing for one of the package.

    ``noun``: that of its registry, as 'student'. ``name``: 'package.module:attribute' or a registered name. Raises
    KeyError for a name that is not registered.
    """
    registry, entry = Registry.known.get(noun), name
    if registry and (name in registry or ":" not in name):
        entry = registry[name]
    if not isinstance(entry, str):
        found = code_of(entry)
    else:
        module = entry.partition(":")[0] if ":" in entry else "kdlib"
        found = "" if module.split(".")[0] == "kdlib" else _of_file(module)
    return {"own": found} if found else {}


LIBRARIES = ("kdlib", "torch", "torchvision", "transformers", "builtins")  # code of the first is followed by STAGES


def code_of(thing: Any) -> str:
    """The digest of a class, function or module: of its file, or in a notebook of its source; '' for a library's."""
    module = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None) or "builtins"
    if module.split(".")[0] in LIBRARIES:
        return ""
    return digest(dict(notebook_code(thing))) if module == "__main__" else _of_file(module)


def _of_file(module: str) -> str:
    loaded = getattr(sys.modules.get(module), "__file__", None)
    return digest(essence(ast.parse(Path(loaded or importlib.util.find_spec(module).origin).read_text())))


def notebook_code(thing: Any, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, content) of a class or function written in a notebook, and of everything in the notebook that it uses.

    The content of a helper or base class is its code, that of a constant its value. Raises ValueError where the source
    cannot be read.
    """
    name, node, variables = thing.__qualname__, *_definition(thing)
    yield name, essence(ast.parse(ast.unparse(node)))
    used = {symbol for table in _scopes(symtable.symtable(ast.unparse(node), name, "exec")) for symbol in table}
    for other in sorted(used & set(variables) - {name, *seen}):
        value = variables[other]
        defined = inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))
        if defined and value.__module__ == "__main__":
            yield from notebook_code(value, (*seen, name))
        elif _is_plain(value):
            yield other, value


def _definition(thing: Any) -> tuple[ast.AST, dict]:
    """The syntax tree of a definition, as the interpreter kept it, and the variables that it sees."""
    functions = vars(thing).values() if inspect.isclass(thing) else [inspect.unwrap(thing)]
    for function in filter(inspect.isfunction, functions):
        line, file = function.__code__.co_firstlineno, function.__code__.co_filename
        for node in ast.walk(_tree(file)):
            if getattr(node, "name", None) == thing.__name__ and _first_line(node) <= line <= node.end_lineno:
                return node, function.__globals__
    raise ValueError(
        f"The source of '{thing.__name__}' cannot be read, so that an edit of it would go unnoticed. Define it in a "
        "notebook's cell of its own, without a %%magic, or in a file."
    )


def _tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # no Python, or a cell with a %%magic
        return ast.Module([], [])


def _first_line(node: ast.AST) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _scopes(table: symtable.SymbolTable) -> Iterator[list[str]]:
    """Names that a piece of code takes from outside, scope by scope."""
    top = table.get_type() == "module"
    yield [one.get_name() for one in table.get_symbols() if one.is_referenced() and (top or one.is_global())]
    for child in table.get_children():
        yield from _scopes(child)


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


# ---------------------------------------------------------------- the keys of an experiment


def experiment_keys(config: RunConfig, data: dict, teacher: dict) -> dict[str, str]:
    """``features``, ``train``, ``exam`` and ``experiment``: SHA-256 over what each stage's numbers depend on.

    ``train`` depends on no data but fit and the extra images. ``exam`` covers the data and code that score every
    encoder of this teacher. Experiments with equal ``images`` are scored on the same images: their scores are paired.
    """
    prints = {name: dataset.fingerprint for name, dataset in data.items()}
    common = {
        "teacher": teacher,
        "dtype": config.feature_dtype,
        "precision": config.teacher_precision,
        "token_grid": config.token_grid,
        "bad": config.on_bad_image,
        "untrained": [config.allow_untrained, config.untrained_heads],
        "code": [digest_of("pixels"), digest_of("features", teacher=config.teacher)],
    } | own_code("teacher", config.teacher)
    stored = digest(common | {"data": prints["fit"]})
    losses = (
        config.objective.split("+") if config.objective else Registry.known.get("objective", {}).get(config.method, ())
    )
    training = {
        "config": config.training(),
        "code": digest_of("training", method=config.method),
        "losses": {name: own_code("loss", name) for name in losses if name != "no_teacher"},
    } | own_code("student", config.method)
    if config.views or config.crop < 1 or config.flip or config.colour:
        training["views"] = digest_of("views")
    if "extra" in prints:
        training["extra"] = prints.pop("extra")
    trained = digest({"features": stored} | training)
    exam = {"data": prints, "on": config.score_on, "width": config.width, "probe": config.linear_probe}
    examined = digest(common | exam | {"code": digest_of("evaluation")})
    return {
        "features": stored,
        "train": trained,
        "exam": examined,
        "images": digest([prints[config.score_on], config.on_bad_image]),
        "experiment": _experiment_key(trained, config, examined),
    }


def edited_keys(keys: dict[str, str], config: RunConfig, changes: dict) -> dict[str, str]:
    """The keys of an experiment whose distiller was edited by hand; ``changes``: :func:`kdlib.edits.changes`.

    ``configured`` is the key of the training that the configuration asks for.
    """
    trained = digest({"train": keys["train"], "edited": changes})
    own = {"train": trained, "experiment": _experiment_key(trained, config, keys["exam"])}
    return keys | own | {"configured": keys["train"]}


def _experiment_key(train: str, config: RunConfig, exam: str) -> str:
    whole = {"train": train, "epochs": config.epochs, "exam": exam}
    if config.cooldown:  # a leaf of the same training
        whole["cooldown"] = config.cooldown
    return digest(whole)
