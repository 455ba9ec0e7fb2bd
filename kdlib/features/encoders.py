"""What a store is filled with: the teacher's features of images, texts and views, or the pixels that students read.

``..._parts`` give what the content of a store depends on, from which its key is made; ``..._encoder`` compute it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from kdlib import keys
from kdlib.data.dataset import Dataset
from kdlib.features.npy import StoreError
from kdlib.features.views import Views
from kdlib.features.vocabulary import token_ids

CHUNK = 64  # images that are encoded and written at a time


@dataclass(frozen=True)
class Encoder:
    """The functions that compute the arrays of a store.

    ``prepare(image, id)`` turns one decoded image into the input of ``encode``; it runs in threads. ``encode(prepared,
    texts)`` maps up to ``chunk`` prepared images and their captions to arrays by name. ``facts`` go into the manifest;
    ``extras`` are arrays that belong to the whole split. ``least``: the side in pixels that a reduced JPEG must keep,
    0 to decode in full.
    """

    prepare: Callable[[Image.Image, str], object]
    encode: Callable[[list, list | None], dict[str, np.ndarray]]
    facts: dict = field(default_factory=dict)
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    least: int = 0
    chunk: int = CHUNK


def teacher_parts(
    description: dict, dataset: Dataset, dtype: str, prompts: list[str], token_grid: int = 0, tokens: bool = True
) -> dict:
    """What the features of a teacher depend on. ``description``: of the teacher, ``sources.describe(...)``."""
    return {
        "kind": "teacher",
        "teacher": description,
        "dataset": dataset.fingerprint,
        "dtype": dtype,
        "token_grid": token_grid,
        "tokens": tokens,
        "prompts": prompts,
        "code": [keys.digest_of("pixels"), keys.digest_of("features", teacher=description["family"])],
    }


def teacher_encoder(
    load: Callable, dtype: str, prompts: list[str], token_grid: int = 0, tokens: bool = True
) -> Callable:
    """Make ``load_encoder`` for :func:`ensure` from a function that loads the teacher.

    ``prompts``: texts for zero-shot scores, which are encoded where the teacher reads text. ``token_grid``: side of the
    grid of image tokens that is stored, by average pooling; 0 stores all. ``tokens``: whether the features of image
    and text tokens are stored at all; they take most of the disk.
    """

    def stored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array for name, array in arrays.items() if tokens or not name.endswith("_tokens")}

    def load_encoder() -> Encoder:
        teacher = load()
        if token_grid > min(teacher.grid):
            raise StoreError(f"token_grid is {token_grid}, but the teacher has {teacher.grid} tokens; 0 keeps all.")
        facts = {
            "family": teacher.family,
            "source": teacher.source,
            "revision": teacher.revision,
            "untrained": teacher.untrained,
            "grid": [token_grid or side for side in teacher.grid],
            "centre_crop": bool(getattr(teacher.preprocess, "do_center_crop", False)),
            "logit_scale": teacher.logit_scale,
            "text": teacher.has_text,
        }
        extras = encode_captions(teacher, prompts, dtype, "prompt") if prompts and teacher.has_text else {}
        return Encoder(
            prepare=lambda image, name: teacher.prepare([image]),
            encode=lambda pixels, texts: stored(encode_with(teacher, torch.cat(pixels), texts, dtype, token_grid)),
            facts=facts,
            extras=stored(extras),
        )

    return load_encoder


def encode_with(
    teacher, pixels: Tensor, texts: list[tuple[str, ...]] | None, dtype: str, token_grid: int = 0
) -> dict[str, np.ndarray]:
    """The teacher's features of one chunk: of its images and, where the teacher reads text, of its captions.

    ``pixels`` (B, 3, H, W): preprocessed images. ``texts``: the captions of each image.
    """
    seen = teacher.encode_pixels(pixels)
    if token_grid:
        seen |= reduced(seen["tokens"], seen["attention"], teacher.grid, token_grid)
    arrays = {f"image_{name}": seen[name].numpy().astype(dtype) for name in ("pooled", "tokens", "attention")}
    if texts is None or not teacher.has_text:
        return arrays
    arrays |= encode_captions(teacher, [text for captions in texts for text in captions], dtype, "text")
    arrays["caption_count"] = np.array([len(captions) for captions in texts], dtype=np.int32)
    return arrays


def reduced(tokens: Tensor, attention: Tensor, grid: tuple[int, int], side: int) -> dict[str, Tensor]:
    """(B, N, T) tokens and (B, N) attention on ``grid``, average-pooled to ``side`` x ``side``; attention sums to 1."""
    maps = tokens.transpose(1, 2).unflatten(2, grid)  # (B, T, rows, columns)
    looked = F.adaptive_avg_pool2d(attention.unflatten(1, grid)[:, None], side).flatten(1)
    return {
        "tokens": F.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2),
        "attention": looked / looked.sum(dim=1, keepdim=True),
    }


def encode_captions(teacher, texts: list[str], dtype: str, kind: str) -> dict[str, np.ndarray]:
    """The teacher's features of texts: ``<kind>_pooled`` (texts, T), and without padding ``_tokens``, ``_attention``.

    ``<kind>_length`` counts the tokens of each text; ``_ids`` and ``_words`` are those of
    :func:`~kdlib.features.vocabulary.token_ids`.
    """
    read = teacher.encode_texts(texts)
    mask = read["mask"].bool()
    return {
        f"{kind}_pooled": read["pooled"].numpy().astype(dtype),
        f"{kind}_tokens": read["tokens"][mask].numpy().astype(dtype),
        f"{kind}_attention": read["attention"][mask].numpy().astype(dtype),
        f"{kind}_length": mask.sum(dim=1).numpy().astype(np.int32),
    } | {f"{kind}_{name}": values for name, values in token_ids(teacher, texts).items()}


def view_parts(description: dict, dataset: Dataset, dtype: str, views: Views) -> dict:
    """What the teacher's features of views depend on. ``description``: of the teacher, ``sources.describe(...)``."""
    code = [
        keys.digest_of("pixels"),
        keys.digest_of("features", teacher=description["family"]),
        keys.digest_of("views"),
    ]
    return {
        "kind": "views",
        "teacher": description,
        "dataset": dataset.fingerprint,
        "dtype": dtype,
        "views": asdict(views),
        "code": code,
    }


