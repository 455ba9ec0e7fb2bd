"""Checks a study file before anything is built: each problem with its line and the remedy."""

import inspect
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from kdlib import data, students, teachers
from kdlib.distiller import LOSSES
from kdlib.files import project_root
from kdlib.registry import Registry

Place = tuple[str | int, ...]  # where in the file: ("variants", "tau_1", "parameters", "tau")
Problem = tuple[Place, str]

# Names that a study cannot have: kdlib's own folders below runs/ and reports/.
TAKEN = ("bench", "checksums", "costs", "data", "features", "rehearsal", "shapes", "splits")
NAME = re.compile(r"\w[\w.-]*")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
# Fields of the configuration that are no parameters -> the entry of the file that sets them.
ELSEWHERE = {
    "study": "'study'",
    "variant": "'variants'",
    "method": "'methods'",
    "epochs": "'epochs'",
    "seed": "'seeds'",
    "teacher": "the name of a notebook, <teacher>_<dataset>",
    "dataset": "the name of a notebook, <teacher>_<dataset>",
}


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice in one mapping; YAML itself would keep the last."""

    def get_single_node(self) -> yaml.Node | None:
        """The document; raises MarkedYAMLError at the first key that is there twice."""
        node = super().get_single_node()
        if node:
            self._check_keys(node, set())
        return node

    def _check_keys(self, node: yaml.Node, met: set[int]) -> None:
        """Runs before '<<' is resolved, since a key may replace one of the mapping that is merged in."""
        if id(node) in met or isinstance(node, yaml.ScalarNode):
            return
        met.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._check_keys(item, met)
            return
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            merged = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if merged else self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.MarkedYAMLError(problem="a name must be a word", problem_mark=key_node.start_mark)
            if key in lines:
                problem = f"'{key}' is there twice, first in line {lines[key]}; take one out"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
            self._check_keys(value_node, met)


def read(path: Path) -> tuple[Any, dict[Place, int]]:
    """The content of a YAML file, and the line of each of its entries.

    Raises ValueError with the place for what is not UTF-8 or not YAML.
    """
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line}: not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        content = loader.construct_document(node) if node else None
        lines = dict(_lines(node)) if node else {}
    except RecursionError as error:
        raise ValueError("an anchor (&) holds itself, or mappings are nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"not YAML: {error}") from error
    return content, lines


def _lines(node: yaml.Node, place: Place = ()) -> Iterator[tuple[Place, int]]:
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from (
                (where, line) for where, line in _lines(value, (*place, key.value)) if len(where) > len(place) + 1
            )
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _lines(value, (*place, number))


def line_of(lines: dict[Place, int], place: Place) -> str:
    """'line 7, ' of an entry, or of the nearest one that holds it; '' where the file has none."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return f"line {lines[place[:length]]}, "
    return ""


def problems(study) -> list[Problem]:
    """All that would stop a run of the study and can be seen without data and teachers."""
    found = [*_name(study), *_lists(study), *_parameters(study), *_notebooks(study)]
    variants = [("variants", name, "methods") for name in study.variants]
    for place, methods in [(("methods",), study.methods), *((p, study.variants[p[1]].methods) for p in variants)]:
        found += [((*place, row), said) for row, name in enumerate(methods) if (said := _unknown_method(name))]
    known = {*study.methods, *(name for variant in study.variants.values() for name in variant.methods)}
    for name in study.by_method:
        if name not in known:
            found.append((("by_method", name), f"the study has no method '{name}'; it has {', '.join(sorted(known))}"))
    return found


def _name(study) -> Iterator[Problem]:
    if not NAME.fullmatch(study.study) or study.study.startswith("."):
        yield (
            ("study",),
            f"'{study.study}' cannot name a folder; use letters, digits, _ . and -, a letter first",
        )
    elif study.study.lower() in TAKEN:
        yield ("study",), f"'{study.study}' is a folder that all studies share; choose another name"


