"""Checks a loaded teacher: every weight that its outputs use was in the checkpoint, and the outputs make sense."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdlib.teachers.teacher import Teacher, TeacherError

# Two texts that differ in words and not in length: a vocabulary without these words makes one of them.
TEXTS = ("a red circle", "a blue square")


def audit(teacher: Teacher, missing: list[str], allow_untrained: bool) -> None:
    """Count the weights that the teacher's outputs use; refuse it when some were not in the checkpoint.

    A weight is used when the gradient of the outputs reaches it, a buffer (a batch norm's statistics) when the outputs
    change with it, which needs no list of names that could go stale. Refused are also a teacher in train mode, outputs
    of the wrong shape or with NaN, an attention that does not sum to 1, and equal features of two different inputs.
    Raises TeacherError with the reason and the remedy. With ``allow_untrained`` the names of missing weights go into
    ``teacher.untrained`` instead.
    """
    _in_eval_mode(teacher)
    pixels = probe(teacher).to(teacher.device)
    passes = {"look": lambda: teacher.look(pixels)}
    seen = _run(teacher, "look", passes["look"])
    rows, columns = teacher.grid
    _check(teacher, "look", seen, rows * columns, f"grid is {rows} x {columns}, so tokens are {rows * columns}")
    used = used_parameters(teacher.model, list(seen.values()))
    teacher.image_parameters, teacher.width = sum(used.values()), seen["pooled"].shape[1]
    if teacher.has_text:
        tokens = teacher.tokenize(list(TEXTS)).to(teacher.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        passes["read"] = lambda: teacher.read(ids, mask)
        read = _run(teacher, "read", passes["read"])
        _check(teacher, "read", read, ids.shape[1], f"the tokenizer makes {ids.shape[1]} tokens of them")
        if read["pooled"].shape[1] != seen["pooled"].shape[1]:
            widths = f"{seen['pooled'].shape[1]} and {read['pooled'].shape[1]}"
            raise _refused(teacher, f"its images and texts are {widths} wide; they must lie in one space")
        of_texts = used_parameters(teacher.model, list(read.values()))
        teacher.text_parameters = sum(of_texts.values())
        used |= of_texts
    for name in ("logit_scale", "logit_bias"):
        if isinstance(getattr(teacher.model, name, None), nn.Parameter):
            used[name] = 1
    untrained = sorted((set(missing) & set(used)) | used_buffers(teacher.model, missing, passes.values()))
    if untrained and not allow_untrained:
        raise TeacherError(
            f"{teacher.source} is no trained {teacher.family} teacher: {len(untrained)} weights that its outputs "
            f"use are not in the checkpoint and would be random: {', '.join(untrained[:6])}"
            f"{' ...' if len(untrained) > 6 else ''}.{_written_by(teacher)} Take a checkpoint that holds them, or set "
            "allow_untrained to study what random layers do; every row made with it will say so."
        )
    if not untrained:  # layers at random may well give one answer to all
        _two_answers(teacher, seen["pooled"], "images")
        if teacher.has_text:
            _two_answers(teacher, read["pooled"], "texts")
    teacher.untrained = untrained


def probe(teacher: Teacher) -> Tensor:
    """(2, 3, H, W): noise and a gradient of colours, through the teacher's own preprocessing."""
    size = teacher.image_size
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, size * size * 3).reshape(size, size, 3).astype(np.uint8)
    pixels = _run(teacher, "prepare", lambda: {"pixels": teacher.prepare([noise, ramp])})["pixels"]
    if pixels.shape != (2, 3, size, size):
        raise _refused(
            teacher,
            f"its preprocessing makes {tuple(pixels.shape)} of two images, and image_size says (2, 3, {size}, {size})",
        )
    return pixels


def used_parameters(model: nn.Module, outputs: list[Tensor]) -> dict[str, int]:
    """Name -> size of the parameters that a gradient from ``outputs`` reaches."""
    parameters = dict(model.named_parameters())
    total = torch.stack([output.float().square().sum() for output in outputs]).sum()
    if not total.requires_grad:
        return {}
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: parameter.numel()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        if gradient is not None
    }


