"""Registries: dicts from names to classes, functions or modules. An unknown name is an error that lists the known."""

import importlib
from typing import Any, ClassVar


class Registry(dict):
    """``REGISTRY[name]`` is the entry; 'package.module:attribute' is imported without being registered."""

    known: ClassVar[dict[str, "Registry"]] = {}  # all registries, by their noun

    def __init__(self, noun: str, entries: dict):
        super().__init__(entries)
        self.noun = noun
        Registry.known[noun] = self

    def __missing__(self, name: str):
        if ":" in name:
            return self._own(name)
        raise KeyError(
            f"There is no {self.noun} '{name}'. Known: {', '.join(sorted(self))}; "
            "your own goes in by register() or as 'package.module:attribute'."
        )

    def _own(self, name: str) -> Any:
        """The user's own entry 'package.module:attribute'. Raises KeyError with what was found there instead."""
        place, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in place.split(".")):
            raise KeyError(f"The {self.noun} '{name}' is not written as 'package.module:attribute'.")
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise KeyError(
                f"The {self.noun} '{name}' cannot be imported: {error}. Put the folder of {place.split('.')[0]}.py on "
                "PYTHONPATH."
            ) from error
        if not hasattr(module, attribute):
            own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == place]
            raise KeyError(
                f"There is no '{attribute}' for the {self.noun} '{name}' in {getattr(module, '__file__', place)}. "
                f"It defines: {', '.join(own) or 'nothing'}."
            )
        return getattr(module, attribute)

    def register(self, name: str, entry: Any) -> None:
        """Add an entry. Raises ValueError for a name that is taken, since a name never changes its meaning.

        The same class or function, defined again (a notebook's cell was run again), takes the place of the old one.
        """
        if name in self and not _same(self[name], entry):
            raise ValueError(f"The {self.noun} '{name}' exists already; choose another name.")
        self[name] = entry

    def name_of(self, entry: Any) -> str:
        """The name of an entry. A new class or function is registered under its own name; a string is a name."""
        if isinstance(entry, str):
            return entry
        found = next((name for name, known in self.items() if known is entry), "") or getattr(entry, "__name__", "")
        if not found.replace(".", "").isidentifier():
            raise ValueError(
                f"This {self.noun} has no name of its own; define it by 'class' or 'def', or register() it."
            )
        self.register(found, entry)
        return found


def _same(old: Any, new: Any) -> bool:
    """Whether ``new`` is ``old``, or a user's class or function that was defined again at the same place."""
    if old is new:
        return True
    places = [(getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)) for thing in (old, new)]
    return places[0] == places[1] and None not in places[0] and not places[0][0].startswith("kdlib.")
