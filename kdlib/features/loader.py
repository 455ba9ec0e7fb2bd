"""Training batches from the stores: images in an order drawn from (seed, epoch), one caption an image, as tensors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kdlib.features.ahead import ahead
from kdlib.features.npy import StoreError, mean_row
from kdlib.features.stacked import Stacked
from kdlib.features.store import FeatureStore
from kdlib.features.views import Views, pixels_of
from kdlib.features.vocabulary import Vocabulary, shuffled_words
from kdlib.seeding import generator

HELD_BYTES = 2**28  # pooled features up to this size are kept in the memory of the CPU or GPU
NO_LABEL = -1  # of an extra image whose class is not known


@dataclass(frozen=True)
class Split:
    """One split as stores: the teacher's features, the pixels if a student reads them, and the labels.

    ``labels`` (N,) for classification; ``relevant`` (N, K) booleans where images have categories. ``name`` is
    fit, dev, test or extra. For training on views: ``source``, the pixels that views are cut from, and ``views``, the
    teacher's features of the views. ``vocabulary``: of a student with a text side of its own. N: images of the split.
    """

    name: str
    store: FeatureStore | Stacked
    pixels: FeatureStore | Stacked | None = None
    labels: np.ndarray | None = None
    relevant: np.ndarray | None = None
    source: FeatureStore | Stacked | None = None
    views: FeatureStore | Stacked | None = None
    vocabulary: Vocabulary | None = None

    def __post_init__(self):
        for other in (self.pixels, self.source, self.views):
            if other is not None and other.ids != self.store.ids:
                raise StoreError(
                    f"Two stores of '{self.name}' hold different images. Delete both, {self.store.path}, {other.path}; "
                    "the next run builds them again."
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
        """The factor that turns the teacher's cosines into logits."""
        return self.store.manifest["facts"]["logit_scale"]

    @property
    def of_teacher(self) -> list[FeatureStore]:
        """The stores that the teacher computed: its features of the images, and of their views."""
        return [store for store in (self.store, self.views) if store is not None]

    @property
    def decoded(self) -> list[FeatureStore]:
        """The stores of decoded images: those that a student reads, and those that views are cut from."""
        found = {store.path: store for store in (self.pixels, self.source) if store is not None}
        return list(found.values())


def joined(fit: Split, extra: Split | None) -> Split:
    """The training data: the rows of fit, then those of the extra images. A label that is not known is NO_LABEL."""
    if extra is None:
        return fit

    def below(name: str) -> Stacked | None:
        first, second = getattr(fit, name), getattr(extra, name)
        return None if first is None else Stacked(first, second)

    labels = fit.labels
    if labels is not None:
        own = np.full(len(extra), NO_LABEL) if extra.labels is None else extra.labels
        labels = np.concatenate([labels, own])
    stores = {name: below(name) for name in ("store", "pixels", "source", "views")}
    return Split("fit", **stores, labels=labels, vocabulary=fit.vocabulary)


def with_shuffled_words(split: Split, seed: int = 0) -> Split:
    """The same split with the words of each caption in another order, for students that read ids.

    See :func:`~kdlib.features.vocabulary.shuffled_words`.
    """
    ids, words = np.asarray(split.store["text_ids"]), np.asarray(split.store["text_words"])
    ends = np.cumsum(split.store["text_length"], dtype=np.int64)[:-1]
    texts = enumerate(zip(np.split(ids, ends), np.split(words, ends), strict=True))
    mixed = np.concatenate([shuffled_words(*text, seed, number) for number, text in texts])
    return replace(split, store=Stacked(split.store, given={"text_ids": mixed}))