@torch.no_grad()
def used_buffers(model: nn.Module, names: list[str], passes) -> set[str]:
    """Those of ``names`` that are floating-point buffers and change an output of ``passes``.

    A buffer is used when NaN in it gives NaN in an output.
    """
    buffers, used = dict(model.named_buffers()), set()
    for name in set(names) & set(buffers):
        if not buffers[name].is_floating_point():
            continue  # a count or an index, made from the configuration
        kept = buffers[name].clone()
        buffers[name].fill_(float("nan"))
        if any(output.isnan().any() for run in passes for output in run().values()):
            used.add(name)
        buffers[name].copy_(kept)
    return used


def _in_eval_mode(teacher: Teacher) -> None:
    training = [name or type(part).__name__ for name, part in teacher.model.named_modules() if part.training]
    if training:
        raise _refused(
            teacher,
            f"it is in train mode ({training[0]}), where dropout and batch statistics change its outputs; end its "
            "load() with model.eval()",
        )


def _run(teacher: Teacher, name: str, call: Callable) -> dict[str, Tensor]:
    """The result of a method of the teacher. An error in it becomes a TeacherError with a hint at the cause."""
    hint = "the tokenizer's files may be another model's" if name == "read" else "sizes may not fit its configuration"
    try:
        return call()
    except (TeacherError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _refused(teacher, f"{name} fails with {type(error).__name__}: {error}; {hint}") from error


def _check(teacher: Teacher, name: str, outputs: dict, tokens: int, why: str) -> None:
    """Refuse outputs whose names, shapes or values cannot be right. ``tokens``: how many there must be, and ``why``."""
    needed = ("pooled", "tokens", "attention")
    if not isinstance(outputs, dict) or set(needed) - set(outputs):
        given = ", ".join(map(str, outputs)) if isinstance(outputs, dict) else type(outputs).__name__
        raise _refused(teacher, f"{name} must give a dict with pooled, tokens and attention, and gives {given}")
    width = outputs["pooled"].shape[-1]
    shapes = {"pooled": (2, width), "tokens": (2, tokens, width), "attention": (2, tokens)}
    for part in needed:
        if tuple(outputs[part].shape) != shapes[part]:
            raise _refused(
                teacher,
                f"{name} gives {part} of shape {tuple(outputs[part].shape)} for two inputs, not {shapes[part]} ({why})",
            )
        if not outputs[part].isfinite().all():
            raise _refused(teacher, f"{name} gives NaN or infinity in {part}; the weights may be damaged")
    attention = outputs["attention"]
    sums = attention.sum(dim=1)
    if (attention < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise _refused(
            teacher,
            f"the attention that {name} gives sums to {sums[0].item():.4g}, not to 1 without a negative part; "
            "kdlib.teachers.teacher.normalised does that",
        )


def _two_answers(teacher: Teacher, pooled: Tensor, inputs: str) -> None:
    one, other = pooled.detach().float()
    if (one - other).norm() <= 1e-6 * one.norm():
        reason = "weights that are all zero" if inputs == "images" else "a vocabulary that is not the checkpoint's"
        raise _refused(teacher, f"it gives one answer to two different {inputs}, as with {reason}")


def _refused(teacher: Teacher, reason: str) -> TeacherError:
    return TeacherError(f"{teacher.source} cannot serve as {teacher.family} teacher: {reason}.")


def _written_by(teacher: Teacher) -> str:
    """The class that a transformers checkpoint was written by; nothing for other models."""
    folder = getattr(getattr(teacher.model, "config", None), "_name_or_path", "")
    path = Path(folder) / "config.json"
    if not folder or not path.is_file():
        return ""
    classes = json.loads(path.read_text()).get("architectures") or ["an unnamed class"]
    needed = type(teacher.model).__name__
    return f" The checkpoint was written by {', '.join(classes)}, the teacher needs {needed}."
