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
) -> Teacher:
    """A teacher of ``family`` from ``source``: 'stand-in', a model id, a local folder, or '' for the published one.

    Raises TeacherError when weights that the teacher's outputs use are not in the checkpoint, unless
    ``allow_untrained``; their names are then in ``teacher.untrained``.
    """
    source = source or TEACHERS[family].DEFAULT
    folder = resolve(family, source, revision)
    build, model, missing, preprocess, tokenizer = TEACHERS[family].load(folder)
    teacher = build(
        family=family,
        source=source,
        revision=folder.name if folder.parent.name == "snapshots" else revision,
        model=model.to(device),
        preprocess=preprocess,
        tokenizer=tokenizer,
        device=torch.device(device),
    )
    audit(teacher, missing, allow_untrained)
    teacher.model.requires_grad_(False)
    return teacher
