"""The parts of a student for its diagram, in the order in which they run when one batch passes through it."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdlib.students import Student

READS = {
    "image": "pooled feature",
    "image_tokens": "tokens",
    "pixels": "pixels",
    "text": "pooled feature",
    "text_tokens": "tokens",
    "text_ids": "token ids",
}
OWN = {"pixels": "pixels", "ids": "text_ids"}  # what a side reads that needs nothing of the teacher


@dataclass(frozen=True)
class Part:
    """A part of the student: its name, its layers, the size of its output ('' if unknown), its parameters."""

    name: str
    kind: str
    output: str
    parameters: int


@torch.inference_mode()
def parts(student: Student, side: str, batch: dict[str, Tensor]) -> tuple[list[Part], str]:
    """The top-level modules that run when ``student`` takes one ``batch``, in that order, and its embedding's size.

    ``side``: 'image' or 'text'. The modules of a ModuleList count as one part.
    """
    seen: dict[str, str] = {}
    hooks = []
    for name, child in student.named_children():
        for module in [child, *child.children()] if isinstance(child, nn.ModuleList) else [child]:
            hooks.append(module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: _size(out)})))
    training = student.training
    try:
        made = (student.see if side == "image" else student.read)(batch)
    finally:
        student.train(training)
        for hook in hooks:
            hook.remove()
    children = dict(student.named_children())
    found = [Part(name, kind(children[name]), size, _parameters(children[name])) for name, size in seen.items()]
    return found, _size(made[side])


def reads(student: Student, side: str, batch: dict[str, Tensor]) -> str:
    """What a side of the student reads of a batch, in words, with its size without the batch axis."""
    read = student.reads if side == "image" else student.text_reads
    names = [OWN[read]] if read in OWN else [name for name in (side, f"{side}_tokens") if name in batch]
    return "\n".join(f"{READS[name]} {_size(batch[name])}" for name in names)


def kind(module: nn.Module) -> str:
    """A module in words: its class, and how many layers of which kind hold its parameters."""
    own = type(module).__name__
    layers = Counter(
        type(layer).__name__.replace("NonDynamicallyQuantizable", "")
        for layer in module.modules()
        if layer is not module and any(True for _ in layer.parameters(recurse=False))
    )
    listed = ", ".join(f"{count} {name}" if count > 1 else name for name, count in layers.items())
    return f"{own}: {listed}" if listed else own


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _size(value) -> str:
    """'16 × 128' for a (B, 16, 128) tensor, or for the first of several tensors; '' for anything else."""
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return " × ".join(map(str, value.shape[1:])) if isinstance(value, Tensor) else ""
