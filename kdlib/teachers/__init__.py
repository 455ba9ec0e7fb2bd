"""Teachers by family. Another one: a module with ``DEFAULT``, a Teacher and ``load(folder)``, and a line below."""

from pathlib import Path

import torch

from kdlib.registry import Registry
from kdlib.teachers import beit, blip, clip, dino, dinov2, dinov3, fetch, siglip2
from kdlib.teachers.audit import audit
from kdlib.teachers.teacher import STANDIN, Teacher, TeacherError

TEACHERS = Registry(
    "teacher",
    {"dino": dino, "dinov2": dinov2, "dinov3": dinov3, "beit": beit, "clip": clip, "siglip2": siglip2, "blip": blip},
)

__all__ = ["STANDIN", "TEACHERS", "Teacher", "TeacherError", "describe", "load", "resolve"]


def resolve(family: str, source: str = "", revision: str = "") -> Path:
    """The local folder of a checkpoint: the packaged stand-in, a folder, or a snapshot from the model hub.

    ``source`` '' is the family's published checkpoint, at the commit that is pinned with it. Downloads and converts
    what is not there yet; see :func:`kdlib.teachers.fetch.fetch`. Raises TeacherError.
    """
    if source == STANDIN:
        return standin(family)
    return fetch.fetch(*published(family, source, revision), bin_digest(family, source))


def find(family: str, source: str = "", revision: str = "") -> Path | None:
    """The folder that :func:`resolve` gives, None where it would have to download or convert something."""
    if source == STANDIN:
        return standin(family)
    return fetch.find(*published(family, source, revision))


def published(family: str, source: str, revision: str) -> tuple[str, str, str]:
    """Model id or folder, the user's revision, and the commit that is pinned where the id is the family's default."""
    entry = TEACHERS[family]
    source = source or entry.DEFAULT
    return source, revision, getattr(entry, "REVISION", "") if source == getattr(entry, "DEFAULT", None) else ""


def bin_digest(family: str, source: str) -> str:
    """SHA-256 of pytorch_model.bin on main of a family's published checkpoint, '' where it is not known."""
    entry = TEACHERS[family]
    return getattr(entry, "BIN", "") if source in ("", getattr(entry, "DEFAULT", None)) else ""


def standin(family: str) -> Path:
    """The folder of a family's packaged stand-in. Raises TeacherError for a family that has none."""
    folder = Path(__file__).parent / "standins" / family
    if not (folder / "config.json").is_file():
        raise TeacherError(
            f"{family} has no stand-in. Give its checkpoint: '' for the published one, a model id, or a folder."
        )
    return folder


def describe(family: str, source: str = "", revision: str = "") -> dict:
    """What identifies a teacher, without loading it: family, and the SHA-256 of each file it is made of."""
    return {"family": family, "files": fetch.digests(resolve(family, source, revision))}


def load(
    family: str,
    source: str = STANDIN,
    revision: str = "",
    allow_untrained: bool = False,
    device: str = "cpu",
    untrained_heads: bool = False,
    precision: str = "float32",
) -> Teacher:
    """A teacher of ``family`` from ``source``: 'stand-in', a model id, a local folder, or '' for the published one.

    Raises TeacherError when weights that the teacher's outputs use are not in the checkpoint, unless
    ``allow_untrained``; their names are then in ``teacher.untrained``. ``untrained_heads`` asks for BLIP with
    new layers in the place of its joint space, which is what the paper's BLIP numbers look like. ``precision``: of
    its forward pass.
    """
    folder = resolve(family, source, revision)
    load_family = TEACHERS[family].load
    if untrained_heads:
        load_family = getattr(TEACHERS[family], "load_untrained_heads", None)
        if load_family is None:
            raise TeacherError(f"untrained_heads is a variant of blip; {family} has no such layers. Take it out.")
    fetch.digests(folder)  # a damaged download is found before it is loaded
    build, model, missing, preprocess, tokenizer = load_family(folder)
    teacher = build(
        family=family,
        source=source or TEACHERS[family].DEFAULT,
        revision=fetch.commit_of(folder) or revision or "main",
        model=model.to(device),
        preprocess=preprocess,
        tokenizer=tokenizer,
        device=torch.device(device),
        precision=precision,
    )
    audit(teacher, missing, allow_untrained or untrained_heads)
    teacher.model.requires_grad_(False)
    return teacher