def _lists(study) -> Iterator[Problem]:
    lists = {(name,): getattr(study, name) for name in ("notebooks", "methods", "epochs", "seeds", "reports")}
    for place, entries in lists.items():
        if not entries:
            yield place, "is empty; name at least one, or take the line out"
    for name, variant in study.variants.items():
        lists |= {("variants", name, part): getattr(variant, part) for part in ("notebooks", "methods")}
        if not NAME.fullmatch(name):
            yield ("variants", name), f"'{name}' cannot name a variant; use letters, digits, _ . and -"
    for place, entries in lists.items():
        for entry, times in Counter(list(entries)).items():
            if times > 1:
                yield place, f"{entry} is there {times} times; once is enough"


def _parameters(study) -> Iterator[Problem]:
    """Values that no configuration may hold, in the four places that hold parameters."""
    places: dict[Place, dict] = {("parameters",): study.parameters}
    places |= {("notebooks", name): given for name, given in study.notebooks.items()}
    places |= {("by_method", name): given for name, given in study.by_method.items()}
    places |= {("variants", name, "parameters"): variant.parameters for name, variant in study.variants.items()}
    for place, given in places.items():
        for name, value in given.items():
            if name in ELSEWHERE:
                yield (*place, name), f"'{name}' is no parameter: {ELSEWHERE[name]} says it"
            elif isinstance(value, float) and not math.isfinite(value):
                yield (*place, name), f"'{name}' is {value}; it must be a finite number"
            elif said := PARAMETERS.get(name, lambda value: "")(value):
                yield (*place, name), said


def _threads(value: Any) -> str:
    cores = os.cpu_count() or 1
    return f"{value} threads on a machine of {cores} cores" if isinstance(value, int) and value > cores else ""


def _device(value: Any) -> str:
    return "" if DEVICE.fullmatch(str(value)) else f"there is no device '{value}'; take auto, cpu, mps, cuda or cuda:1"


def _objective(value: Any) -> str:
    names = [name for name in str(value).split("+") if name and name != "no_teacher"]
    return next((said for name in names if (said := _unknown(LOSSES, name, lambda it: _takes(it, 5)))), "")


PARAMETERS: dict[str, Callable[[Any], str]] = {"threads": _threads, "device": _device, "objective": _objective}


def _notebooks(study) -> Iterator[Problem]:
    folder = project_root() / "notebooks"
    for name in study.notebooks:
        teacher, _, dataset = name.partition("_")
        if not dataset:
            yield ("notebooks", name), f"'{name}' is not named <teacher>_<dataset>"
            continue
        is_teacher = lambda it: hasattr(it, "load") and hasattr(it, "DEFAULT")  # noqa: E731
        unknown = (
            _unknown(teachers.TEACHERS, teacher, is_teacher),
            _unknown(data.DATASETS, dataset, lambda it: _takes(it, 2)),
        )
        if any(unknown):
            yield ("notebooks", name), "; ".join(filter(None, unknown))
        elif not (folder / f"{name}.ipynb").is_file():
            yield ("notebooks", name), f"there is no notebook {folder / name}.ipynb"
    for row, name in enumerate(study.reports):
        if not (folder / f"{name}.ipynb").is_file():
            yield ("reports", row), f"there is no notebook {folder / name}.ipynb for the report"


def _unknown_method(name: str) -> str:
    if name in students.STUDENTS:
        return ""  # without its import: torchvision takes a second
    return _unknown(students.STUDENTS, name, lambda it: isinstance(it, type) and issubclass(it, students.Student))


def _unknown(registry: Registry, name: str, fits: Callable[[Any], bool]) -> str:
    """Why a name is not in a registry, or is something of another kind; '' if it is fine."""
    try:
        entry = registry[name]
    except Exception as error:  # a module of the user's own may raise anything when it is imported
        return str(error.args[0] if isinstance(error, KeyError) else f"{name}: {type(error).__name__}: {error}")
    return "" if fits(entry) else f"'{name}' is no {registry.noun}: {entry!r}"[:200]


def _takes(entry: Any, arguments: int) -> bool:
    """Whether ``entry`` can be called with this number of arguments."""
    try:
        inspect.signature(entry).bind(*range(arguments))
        return True
    except (TypeError, ValueError):
        return False
