"""Digests of the code that can change a number, so that a result knows when it is out of date.

Taken over the syntax tree without docstrings, and comments never reach it: a new word re-renders a report, it
does not train again.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# Stage -> the files below kdlib/ that its numbers depend on, beyond those of the stages before it.
STAGES = {
    "features": ("data/dataset.py", "data/coco.py", "data/tinyimagenet.py", "teachers/*.py", "features.py"),
    "training": ("seeding.py", "loader.py", "students/*.py", "losses.py", "distiller.py", "trainer.py"),
    "evaluation": (
        "metrics.py",
        "uncertainty.py",
        "evaluate/*.py",
        "controls.py",
        "inputs.py",
        "device.py",
        "record.py",
        "cell.py",
    ),
}


@cache
def digest_of(stage: str) -> str:
    """SHA-256 (24 hex digits) of the code of one stage."""
    files = sorted({path for pattern in STAGES[stage] for path in PACKAGE.glob(pattern)})
    text = "\n".join(f"{path.relative_to(PACKAGE)}\n{without_docstrings(path.read_text())}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def without_docstrings(source: str) -> str:
    """The syntax tree of ``source`` as text, without positions, comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        if isinstance(getattr(body[0], "value", None), ast.Constant) and isinstance(body[0].value.value, str):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)
