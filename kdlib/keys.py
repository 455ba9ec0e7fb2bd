"""What a result depends on: digests of code, configuration, data and teacher, so that it knows when it is out of date.

Code enters by its content: the syntax tree without docstrings, comments and the module paths of kdlib's imports. A new
word re-renders a report, it does not train again; a file that moves makes nothing stale.
"""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from kdlib.config import RunConfig
from kdlib.files import digest

SCHEMA = 3  # of the result record; raised when a field changes its meaning

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
        "teachers/{teacher}.py",
        "machine.py:autocast",
    ),
    "training": (
        "seeding.py",
        "features/loader.py",
        "students/student.py",
        "students/torchvision_input.py",
        "students/{method}.py",
        "losses.py",
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


def without_docstrings(source: str) -> str:
    """The :func:`essence` of ``source``."""
    return essence(ast.parse(source))


def own_code(name: str) -> dict[str, str]:
    """The digest of the file of a user's own entry, 'package.module:attribute'; nothing for a registered name."""
    if ":" not in name:
        return {}
    path = importlib.util.find_spec(name.partition(":")[0]).origin
    return {"own": digest(without_docstrings(Path(path).read_text()))}


def experiment_keys(config: RunConfig, data: dict, teacher: dict) -> dict[str, str]:
    """``features``, ``train``, ``exam`` and ``experiment``: SHA-256 over what each stage's numbers depend on.

    Training depends on fit alone; ``exam`` is what every encoder of this teacher and data is scored on; scores
    of experiments with the same ``images`` are of the same images, and can be compared in pairs.
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
    } | own_code(config.teacher)
    stored = digest(common | {"data": prints["fit"]})
    training = {"config": config.training(), "code": digest_of("training", method=config.method)} | own_code(
        config.method
    )
    if losses := {name: own_code(name) for name in config.objective.split("+") if ":" in name}:
        training["losses"] = losses
    trained = digest({"features": stored} | training)
    exam = {"data": prints, "on": config.score_on, "width": config.width, "tau": config.tau}
    examined = digest(common | exam | {"code": digest_of("evaluation")})
    return {
        "features": stored,
        "train": trained,
        "exam": examined,
        "images": digest([prints[config.score_on], config.on_bad_image]),
        "experiment": digest({"train": trained, "epochs": config.epochs, "exam": examined}),
    }
