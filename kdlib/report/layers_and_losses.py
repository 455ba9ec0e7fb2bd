"""Shows what is trained: the student's layers with the shapes of a batch, and the source code of its losses."""

import html
import inspect
from collections.abc import Iterator
from types import FunctionType

import torch
from torch import Tensor, nn

from kdlib import losses as package_losses
from kdlib.distiller import Distiller
from kdlib.report.display import markup
from kdlib.students import Student

LONG = 30  # lines of code or layers; more are folded away


@torch.no_grad()
def module(student: Student, batch: dict[str, Tensor]) -> None:
    """The student's layers, each with the shape of its output for ``batch``."""
    shapes: dict[nn.Module, str] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, out: shapes.update({layer: _shape(out)}))
        for layer in student.modules()
    ]
    mode = student.training
    try:
        student.eval()(batch)
    finally:
        student.train(mode)
        for hook in hooks:
            hook.remove()
    lines = list(_layers(student, "", 0, shapes))
    _code("\n".join(lines), f"{type(student).__name__}, layer by layer")
    sizes = ", ".join(f"{name} {' × '.join(map(str, value.shape))}" for name, value in batch.items())
    markup(f"<p>The shapes are those of one batch of training images. Of it are read: {html.escape(sizes)}.</p>")


def _layers(layer: nn.Module, name: str, depth: int, shapes: dict) -> Iterator[str]:
    head = f"{'  ' * depth}{f'({name}): ' if name else ''}{type(layer).__name__}"
    made = f"  → {shapes[layer]}" if shapes.get(layer) else ""
    frozen = " frozen" if any(not one.requires_grad for one in layer.parameters(recurse=False)) else ""
    yield f"{head}({layer.extra_repr()}){frozen}{made}"
    for child_name, child in layer.named_children():
        yield from _layers(child, child_name, depth + 1, shapes)


def _shape(value) -> str:
    """'64 × 128' for a tensor, or for the first of several; for a dict, each entry with its name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shape(one)}" for name, one in value.items())
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return " × ".join(map(str, value.shape)) if isinstance(value, Tensor) else ""


def losses(distiller: Distiller) -> None:
    """The source code of the losses that train this distiller, and of the functions that compute them on a batch."""
    makers = list(distiller.objective.values())
    found = {function: None for maker in makers for function in _called(maker, (maker,))}
    pure = [function for function in found if function.__module__ == package_losses.__name__]
    own = [function for function in found if function not in (*pure, *makers)]
    for function in (*pure, *own):
        _code(inspect.getsource(function), function.__name__)
    for name, maker in distiller.objective.items():
        _code(inspect.getsource(maker), f"the term '{name}' of a batch")
    _code(inspect.getsource(Distiller.forward), "student and losses together: distiller(batch)")


def _called(function: FunctionType, seen: tuple) -> Iterator[FunctionType]:
    """The functions that a loss calls, as far as they are in kdlib.losses or in the module of the loss."""
    names = inspect.getclosurevars(function)
    candidates = [*names.globals.values(), *(getattr(package_losses, name, None) for name in sorted(names.unbound))]
    homes = (package_losses.__name__, function.__module__)
    for other in candidates:
        if inspect.isfunction(other) and other.__module__ in homes and other not in seen:
            yield other
            yield from _called(other, (*seen, other))


def _code(text: str, title: str) -> None:
    """Code behind a line that folds it away; a short piece is open."""
    state = " open" if text.count("\n") < LONG else ""
    block = f"<pre><code>{html.escape(inspect.cleandoc(text))}</code></pre>"
    markup(f"<details{state}><summary>{html.escape(title)}</summary>{block}</details>")
