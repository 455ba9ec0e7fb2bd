"""Embeds a caption or an image of the user by teacher and student, for a search among the scored ones."""

import io
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kdlib import sources, teachers
from kdlib.config import RunConfig
from kdlib.evaluate.metrics import unit_rows
from kdlib.export.standalone import Standalone
from kdlib.features.encoders import encode_captions, encode_with, fitted
from kdlib.files import read_json
from kdlib.finished import Finished

LARGEST_BYTES, LARGEST_PIXELS = 10 * 2**20, 50_000_000  # of an uploaded image
STORED = {"": "pooled", "_tokens": "tokens", "_attention": "attention"}  # a batch's names, and the store's
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class UploadError(ValueError):
    """An uploaded file is not a usable image; the message says why and what to do."""


def space(run: Finished, who: str) -> dict[str, Tensor]:
    """``who``: 'teacher' or 'student'."""
    return run.teacher_space if who == "teacher" else run.student_space


def encode_text(run: Finished, text: str) -> dict[str, Tensor]:
    """The embeddings of a caption: {"teacher": (T,), "student": (D,)}, float64 at length 1.

    Without the teacher's checkpoint an exported student answers alone, from its files. Raises TeacherError when the
    teacher has no text side, or when there is neither the checkpoint nor an exported student.
    """
    try:
        teacher = teacher_of(run.config)
    except teachers.TeacherError:
        if (student := exported(run)) is None or student.tokenizer is None:
            raise
        return {"student": unit_rows(student.encode_texts([text]))[0]}
    read = encode_captions(teacher, [text], run.config.feature_dtype, "text")
    read = {name: torch.from_numpy(values).float() for name, values in read.items()}
    batch = {"text": read["text_pooled"], "text_tokens": read["text_tokens"][None]}
    batch |= {"text_attention": read["text_attention"][None]}
    batch["text_mask"] = torch.ones_like(batch["text_attention"], dtype=torch.bool)
    if run.student.text_reads == "ids":
        batch["text_ids"] = torch.from_numpy(run.vocabulary.ids(read["text_ids"].numpy().astype("int64")))[None]
    with torch.inference_mode():
        made = run.student.read(batch)
    return {"teacher": unit_rows(batch["text"])[0], "student": unit_rows(made["text"])[0]}


def unknown_words(config: RunConfig, text: str) -> list[str]:
    """The words of a caption that the teacher's vocabulary lacks: it reads them as unknown, or letter by letter.

    The stand-ins know little but the words of their drawn scenes.
    """
    tokenizer, found = teacher_of(config).tokenizer, []
    for word in text.split():
        pieces = tokenizer(word, add_special_tokens=False).input_ids
        if tokenizer.unk_token_id in pieces or len(pieces) > max(2, len(word) // 2):
            found.append(word)
    return found


def exported(run: Finished) -> Standalone | None:
    """The run's exported student; None if this result was not exported or the folder is gone."""
    record = read_json(run.run.exported_path(run.config.epochs)) or {}
    same = record.get("experiment") == run.result["keys"]["experiment"]
    return Standalone.from_pretrained(record["folder"]) if same and Path(record["folder"]).is_dir() else None


def encode_image(run: Finished, image: Image.Image) -> dict[str, Tensor]:
    """The embeddings of an image by teacher and student, and their attention maps, '<who>_attention' (h * w,).

    Without the teacher's checkpoint a student that reads pixels answers alone; for others TeacherError is raised.
    """
    made, batch = {}, {}
    try:
        teacher = teacher_of(run.config)
        seen = encode_with(teacher, teacher.prepare([image]), None, run.config.feature_dtype, run.config.token_grid)
        batch = {f"image{name}": torch.from_numpy(seen[f"image_{key}"]).float() for name, key in STORED.items()}
        made = {"teacher": unit_rows(batch["image"])[0], "teacher_attention": batch["image_attention"][0]}
    except teachers.TeacherError:
        if run.student.reads != "pixels":
            raise
    if run.student.reads == "pixels":
        batch["pixels"] = torch.tensor(fitted(image, run.config.image_size))[None].float() / 255
    with torch.inference_mode():
        out = run.student.see(batch)
    made["student"] = unit_rows(out["image"])[0]
    if "image_attention" in out:
        made["student_attention"] = out["image_attention"][0]
    return made


def teacher_of(config: RunConfig) -> teachers.Teacher:
    """The teacher, loaded once per process. Raises TeacherError when its checkpoint cannot be had."""
    fields = ("dataset", "teacher", "checkpoint", "revision", "allow_untrained", "untrained_heads", "teacher_precision")
    return _load_teacher(tuple((name, getattr(config, name)) for name in fields))


@lru_cache(maxsize=4)
def _load_teacher(fields: tuple) -> teachers.Teacher:
    return sources.load_teacher(RunConfig(**dict(fields), device="cpu"))


def uploaded(content: bytes, name: str) -> Image.Image:
    """An uploaded file as an RGB image, upright, at most 1,024 pixels a side. Raises UploadError in plain words."""
    if len(content) > LARGEST_BYTES:
        raise UploadError(
            f"{name} has {len(content) / 2**20:.1f} MB; up to {LARGEST_BYTES / 2**20:.0f} MB are read. Make it smaller."
        )
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > LARGEST_PIXELS:
            raise UploadError(
                f"{name} has {image.width} x {image.height} pixels; up to {LARGEST_PIXELS / 1e6:.0f} million are "
                "read. Make it smaller."
            )
        image = ImageOps.exif_transpose(image).convert("RGB")  # decodes it whole: a truncated file fails here
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        if isinstance(error, UploadError):
            raise
        raise UploadError(
            f"{name} is not an image that can be read. Take a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
        ) from error
    image.thumbnail((1024, 1024))
    return image
