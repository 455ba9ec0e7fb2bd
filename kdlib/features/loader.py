"""Batches from the stores: a permutation of (seed, epoch), one caption an image, all as tensors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.features.npy import StoreError
from kdlib.features.store import FeatureStore
from kdlib.seeding import generator


@dataclass(frozen=True)
class Split:
    """What is known of one split: the teacher's store, the pixels if a student reads them, and the labels.

    ``labels`` (N,) for classification, ``relevant`` (N, K) booleans where images have categories. ``name`` is
    fit, dev or test.
    """

    name: str
    store: FeatureStore
    pixels: FeatureStore | None = None
    labels: np.ndarray | None = None
    relevant: np.ndarray | None = None

    def __post_init__(self):
        if self.pixels is not None and self.pixels.ids != self.store.ids:
            raise StoreError(
                f"The teacher's store and the pixel store of '{self.name}' hold different images. Delete both "
                f"({self.store.path}, {self.pixels.path}); the next run builds them again."
            )

    def __len__(self) -> int:
        return len(self.store)

    @property
    def has_text(self) -> bool:
        """Whether there are captions that the teacher has read."""
        return "text_pooled" in self.store

    @property
    def captions(self) -> np.ndarray:
        """(N + 1,) offsets: the texts of image i are captions[i] to captions[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.store["caption_count"])])

    @property
    def owner(self) -> np.ndarray:
        """(texts,) the image that each text belongs to."""
        return np.repeat(np.arange(len(self)), self.store["caption_count"])

    @property
    def has_prompts(self) -> bool:
        """Whether there are prompts for zero-shot scores."""
        return "prompt_pooled" in self.store

    @property
    def teacher_scale(self) -> float:
        """What turns the teacher's cosines into logits."""
        return self.store.manifest["facts"]["logit_scale"]


