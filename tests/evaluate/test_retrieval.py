"""Retrieval against ranks counted one by one, simulated tie-breaking and batches, and chance."""

import math

import numpy as np
import pytest
import torch

from kdlib.evaluate import retrieval


def embeddings(images: int, captions: int, noise: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(images, 16))
    owner = np.repeat(np.arange(images), captions)
    read = seen[owner] + noise * rng.normal(size=(len(owner), 16))
    return torch.tensor(seen, dtype=torch.float32), torch.tensor(read, dtype=torch.float32), owner


def cosines(images: torch.Tensor, texts: torch.Tensor) -> np.ndarray:
    first, second = images.double().numpy(), texts.double().numpy()
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return first @ (second / np.linalg.norm(second, axis=1, keepdims=True)).T


def test_retrieval__by_hand():
    """Captions 0, 1 of image 0 and 2 of image 1; image 1 prefers caption 1, and caption 1 prefers image 1."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    rows = retrieval.credits(images, texts, np.array([0, 0, 1]))
    assert rows["i2t_r@1"].tolist() == [1, 0] and rows["i2t_rank"].tolist() == [1, 2]
    assert rows["t2i_r@1"].tolist() == [1, 0, 1] and rows["t2i_rank"].tolist() == [1, 2, 1]


def test_retrieval__ties_earn_what_random_tie_breaking_earns(monkeypatch):
    """Vectors of four signs: cosines are exact multiples of 1/2. 1,500 random orders of the tied."""
    monkeypatch.setattr(retrieval, "CHUNK", 7)
    rng = np.random.default_rng(0)
    images, texts = (torch.tensor(rng.choice([-1.0, 1.0], size=(n, 4)), dtype=torch.float32) for n in (24, 48))
    owner = np.repeat(np.arange(24), 2)
    similarity = np.round(cosines(images, texts), 3)
    rows = retrieval.credits(images, texts, owner)
    random_orders = {name: [] for name in ("i2t_r@1", "i2t_r@5", "t2i_r@1", "t2i_r@5", "i2t_rank", "t2i_rank")}
    for _ in range(1500):
        by_image = np.lexsort((rng.random(similarity.shape), -similarity), axis=1)
        right = owner[by_image] == np.arange(24)[:, None]
        by_text = np.lexsort((rng.random(similarity.T.shape), -similarity.T), axis=1)
        for way, found in (("i2t", right), ("t2i", by_text == owner[:, None])):
            rank = found.argmax(axis=1) + 1
            random_orders[f"{way}_rank"].append(rank.mean())
            for k in (1, 5):
                random_orders[f"{way}_r@{k}"].append((rank <= k).mean())
    for name, values in random_orders.items():
        assert np.std(values) > 0
        assert abs(np.mean(values) - rows[name].mean()) < 4 * np.std(values) / math.sqrt(1500), name


@pytest.mark.parametrize("width", [2, 3, 12, 64, 127, 256])
def test_retrieval__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    for images in (7, 13, 33, 97, retrieval.CHUNK + 1):
        for captions in (1, 3):
            owner, texts = np.repeat(np.arange(images), captions), images * captions
            rows = retrieval.credits(vector.repeat(images, 1), vector.repeat(texts, 1), owner)
            scores = {name: values.mean() for name, values in rows.items()}
            assert scores.get("in_batch@32", 0) == pytest.approx(0, abs=1e-12)  # where a tie is lost
            for k in (1, 5, 10):
                among = min(k, texts)
                chance = 1 - math.comb(texts - captions, among) / math.comb(texts, among)
                assert scores[f"i2t_r@{k}"] == pytest.approx(chance), f"{images} images, {captions} captions"
                assert scores[f"t2i_r@{k}"] == pytest.approx(min(k / images, 1)), f"{images} images"


@pytest.mark.parametrize("size", [32, 64])
def test_in_batch__is_what_random_batches_with_one_caption_an_image_give(size):
    """Captions in any order: an image's first one is its match."""
    images, texts, owner = embeddings(150, 2, 3.0)
    order = np.random.default_rng(2).permutation(300)
    texts, owner = texts[order], owner[order]
    first = [owner.tolist().index(image) for image in range(150)]
    similarity = cosines(images, texts)[:, first]
    rng, shares = np.random.default_rng(0), []
    for _ in range(400):
        rows = rng.permutation(150)[:size]
        shares.append((similarity[np.ix_(rows, rows)].argmax(axis=1) == np.arange(size)).mean())
    got = retrieval.credits(images, texts, owner)[f"in_batch@{size}"].mean()
    assert abs(np.mean(shares) - got) < 4 * np.std(shares) / 20
    assert 0.1 < got < 0.9
    with pytest.raises(ValueError, match="1 of 150 images have no caption, as image 3"):
        retrieval.credits(images, texts[owner != 3], owner[owner != 3])
