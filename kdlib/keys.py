"""What a number depends on, as digests: the package's code, a user's own, and what a notebook edited by hand."""

import ast
import dataclasses
import dis
import hashlib
import inspect
import json
import re
import sys
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from kdlib.config import RunConfig
from kdlib.utils import digest, find

PACKAGE = Path(__file__).parent
ROOMS = {
    "features": ("data/base.py", "teachers/*.py", "features.py"),
    "training": ("students/*.py", "losses.py", "distiller.py", "trainer.py", "loader.py"),
    "evaluation": ("evaluate/*.py",),
}
DESCRIBE = ("cost.py", "known.py")  # change no score
LIBRARIES = {"kdlib", "torch", "torchvision", "transformers", "numpy", *sys.stdlib_module_names}


@cache
def code_digest(room: str, package: Path = PACKAGE) -> str:
    """SHA-256 of the code of one room, without comments, docstrings and messages."""
    files = [file for place in ROOMS[room] for file in package.glob(place)]
    return digest(sorted(essence(file.read_text(encoding="utf-8")) for file in files if file.name not in DESCRIBE))


def essence(source: str) -> str:
    """The syntax tree of a source without positions, comments, docstrings and the texts of ``raise``."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args = [one for one in node.exc.args if not isinstance(one, ast.JoinedStr | ast.Constant)]
    return ast.dump(tree)


def train_key(config: RunConfig, features_key: str, extra: Any = None, changes: dict | None = None) -> str:
    """The key of a training; ``extra``: digests of a user's own code, ``changes``: :func:`changes`."""
    own = {"extra": extra, "changes": changes or {}}
    return digest({"config": config.training(), "features": features_key, "code": code_digest("training")} | own)


def evaluation_key(config: RunConfig, fingerprints: dict[str, str], features_keys: Any) -> str:
    """The key of what scores every encoder: code, images and captions, split, and the width of the controls."""
    on = {"data": fingerprints, "features": features_keys, "on": config.score_on, "width": config.width}
    return digest(on | {"code": code_digest("evaluation")})


def own_code(thing: Any) -> str:
    """The digest of a user's own class, function or module, also as 'package.module:attribute'; '' for all others.

    In a file: of the file. In a notebook: of its instructions and all that it uses of the notebook.
    """
    code = _own(find({}, thing, "code") if isinstance(thing, str) and ":" in thing else thing)
    return digest(code) if code else ""


def _text(value: Any, above: tuple = ()) -> str:
    """A value as text that is equal for equal values in every process; ``above``: the code that uses it."""
    return json.dumps(value, default=partial(_plain, above=above), sort_keys=True, skipkeys=True)


def _plain(value: Any, above: tuple) -> Any:
    """What JSON does not know, in terms of what it knows: code by its name, and a user's own by its digest too."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(save({"": value.detach().cpu().contiguous()})).hexdigest()[:16]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        return vars(value)
    if isinstance(value, RunConfig):
        return value.training()
    value, own = _function(value), _own(value, above)
    name = getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__))
    return f"{name} {digest(own)[:16]}" if own else name


def _own(value: Any, above: tuple = ()) -> str:
    """What a user's own code, or that of a value's class, is made of; '' for others, and for code that uses itself."""
    thing = value = _function(value)
    if not isinstance(value, type | FunctionType | ModuleType):
        thing = type(value)
    module = thing.__name__ if inspect.ismodule(thing) else thing.__module__
    if module != "__main__":
        file = getattr(sys.modules.get(module), "__file__", None) or ""
        known = module.split(".")[0] in LIBRARIES or not file.endswith(".py")
        return "" if known else essence(Path(file).read_text(encoding="utf-8"))
    if thing in above:
        return ""
    if inspect.isclass(thing):
        members = vars(thing).items()
        used = [thing.__bases__, {name: one for name, one in members if name[:2] != "__" or inspect.isroutine(one)}]
    else:
        names: set[str] = set()
        enclosing = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        variables = thing.__globals__ | {name: cell.cell_contents for name, cell in enclosing}
        used = [_steps(thing.__code__, names), thing.__defaults__, thing.__kwdefaults__]
        used.append({name: variables[name] for name in names & {*variables}})
    return _text(used, (*above, thing))


def _function(value: Any) -> Any:
    """The function in a method, a property or a decorator."""
    return inspect.unwrap(getattr(value, "__func__", None) or getattr(value, "fget", None) or value)


def _steps(code: Any, names: set[str]) -> list:
    """The instructions of a piece of code: no comment or docstring; ``names`` gets those that it takes from outside."""
    steps = []
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            names.add(step.argval)
        steps.append([step.opname, _steps(step.argval, names) if inspect.iscode(step.argval) else step.argval])
    return steps


def changes(fresh: nn.Module, given: nn.Module) -> dict[str, list]:
    """{place: [before, now]} of what a notebook edited in a distiller before its training; {} for nothing."""
    before, now = description(fresh), description(given)
    places = sorted({*before, *now}, key=lambda place: (place.count("."), place))
    found = {place: [before.get(place), now.get(place)] for place in places if before.get(place) != now.get(place)}
    return found | {place: ["the package's", text] for place, text in _replaced().items()}


def in_words(changes: dict[str, list]) -> list[str]:
    """A line for each of the :func:`changes`; what came or went with a layer is left out."""
    both = {place: pair for place, pair in changes.items() if None not in pair} or changes
    return [f"{place}: {before} → {now}" for place, (before, now) in both.items()]


def description(distiller: nn.Module) -> dict[str, str]:
    """{place: what is there}, as text: layers, hooks, settings, losses, initial weights, what is frozen."""
    found = {}
    for name, module in distiller.named_modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values(), *module._backward_hooks.values()]
        layer = f"{_text(type(module))}({module.extra_repr()})".replace('"', "")
        found[name or "distiller"] = f"{layer} with {_text(hooks)}" if hooks else layer
        for setting, value in vars(module).items():
            if setting != "training" and not setting.startswith("_"):
                entries = value.training() if isinstance(value, RunConfig) else {"": value}
                found |= {f"{name}.{setting}.{one}".strip("."): _text(entry) for one, entry in entries.items()}
    for name, parameter in distiller.named_parameters():
        found[name] = "trained" if parameter.requires_grad else "frozen"
    return found | {f"initial weights of {name}": _text(value) for name, value in distiller.state_dict().items()}


def _replaced() -> dict[str, str]:
    """Functions and classes of the training that a notebook replaced by its own, and their code."""
    found, training = {}, tuple(f"kdlib.{re.split('[./]', place)[0]}" for place in ROOMS["training"])
    for module in [module for name, module in sys.modules.items() if name.startswith(training)]:
        for owner in (module, *filter(inspect.isclass, vars(module).values())):
            for attribute, value in vars(owner).items():
                if getattr(_function(value), "__module__", "") == "__main__":
                    found[f"{owner.__name__}.{attribute}"] = _text(value)
    return found
