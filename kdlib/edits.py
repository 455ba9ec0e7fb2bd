"""Finds what a notebook changed in a distiller by hand: layers, initial weights, frozen parts, losses."""

import copy
import dataclasses
import hashlib
import inspect
import sys
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.keys import code_of

SCIENCE = ("kdlib.distiller", "kdlib.losses", "kdlib.students")  # functions that a notebook may have replaced
LAYER, WEIGHTS = "layer ", "weights of "  # prefixes of places


def changes(fresh: Distiller, held: Distiller) -> dict[str, list]:
    """{place: [description in ``fresh``, description in ``held``]} of all that differs; empty where nothing does.

    It compares the modules and losses with their settings, the initial weights, which of them are trained, and the
    functions of the package that the notebook replaced.
    """
    before, now = description(fresh), description(held)
    places = sorted(set(before) | set(now), key=lambda place: (place.count("."), place))
    found = {place: [before.get(place), now.get(place)] for place in places if before.get(place) != now.get(place)}
    return found | {place: ["the package's", code] for place, code in replaced().items()}


def in_words(found: dict[str, list]) -> list[str]:
    """The :func:`changes` as text, one line each; the weights of a replaced layer are left out."""
    lines = []
    for place, (before, now) in found.items():
        owner = place.removeprefix(WEIGHTS).rpartition(".")[0]
        parents = [owner.rsplit(".", depth)[0] for depth in range(owner.count(".") + 1)]
        if not place.startswith(LAYER) and any(f"{LAYER}{parent}" in found for parent in parents):
            continue  # the layer itself was replaced
        if place.startswith(WEIGHTS) and before and now:
            lines.append(f"{place.removeprefix(WEIGHTS)}: other values before training")
        else:
            lines.append(f"{place}: {'nothing' if before is None else before} → {'nothing' if now is None else now}")
    return lines


def description(distiller: Distiller) -> dict[str, str]:
    """{place in the distiller: what is there}, as text that is equal for equal things in every process."""
    found: dict[str, str] = {}
    for name, module in distiller.named_modules():
        found[f"{LAYER}{name or 'distiller'}"] = f"{_code(type(module))}({module.extra_repr()})"
        for setting, value in vars(module).items():
            if setting != "training" and not setting.startswith("_"):
                found |= _flat(".".join(filter(None, (name, setting))), value)
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            found |= {f"hook of {name or 'distiller'}: {_code(hook)}": "set" for hook in hooks.values()}
    for name, parameter in distiller.named_parameters():
        found[name] = "trained" if parameter.requires_grad else "frozen"
    return found | {f"{WEIGHTS}{name}": digest_of_tensor(value) for name, value in distiller.state_dict().items()}


def _flat(place: str, value: Any) -> dict[str, str]:
    """A setting as place -> text, entry by entry; an object that has no text form is given by its class."""
    if isinstance(value, RunConfig):
        value = value.training()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, dict):
        return {key: text for name, one in value.items() for key, text in _flat(f"{place}.{name}", one).items()}
    if isinstance(value, (list, tuple)):
        return {key: text for row, one in enumerate(value) for key, text in _flat(f"{place}.{row}", one).items()}
    if isinstance(value, Tensor):
        return {place: digest_of_tensor(value)}
    if callable(value) and hasattr(value, "__qualname__"):
        return {place: _code(value)}
    plain = value is None or isinstance(value, (bool, int, float, str))
    return {place: str(value) if plain else type(value).__qualname__}


def _code(thing: Any) -> str:
    """The name of a class or function, with the digest of its code where it is a user's own."""
    return " ".join(filter(None, (getattr(thing, "__qualname__", type(thing).__qualname__), _own(thing)[:8])))


def _own(thing: Any) -> str:
    return code_of(thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing))


def digest_of_tensor(tensor: Tensor) -> str:
    """SHA-256 (16 hex digits) of a tensor's type, shape and values; the same on every device."""
    return hashlib.sha256(save({"": tensor.detach().cpu().contiguous()})).hexdigest()[:16]


def replaced() -> dict[str, str]:
    """Functions and classes of the science that were replaced by a notebook's own, and the digest of their code."""
    found = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith(SCIENCE):
            continue
        own = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == name]
        for owner in (module, *own):
            for attribute, value in vars(owner).items():
                if getattr(value, "__module__", "") == "__main__" and (
                    inspect.isfunction(value) or inspect.isclass(value)
                ):
                    found[f"{getattr(owner, '__name__', name)}.{attribute}"] = _code(value)
    return found


# ---------------------------------------------------------------- a distiller that has been trained


def as_it_began(distiller: Distiller) -> Distiller:
    """The distiller before training: the one that :func:`mark` kept, or a copy if nothing was kept or it was edited."""
    origin = getattr(distiller, "_origin", None)
    if origin and origin[1] == _weights(distiller) and not _edited_since(distiller, origin[0]):
        return origin[0]
    began = copy.deepcopy(distiller)
    began.__dict__.pop("_origin", None)
    return began


def mark(distiller: Distiller, began: Distiller) -> None:
    """Keep what ``distiller`` was trained from, so that training it again does not count as an edit."""
    distiller.__dict__["_origin"] = (began, _weights(distiller))


def _weights(distiller: nn.Module) -> dict[str, str]:
    return {name: digest_of_tensor(value) for name, value in distiller.state_dict().items()}


def _edited_since(distiller: Distiller, began: Distiller) -> bool:
    """Whether more than the weights differ."""
    now, before = description(distiller), description(began)
    return any(now.get(place) != before.get(place) for place in {*now, *before} if not place.startswith(WEIGHTS))
