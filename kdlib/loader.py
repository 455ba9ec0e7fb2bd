"""Training batches from features: images in an order drawn from (seed, epoch), one caption an image, made ahead."""

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdlib.config import RunConfig
from kdlib.data.base import Dataset
from kdlib.features import Features, ahead, pixels, teacher_features
from kdlib.machine import choose
from kdlib.utils import derive, generator


@dataclass(frozen=True)
class Vocabulary:
    """A student's ids of tokens: 0 is padding, 1 any unknown one, 2 + i the teacher's token ``tokens[i]``."""

    tokens: np.ndarray  # (V,) those of the training texts, the most frequent first, of equal counts the lower id

    @classmethod
    def of(cls, ids: np.ndarray) -> "Vocabulary":
        counts = np.bincount(ids)
        return cls(np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)])

    @property
    def size(self) -> int:
        return len(self.tokens) + 2

    def ids(self, of_teacher: np.ndarray) -> np.ndarray:
        """Ids of the teacher's tokenizer -> ids of a student, int64, of the same shape."""
        table = np.ones(int(self.tokens.max()) + 2, dtype=np.int64)  # its last entry: above all that occur
        table[self.tokens] = np.arange(2, self.size)
        return table[np.minimum(of_teacher, len(table) - 1)]


@dataclass(frozen=True)
class Split:
    """The teacher's features of N images, the pixels where a student reads them, and labels or categories."""

    features: Features
    pixels: Features | None = None
    labels: np.ndarray | None = None  # (N,)
    relevant: np.ndarray | None = None  # (N, K) booleans: image i shows category k
    source: Features | None = None  # the pixels that random crops are cut from
    vocabulary: Vocabulary | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def has_text(self) -> bool:
        return "text_pooled" in self.features

    @property
    def captions(self) -> np.ndarray:
        """(N + 1,) offsets: the texts of image i are captions[i] to captions[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.features["caption_count"])])

    @property
    def owner(self) -> np.ndarray:
        """(texts,) the image that each text belongs to."""
        return np.repeat(np.arange(len(self)), self.features["caption_count"])

    @property
    def teacher_scale(self) -> float:  # from the teacher's cosines to its logits
        return self.features.facts["logit_scale"]


def open_splits(config: RunConfig, data: dict[str, Dataset], reads: str) -> dict[str, Split]:
    """All splits of a run with their features, built where they are missing. With 'train', 'fit' is its head."""
    trained, splits = "train" if "train" in data else "fit", {}
    for name, dataset in data.items():
        whole = data[trained] if name == "fit" else dataset
        features = teacher_features(config, whole, reads == "tokens").head(len(dataset))
        images = pixels(config, whole, config.image_size).head(len(dataset)) if reads == "pixels" else None
        labels = None if dataset.labels is None else dataset.labels[features.rows]
        shown = [[kind in own for kind in range(len(dataset.category_names))] for own in dataset.categories or ()]
        relevant = np.array(shown, dtype=bool)[features.rows] if shown else None
        splits[name] = Split(features, images, labels, relevant)
    if crops(config, reads):  # the smallest crop still has image_size pixels a side
        source = pixels(config, data[trained], math.ceil(config.image_size / config.crop**0.5))
        splits[trained] = replace(splits[trained], source=source)
    if "text_ids" in splits[trained].features:
        vocabulary = Vocabulary.of(splits[trained].features["text_ids"])
        splits = {name: replace(split, vocabulary=vocabulary) for name, split in splits.items()}
    return splits


def crops(config: RunConfig, reads: str) -> bool:
    """Whether training images are cropped or mirrored; the teacher's target is its feature of the whole image."""
    return reads == "pixels" and (config.crop < 1 or config.flip)


def check(split: Split, losses: set[str], config: RunConfig, reads: str) -> None:
    """Raise ValueError for losses that cannot be computed on these training images."""
    extra, paired = config.extra_images, sorted(losses & {"contrastive", "combined", "teacher_contrastive"})
    if paired and split.has_text and not split.features["caption_count"].all():
        raise ValueError(f"Images of {extra} have no captions; {', '.join(paired)} takes pairs. Add a captions.json.")
    if "labels" in losses and (split.labels < 0).any():
        raise ValueError(f"Images of {extra} have no labels, which the objective needs: leave them out.")
    if "attention_transfer" in losses and crops(config, reads):
        raise ValueError("attention_transfer has the teacher's map of whole images. Set crop to 1 and flip to false.")


def with_shuffled_words(split: Split, seed: int = 0) -> Split:
    """The words of each caption in another order: the tokens of a word stay together, and a text's ends in place."""
    ids, words = np.array(split.features["text_ids"]), split.features["text_words"]
    ends = np.cumsum(split.features["text_length"], dtype=np.int64).tolist()
    for text, (start, end) in enumerate(itertools.pairwise([0, *ends])):
        spelled = start + np.flatnonzero(words[start:end] >= 0)
        own = words[spelled]
        order = np.random.default_rng(derive(seed, "shuffled words", text)).permutation(np.unique(own))
        ids[spelled] = ids[[place for word in order for place in spelled[own == word]]]
    return replace(split, features=replace(split.features, arrays=split.features.arrays | {"text_ids": ids}))