class Reader:
    """Reads rows of a split as a batch: a dict of float32 tensors.

    ``image`` (B, T), ``image_attention`` (B, N); ``image_tokens`` (B, N, T) and ``pixels`` (B, 3, S, S, in
    [0, 1]) where the student reads them; for texts ``text``, ``text_tokens``, ``text_attention``, ``text_mask``, and
    ``text_ids`` (B, L) int64, 0 where there is none. ``reads`` and ``text_reads`` are the student's; ``attention``:
    the teacher's map of the image, also for a student that reads no tokens.
    """

    def __init__(self, split: Split, reads: str, text_reads: str = "", attention: bool = False):
        self.split, self.reads, self.attention = split, reads, attention
        self.text_reads = text_reads or ("tokens" if reads == "tokens" else "features")
        # The tokens of text j are offsets[j] to offsets[j + 1].
        self.offsets = {
            kind: np.concatenate([[0], np.cumsum(split.store[f"{kind}_length"], dtype=np.int64)])
            for kind in ("text", "prompt")
            if f"{kind}_length" in split.store
        }

    def images(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The image side of ``rows`` (B,)."""
        store = self.split.store
        batch = {"image": _tensor(store["image_pooled"], rows)}
        if self.reads == "tokens":
            batch["image_tokens"] = _tensor(store["image_tokens"], rows)
            batch["image_attention"] = _tensor(store["image_attention"], rows)
        elif self.reads == "pixels":
            pixels = torch.from_numpy(self.split.pixels["pixels"][rows])
            batch["pixels"] = pixels.to(torch.float32, memory_format=torch.channels_last) / 255
        if self.attention and "image_attention" not in batch:
            batch["image_attention"] = _tensor(store["image_attention"], rows)
        return batch

    def texts(self, rows: np.ndarray, kind: str = "text") -> dict[str, Tensor]:
        """``kind``: 'text' for the captions, 'prompt' for the zero-shot prompts."""
        store = self.split.store
        batch = {"text": _tensor(store[f"{kind}_pooled"], rows)}
        if self.text_reads == "features":
            return batch
        starts, ends = self.offsets[kind][rows], self.offsets[kind][rows + 1]
        longest = int((ends - starts).max())
        places = np.arange(longest)[None] + starts[:, None]  # (B, L)
        mask = places < ends[:, None]
        places = np.where(mask, places, 0)
        batch["text_mask"] = torch.from_numpy(mask)
        if self.text_reads == "ids":
            batch["text_ids"] = torch.from_numpy(store[f"{kind}_ids"][places].astype(np.int64)) * batch["text_mask"]
            return batch
        batch["text_tokens"] = _tensor(store[f"{kind}_tokens"], places) * batch["text_mask"][..., None]
        batch["text_attention"] = _tensor(store[f"{kind}_attention"], places) * batch["text_mask"]
        return batch


def _tensor(array: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(array[rows]).float()


class TrainLoader:
    """``for batch in loader.epoch(3)``: the rows in an order drawn from (seed, epoch), a caption each.

    An incomplete last batch is left out (each epoch leaves out others), unless it would be the only one.

    ``anchors``: so many stored features of the teacher with each batch, ``image_anchors`` (A, T) and, with captions,
    ``text_anchors``. ``crop`` and ``flip``: pixels are cropped and mirrored at random, with the whole image's target.
    All draws are functions of the seed, the epoch and the step.
    """

    def __init__(
        self,
        split: Split,
        reads: str,
        batch_size: int,
        seed: int,
        limit: int = 0,
        *,
        text_reads: str = "",
        attention: bool = False,
        anchors: int = 0,
        crop: float = 1.0,
        flip: bool = False,
    ):
        self.reader, self.split, self.seed = Reader(split, reads, text_reads, attention), split, seed
        self.anchors, self.crop, self.flip = anchors, crop, flip
        self.rows = np.arange(len(split))
        if limit and limit < len(split):
            order = torch.randperm(len(split), generator=generator(seed, "limit"))
            self.rows = np.sort(order[:limit].numpy())
        if len(self.rows) < 2:
            raise ValueError(f"{len(self.rows)} training images; a loss over pairs needs at least 2.")
        self.batch_size = min(batch_size, len(self.rows))

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.rows) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """The batches of one epoch, the same whenever it is asked for; epochs count from 1."""
        order = torch.randperm(len(self.rows), generator=generator(self.seed, "order", epoch)).numpy()
        captions = self._captions(epoch)
        for step in range(len(self)):
            rows = self.rows[order[step * self.batch_size : (step + 1) * self.batch_size]]
            batch = self.reader.images(rows) | {"row": torch.from_numpy(rows)}
            if self.split.labels is not None:
                batch["label"] = torch.from_numpy(self.split.labels[rows])
            if captions is not None:
                batch |= self.reader.texts(captions[rows])
            if self.anchors:
                batch |= self._anchors(epoch, step)
            if "pixels" in batch and (self.crop < 1 or self.flip):
                drawn = generator(self.seed, "crop", epoch, step)
                batch["pixels"] = cropped(batch["pixels"], self.crop, self.flip, drawn)
            yield batch

    def _anchors(self, epoch: int, step: int) -> dict[str, Tensor]:
        """The teacher's features of training images and of their captions, drawn with replacement."""
        drawn, anchors = generator(self.seed, "anchors", epoch, step), {}
        rows = self.rows[torch.randint(len(self.rows), (self.anchors,), generator=drawn).numpy()]
        anchors["image_anchors"] = _tensor(self.split.store["image_pooled"], rows)
        if self.split.has_text:
            texts = torch.randint(len(self.split.store["text_pooled"]), (self.anchors,), generator=drawn).numpy()
            anchors["text_anchors"] = _tensor(self.split.store["text_pooled"], texts)
        return anchors

    def _captions(self, epoch: int) -> np.ndarray | None:
        """One text of every image, drawn anew each epoch."""
        if not self.split.has_text:
            return None
        offsets = self.split.captions
        draw = torch.rand(len(self.split), generator=generator(self.seed, "caption", epoch)).numpy()
        return offsets[:-1] + (draw * np.diff(offsets)).astype(np.int64)


def cropped(pixels: Tensor, least: float, flip: bool, drawn: torch.Generator) -> Tensor:
    """A random part of each image, (B, 3, S, S) again: ``least`` to 1 of its area, sides in proportion; bilinear."""
    size = len(pixels)
    side = (least + (1 - least) * torch.rand(size, generator=drawn)).sqrt()  # of the image's side
    middle = (1 - side)[:, None] * (2 * torch.rand(size, 2, generator=drawn) - 1)  # in [-1, 1], where -1 is an edge
    mirrored = 1 - 2 * (torch.rand(size, generator=drawn) < 0.5).float() if flip else torch.ones(size)
    zero = torch.zeros(size)
    rows = [torch.stack([side * mirrored, zero, middle[:, 0]], 1), torch.stack([zero, side, middle[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    seen = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return seen.contiguous(memory_format=torch.channels_last)


def means(store: FeatureStore, chunk: int = 8192) -> dict[str, Tensor]:
    """Mean of the teacher's pooled features a side, (T,) float32; summed in float64."""
    found = {}
    for side in ("image", "text"):
        if f"{side}_pooled" in store:
            features = store[f"{side}_pooled"]
            starts = range(0, len(features), chunk)
            total = sum(features[start : start + chunk].sum(axis=0, dtype=np.float64) for start in starts)
            found[side] = torch.from_numpy(total / len(features)).float()
    return found