class Reader:
    """Reads rows of a split as a batch: a dict of float32 tensors.

    ``image`` (B, T), ``image_attention`` (B, N); ``image_tokens`` (B, N, T) and ``pixels`` (B, 3, S, S, in
    [0, 1]) where the student reads them; for texts ``text``, ``text_tokens``, ``text_attention``, ``text_mask``, and
    ``text_ids`` (B, L) int64, 0 for padding. ``reads`` and ``text_reads`` are the student's. ``attention``: read the
    teacher's attention map of the image also for a student that reads no tokens. ``views``: how the views that
    :meth:`images` returns are drawn. ``device``: where small arrays of pooled features are kept, and their rows.
    """

    def __init__(
        self,
        split: Split,
        reads: str,
        text_reads: str = "",
        attention: bool = False,
        views: Views | None = None,
        device: torch.device | None = None,
    ):
        self.split, self.reads, self.attention, self.views = split, reads, attention, views
        self.held = _held(split, device) if device is not None else {}
        self.text_reads = text_reads or ("tokens" if reads == "tokens" else "features")
        # The tokens of text j are offsets[j] to offsets[j + 1].
        self.offsets = {
            kind: np.concatenate([[0], np.cumsum(split.store[f"{kind}_length"], dtype=np.int64)])
            for kind in ("text", "prompt")
            if f"{kind}_length" in split.store
        }

    def images(self, rows: np.ndarray, view: int | None = None) -> dict[str, Tensor]:
        """The batch of the images ``rows`` (B,); with ``view``, of the view of that number of each image."""
        split, store = self.split, self.split.store
        batch = {}
        if view is not None and split.views is not None:
            batch["image"] = self._features("view_pooled", split.views, rows, view)
        else:
            batch["image"] = self._features("image_pooled", store, rows)
        if self.reads == "tokens":
            batch["image_tokens"] = _tensor(store["image_tokens"], rows)
        elif self.reads == "pixels":
            if view is None:
                pixels = split.pixels["pixels"][rows]
            else:
                names, size = [store.ids[row] for row in rows], split.pixels["pixels"].shape[-1]
                pixels = pixels_of(self.views, split.source["pixels"][rows], names, view, size)
            pixels = torch.from_numpy(pixels)
            batch["pixels"] = pixels.to(torch.float32, memory_format=torch.channels_last) / 255
        if self.attention or self.reads == "tokens":
            batch["image_attention"] = _tensor(store["image_attention"], rows)
        return batch

    def _features(self, name: str, store: FeatureStore | Stacked, rows: np.ndarray, *column: int) -> Tensor:
        """Rows of an array of pooled features as float32, from memory where they are kept there, else from the disk."""
        if name not in self.held:
            return torch.from_numpy(store[name][(rows, *column)]).float()
        held = self.held[name]
        return held[(torch.from_numpy(rows).to(held.device, non_blocking=True), *column)].float()

    def texts(self, rows: np.ndarray, kind: str = "text") -> dict[str, Tensor]:
        """The batch of the texts ``rows`` (B,). ``kind``: 'text' for captions, 'prompt' for the zero-shot prompts."""
        store = self.split.store
        batch = {"text": self._features(f"{kind}_pooled", store, rows)}
        if self.text_reads == "features":
            return batch
        starts, ends = self.offsets[kind][rows], self.offsets[kind][rows + 1]
        longest = int((ends - starts).max())
        places = np.arange(longest)[None] + starts[:, None]  # (B, L)
        mask = places < ends[:, None]
        places = np.where(mask, places, 0)
        batch["text_mask"] = torch.from_numpy(mask)
        if self.text_reads == "ids":
            ids = self.split.vocabulary.ids(store[f"{kind}_ids"][places])
            batch["text_ids"] = torch.from_numpy(ids) * batch["text_mask"]
            return batch
        batch["text_tokens"] = _tensor(store[f"{kind}_tokens"], places) * batch["text_mask"][..., None]
        batch["text_attention"] = _tensor(store[f"{kind}_attention"], places) * batch["text_mask"]
        return batch


