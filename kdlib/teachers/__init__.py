"""Teachers by family. Another one: a module with ``DEFAULT``, a Teacher and ``load(folder)``, and a line below."""

import torch

from kdlib.registry import Registry
from kdlib.teachers import beit, blip, clip, dino
from kdlib.teachers.teacher import STANDIN, Teacher, TeacherError, audit, describe, resolve

TEACHERS = Registry("teacher", {"dino": dino, "beit": beit, "clip": clip, "blip": blip})

__all__ = ["STANDIN", "TEACHERS", "Teacher", "TeacherError", "describe", "load", "resolve"]


def load(
    family: str,
    source: str = STANDIN,
    revision: str = "main",
    allow_untrained: bool = False,
    device: str = "cpu",
    untrained_heads: bool = False,
    precision: str = "float32",
) -> Teacher:
    """A teacher of ``family`` from ``source``: 'stand-in', a model id, a local folder, or '' for the published one.

    Raises TeacherError when weights that the teacher's outputs use are not in the checkpoint, unless
    ``allow_untrained``; their names are then in ``teacher.untrained``. ``untrained_heads`` asks for BLIP with
    new layers in the place of its joint space, which is what the study's BLIP numbers look like. ``precision``: of
    its forward pass.
    """
    source = source or TEACHERS[family].DEFAULT
    folder = resolve(family, source, revision)
    load_family = TEACHERS[family].load
    if untrained_heads:
        load_family = getattr(TEACHERS[family], "load_untrained_heads", None)
        if load_family is None:
            raise TeacherError(f"untrained_heads is a variant of blip; {family} has no such layers. Take it out.")
    build, model, missing, preprocess, tokenizer = load_family(folder)
    teacher = build(
        family=family,
        source=source,
        revision=folder.name if folder.parent.name == "snapshots" else revision,
        model=model.to(device),
        preprocess=preprocess,
        tokenizer=tokenizer,
        device=torch.device(device),
        precision=precision,
    )
    audit(teacher, missing, allow_untrained or untrained_heads)
    teacher.model.requires_grad_(False)
    return teacher