def view_encoder(load: Callable, dtype: str, views: Views) -> Callable:
    """Make ``load_encoder`` for :func:`ensure`: ``view_pooled`` (count, T) of each image, the teacher's features.

    Each view is cut from the original image at the teacher's input size. The teacher encodes up to CHUNK views at a
    time, and a chunk has as many fewer images.
    """

    def load_encoder() -> Encoder:
        teacher = load()

        def prepare(image: Image.Image, name: str) -> Tensor:
            drawn = [views.draw(name, number) for number in range(views.count)]
            return teacher.prepare([view.of(image, teacher.image_size) for view in drawn])

        def encode(pixels: list[Tensor], texts) -> dict[str, np.ndarray]:
            parts = torch.cat(pixels).split(CHUNK)
            pooled = torch.cat([teacher.encode_pixels(part)["pooled"] for part in parts])
            return {"view_pooled": pooled.unflatten(0, (len(pixels), views.count)).numpy().astype(dtype)}

        facts = {"family": teacher.family, "source": teacher.source, "revision": teacher.revision}
        return Encoder(prepare, encode, facts, chunk=max(1, CHUNK // views.count))

    return load_encoder


def pixel_parts(dataset: Dataset, size: int) -> dict:
    """What the stored pixels of students that read pixels depend on."""
    return {"kind": "pixels", "dataset": dataset.fingerprint, "size": size, "code": keys.digest_of("pixels")}


def pixel_encoder(size: int) -> Encoder:
    """Decoded images: shorter side to ``size``, centre crop, uint8 (3, size, size).

    A JPEG may be decoded at a reduced size whose sides are at least twice ``size``.
    """
    return Encoder(
        prepare=lambda image, name: fitted(image, size),
        encode=lambda images, texts: {"pixels": np.stack(images)},
        facts={"size": size},
        least=2 * size,
    )


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """The centre square of an image, resampled (bicubic) to (3, size, size) uint8."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