class Reader:
    """Reads rows of a split as a batch, float32: ``image`` (B, T) and ``text`` (B, T), and what the student reads.

    ``pixels`` (B, 3, S, S) in [0, 1], ``image_tokens`` (B, N, T), ``image_attention`` (B, N), ``text_mask`` (B, L),
    ``text_ids``, ``text_tokens``, ``text_attention``.
    """

    def __init__(self, split: Split, reads: str, text_reads: str = "", attention: bool = False):
        self.split, self.reads, self.attention = split, reads, attention or reads == "tokens"
        self.text_reads = text_reads or ("tokens" if reads == "tokens" else "features")
        kinds = [kind for kind in ("text", "prompt") if f"{kind}_length" in split.features]
        # The tokens of text j are offsets[j] to offsets[j + 1].
        self.offsets = {kind: np.cumsum([0, *split.features[f"{kind}_length"]], dtype=np.int64) for kind in kinds}

    def rows(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.split.features[name][rows]).float()

    def images(self, rows: np.ndarray, cropped: np.ndarray | None = None) -> dict[str, Tensor]:
        """The batch of the images ``rows`` (B,); ``cropped`` pixels take the place of the whole images'."""
        batch = {"image": self.rows("image_pooled", rows)}
        if self.reads == "tokens":
            batch["image_tokens"] = self.rows("image_tokens", rows)
        elif self.reads == "pixels":
            seen = torch.from_numpy(self.split.pixels["pixels"][rows] if cropped is None else cropped)
            batch["pixels"] = seen.to(torch.float32, memory_format=torch.channels_last) / 255
        return batch | ({"image_attention": self.rows("image_attention", rows)} if self.attention else {})

    def texts(self, rows: np.ndarray, kind: str = "text") -> dict[str, Tensor]:
        """The batch of the texts ``rows`` (B,). ``kind``: 'text' for captions, 'prompt' for those of categories."""
        batch = {"text": self.rows(f"{kind}_pooled", rows)}
        if self.text_reads == "features":
            return batch
        starts, ends = self.offsets[kind][rows, None], self.offsets[kind][rows + 1, None]
        places = starts + np.arange((ends - starts).max())  # (B, L)
        places, mask = np.where(places < ends, places, 0), torch.from_numpy(places < ends)
        batch["text_mask"] = mask
        if self.text_reads == "ids":
            ids = self.split.vocabulary.ids(self.split.features[f"{kind}_ids"][places])
            return batch | {"text_ids": torch.from_numpy(ids) * mask}
        batch["text_tokens"] = self.rows(f"{kind}_tokens", places) * mask[..., None]
        return batch | {"text_attention": self.rows(f"{kind}_attention", places) * mask}


class TrainLoader:
    """``for batch in loader.epoch(3)``: batches as :class:`Reader`'s with ``row`` and ``label``, a caption an image.

    An incomplete last batch is left out, unless it is the only one. ``anchors``: how many features of the teacher come
    with each batch, ``image_anchors`` and ``text_anchors`` (A, T). An image without captions gets another image's.
    """

    def __init__(self, split: Split, config: RunConfig, reads: str, text_reads="", attention=False, anchors: int = 0):
        if len(split) < 2:
            raise ValueError(f"{len(split)} training images; a loss over pairs needs at least 2.")
        self.split, self.config, self.anchors = split, config, anchors
        self.reader = Reader(split, reads, text_reads, attention)
        self.crops, self.batch_size = crops(config, reads), min(config.batch_size, len(split))

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.split) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """The batches of one epoch, counted from 1: a function of the seed and the epoch, whatever the threads."""
        split, seed, size, captions = self.split, self.config.seed, self.batch_size, None
        order = torch.randperm(len(split), generator=generator(seed, "order", epoch)).numpy()
        if split.has_text:
            offsets, counts = split.captions, split.features["caption_count"]
            draw = torch.rand(len(split), generator=generator(seed, "caption", epoch)).numpy()
            own = offsets[:-1] + (draw * counts).astype(np.int64)
            captions = np.where(counts > 0, own, (draw * offsets[-1]).astype(np.int64))  # (N,) a text for each image
        pinned = choose(self.config.device).type == "cuda"  # the copy to a GPU then overlaps with its work

        def make(step: int) -> dict[str, Tensor]:
            rows = order[step * size : (step + 1) * size]
            batch = self.reader.images(rows, self._cropped(rows, epoch) if self.crops else None)
            batch["row"] = torch.from_numpy(rows)
            if split.labels is not None:
                batch["label"] = torch.from_numpy(split.labels[rows])
            if captions is not None:
                batch |= self.reader.texts(captions[rows])
            draw = generator(seed, "anchors", epoch, step) if self.anchors else None
            for side in ("image", "text") if self.anchors else ():
                if (name := f"{side}_pooled") in split.features:
                    rows = torch.randint(len(split.features[name]), (self.anchors,), generator=draw).numpy()
                    batch[f"{side}_anchors"] = self.reader.rows(name, rows)
            return {name: value.pin_memory() for name, value in batch.items()} if pinned else batch

        return (ahead if self.crops or pinned else map)(make, range(len(self)))

    def _cropped(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """(B, 3, size, size) uint8: a square of each image, of area even in [crop, 1], drawn from (seed, epoch, id)."""
        size, source, made = self.config.image_size, self.split.source["pixels"][rows], []
        for whole, row in zip(source, rows, strict=True):
            # From a digest: the same on every machine and with every version of numpy.
            name = f"{self.config.seed}/{epoch}/{self.split.features.ids[row]}"
            words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
            area, x, y, mirror, *_ = (words / 2**32).tolist()
            side = (self.config.crop + (1 - self.config.crop) * area) ** 0.5
            left, top = x * (1 - side), y * (1 - side)
            box = [length * len(whole[0]) for length in (left, top, left + side, top + side)]
            image = Image.fromarray(np.ascontiguousarray(whole.transpose(1, 2, 0)))
            image = image.resize((size, size), Image.Resampling.BICUBIC, box)
            made.append(np.asarray(image)[:, :: -1 if self.config.flip and mirror < 0.5 else 1].transpose(2, 0, 1))
        return np.stack(made)
