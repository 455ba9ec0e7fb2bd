"""Teachers by family: which checkpoint a configuration means, what identifies it, and loading it."""

import functools
import hashlib
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib import keys, machine
from kdlib.config import RunConfig
from kdlib.teachers.base import Teacher, audit
from kdlib.teachers.blip import Blip, RandomHeads
from kdlib.teachers.checkpoint import TeacherError, digests, refuse_foreign, snapshot
from kdlib.teachers.clip import Clip, Siglip2
from kdlib.teachers.vit import Beit, Dino, Dinov2, Dinov3
from kdlib.utils import digest, find

TEACHERS: dict[str, type[Teacher]] = {
    "dino": Dino, "dinov2": Dinov2, "dinov3": Dinov3, "beit": Beit, "clip": Clip, "siglip2": Siglip2, "blip": Blip,
}  # fmt: skip


def family(config: RunConfig) -> type[Teacher]:
    """The class of the configuration's teacher: a family's, or the user's own 'package.module:attribute'."""
    kind = find(TEACHERS, config.teacher, "teacher")
    if not (isinstance(kind, type) and issubclass(kind, Teacher)):
        raise TeacherError(f"The teacher {config.teacher} is no subclass of kdlib.teachers.Teacher.")
    if config.untrained_heads and kind is not Blip:
        raise TeacherError(f"untrained_heads is a variant of blip; {config.teacher} has no such layers. Take it out.")
    return RandomHeads if config.untrained_heads else kind


def resolve(config: RunConfig) -> Path:
    """The folder of the configuration's checkpoint, downloaded where it is not there yet."""
    kind, source = family(config), config.checkpoint
    folder = Path(__file__).parent / "toy" / config.teacher if source == "toy" else Path(source)
    if source == "toy" and not folder.is_dir():
        raise TeacherError(f"{config.teacher} has no toy teacher. Set checkpoint to '' (published), an id, a folder.")
    if not (source and folder.is_dir()):
        name, _, revision = (source or kind.DEFAULT).partition("@")
        if name.startswith("/") or name.count("/") != 1:
            raise TeacherError(f"checkpoint '{source}' is neither a folder that is there nor a model id, owner/name.")
        pinned = kind.REVISION if name == kind.DEFAULT and not revision else ""
        folder = snapshot(name, revision or pinned or "main")
        if folder is None and pinned:
            warnings.warn(f"{name}: its pinned commit {pinned} is gone; main takes its place.", stacklevel=2)
            folder = snapshot(name, "main")
        if folder is None:
            raise TeacherError(f"{name} has no revision '{revision or 'main'}'. Take a branch, tag or commit of it.")
    refuse_foreign(folder, kind)
    return folder


def describe(config: RunConfig) -> dict:
    """What identifies a teacher, without loading it: its files, variants, own code, and what its processors make."""
    kind, folder = family(config), resolve(config)
    files = digests(folder)
    identity = {"family": config.teacher, "files": files, "code": keys.own_code(kind)}
    identity |= {"untrained_heads": config.untrained_heads, "precision": config.teacher_precision}
    return identity | {"probe": _probe(kind, folder, digest(files))}


@functools.cache
def _probe(kind: type[Teacher], folder: Path, _files: str) -> dict[str, str]:
    """Digests of a preprocessed image and of a tokenised text: another version of a processor is another teacher."""
    preprocess, tokenizer = kind.processors(folder)
    ramp = np.linspace(0, 255, 90 * 70 * 3).reshape(90, 70, 3).astype(np.uint8)
    made = {}
    with suppress(AttributeError):  # prepare() of a user's own family may need its model
        pixels = kind("", "", "", preprocess=preprocess).prepare([Image.fromarray(ramp)])
        made["image"] = (pixels.double() * 1000).round().int().numpy()  # the last digits differ between processors
    if tokenizer is not None:
        made["text"] = np.array(tokenizer("A photo of two dogs, running left.")["input_ids"], dtype=np.int32)
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in made.items()}


def load(config: RunConfig) -> Teacher:
    """The configuration's teacher, audited and frozen, on its device. Raises TeacherError with the remedy."""
    kind, folder, device = family(config), resolve(config), machine.choose(config.device)
    digests(folder)  # a damaged download is found before it is loaded
    model, missing = kind.load(folder)
    source = config.checkpoint if Path(config.checkpoint).is_dir() else config.checkpoint.partition("@")[0]
    revision = folder.name if folder.parent.name == "snapshots" else ""
    parts = (model.eval().to(device), *kind.processors(folder), device, config.teacher_precision)
    teacher = kind(config.teacher, source or kind.DEFAULT, revision, *parts)
    audit(teacher, missing, untrained_allowed=config.untrained_heads)
    model.requires_grad_(False)
    return teacher
