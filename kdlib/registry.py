"""Names to things: a literal dict whose unknown names are an error that lists the known ones."""

import importlib


class Registry(dict):
    """``REGISTRY[name]``; another entry by ``register`` or, without it, as 'package.module:attribute'."""

    def __init__(self, noun: str, entries: dict):
        super().__init__(entries)
        self.noun = noun

    def __missing__(self, name: str):
        if ":" in name:
            module, _, attribute = name.partition(":")
            return getattr(importlib.import_module(module), attribute)
        raise KeyError(
            f"There is no {self.noun} '{name}'. Known: {', '.join(sorted(self))}; "
            "your own goes in by register() or as 'package.module:attribute'."
        )

    def register(self, name: str, entry) -> None:
        """Add an entry; a name never changes its meaning, so a taken one is refused."""
        if name in self and self[name] is not entry:
            raise ValueError(f"The {self.noun} '{name}' exists already; choose another name.")
        self[name] = entry
