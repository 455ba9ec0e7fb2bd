"""``?`` on anything public says something: in JupyterLab that is the documentation that is at hand."""

import importlib
import inspect
import pkgutil
from functools import cached_property

import pytest

import kdlib

MODULES = sorted(info.name for info in pkgutil.walk_packages(kdlib.__path__, "kdlib."))
WORDS = 3  # fewer say no more than the name


def public(module) -> dict[str, object]:
    """Qualified name -> function, class, method or property that the module defines and a user may meet."""
    found = {}
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found[name] = thing
        if inspect.isclass(thing):
            found |= {f"{name}.{part}": member for part, member in vars(thing).items() if is_public(part, member)}
    return found


def is_public(name: str, member) -> bool:
    kinds = (staticmethod, classmethod, property, cached_property)
    return not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds))


def silent(things: dict[str, object]) -> list[str]:
    """Names of those without a docstring of their own, or with one that says nothing."""
    return [name for name, thing in things.items() if len((thing.__doc__ or "").split()) < WORDS]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings__everything_public_has_one(name):
    assert silent(public(importlib.import_module(name))) == []


def test_docstrings__the_package_is_looked_at():
    names = {name for module in MODULES for name in public(importlib.import_module(module))}
    assert {
        "Experiment",
        "Experiment.open",
        "Experiment.train",
        "Experiment.exam",
        "logit_matching",
        "Teacher.look",
        "RunConfig",
    } <= names
    assert len(names) > 200


def test_docstrings__what_is_silent_is_found():
    class Quiet:
        def method(self):
            pass

        @property
        def value(self):
            """Value."""

    assert silent({"Quiet": Quiet, "method": Quiet.method, "value": vars(Quiet)["value"]}) == [
        "Quiet",
        "method",
        "value",
    ]