def _tensor(array: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(array[rows]).float()


def _held(split: Split, device: torch.device) -> dict[str, Tensor]:
    """Arrays of pooled features of up to HELD_BYTES as tensors on ``device``: reading rows from the disk is slow."""
    names = {"image_pooled": split.store, "text_pooled": split.store, "view_pooled": split.views}
    arrays = {name: store[name] for name, store in names.items() if store is not None and name in store}
    held = {name: np.array(array) for name, array in arrays.items() if array.nbytes <= HELD_BYTES}
    on_device = {name: torch.from_numpy(array).to(device) for name, array in held.items()}
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # once: other streams read them
    return on_device


class TrainLoader:
    """``for batch in loader.epoch(3)``: the rows in an order drawn from (seed, epoch), a caption each.

    An incomplete last batch is left out (other images in each epoch), unless it would be the only one.

    ``anchors``: how many stored features of the teacher come with each batch, ``image_anchors`` (A, T) and, with
    captions, ``text_anchors``. ``views``: ``pixels`` are those of a view, and ``image`` is the teacher's feature of
    that view where the split has it. All draws are functions of the seed, the epoch and the step. On a GPU, and with
    views, batches are prefetched.

    An image without captions gets a caption of another image. Losses that compare each side with the teacher's can use
    it; losses over image-text pairs cannot, and :func:`kdlib.sources.training_split` refuses them.
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
        views: Views | None = None,
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.reader = Reader(split, reads, text_reads, attention, views, self.device)
        self.split, self.seed, self.anchors, self.views = split, seed, anchors, views
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
        view = self.views.number(epoch) if self.views else None

        def make(step: int) -> dict[str, Tensor]:
            rows = self.rows[order[step * self.batch_size : (step + 1) * self.batch_size]]
            batch = self.reader.images(rows, view) | {"row": torch.from_numpy(rows)}
            if self.split.labels is not None:
                batch["label"] = torch.from_numpy(self.split.labels[rows])
            if captions is not None:
                batch |= self.reader.texts(captions[rows])
            return batch | (self._anchors(epoch, step) if self.anchors else {})

        if self.views or self.device.type == "cuda":
            return ahead(make, len(self), self.device)
        return map(make, range(len(self)))

    def _anchors(self, epoch: int, step: int) -> dict[str, Tensor]:
        """The teacher's features of training images, and of the split's captions, drawn with replacement.

        ``limit`` holds for the images alone: no anchor is paired with an image, so captions of all images may be drawn.
        """
        drawn, anchors, store = generator(self.seed, "anchors", epoch, step), {}, self.split.store
        rows = self.rows[torch.randint(len(self.rows), (self.anchors,), generator=drawn).numpy()]
        anchors["image_anchors"] = self.reader._features("image_pooled", store, rows)
        if self.split.has_text:
            texts = torch.randint(len(store["text_pooled"]), (self.anchors,), generator=drawn).numpy()
            anchors["text_anchors"] = self.reader._features("text_pooled", store, texts)
        return anchors

    def _captions(self, epoch: int) -> np.ndarray | None:
        """(N,) the row of one text of every image, drawn anew each epoch; None without captions."""
        if not self.split.has_text:
            return None
        offsets, counts = self.split.captions, np.diff(self.split.captions)
        draw = torch.rand(len(self.split), generator=generator(self.seed, "caption", epoch)).numpy()
        own = offsets[:-1] + (draw * counts).astype(np.int64)
        return np.where(counts > 0, own, (draw * offsets[-1]).astype(np.int64))


def means(store: FeatureStore) -> dict[str, Tensor]:
    """{side: (T,) float32 mean of the teacher's pooled features}; computed here for stores that do not record it."""
    found = {}
    for side in ("image", "text"):
        if f"{side}_pooled" in store:
            known = store.manifest["facts"].get(f"{side}_mean")
            mean = mean_row(store[f"{side}_pooled"]) if known is None else np.array(known)
            found[side] = torch.from_numpy(mean).float()
    return found
