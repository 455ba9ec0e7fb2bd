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
    scores = retrieval.evaluate(images, texts, np.array([0, 0, 1]))
    assert scores["mean_recall"] == pytest.approx((0.5 + 1 + 1 + 2 / 3 + 1 + 1) / 6)
    assert scores["i2t_median_rank"] == 1.5 and scores["t2i_median_rank"] == 1


def test_retrieval__ranks_are_those_of_a_sort():
    images, texts, owner = embeddings(50, 3, 2.5)
    rows, similarity = retrieval.credits(images, texts, owner), cosines(images, texts)
    for image, row in enumerate(similarity):
        order = np.argsort(-row).tolist()
        assert rows["i2t_rank"][image] == 1 + min(order.index(caption) for caption in np.flatnonzero(owner == image))
    for caption, column in enumerate(similarity.T):
        assert rows["t2i_rank"][caption] == 1 + np.argsort(-column).tolist().index(owner[caption])
    scores = retrieval.evaluate(images, texts, owner)
    assert scores["t2i_median_rank"] == np.median(rows["t2i_rank"]) > 1


def test_retrieval__ties_earn_what_random_tie_breaking_earns():
    """Vectors of four signs: cosines are exact multiples of 1/2. 1,500 random orders of the tied."""
    rng = np.random.default_rng(0)
    images, texts = (torch.tensor(rng.choice([-1.0, 1.0], size=(n, 4)), dtype=torch.float32) for n in (24, 48))
    owner = np.repeat(np.arange(24), 2)
    similarity = np.round(cosines(images, texts), 3)
    rows = retrieval.credits(images, texts, owner)
    drawn = {name: [] for name in ("i2t_r@1", "i2t_r@5", "t2i_r@1", "t2i_r@5", "i2t_rank", "t2i_rank")}
    for _ in range(1500):
        by_image = np.lexsort((rng.random(similarity.shape), -similarity), axis=1)
        right = owner[by_image] == np.arange(24)[:, None]
        by_text = np.lexsort((rng.random(similarity.T.shape), -similarity.T), axis=1)
        for way, found in (("i2t", right), ("t2i", by_text == owner[:, None])):
            rank = found.argmax(axis=1) + 1
            drawn[f"{way}_rank"].append(rank.mean())
            for k in (1, 5):
                drawn[f"{way}_r@{k}"].append((rank <= k).mean())
    for name, values in drawn.items():
        assert np.std(values) > 0
        assert abs(np.mean(values) - rows[name].mean()) < 4 * np.std(values) / math.sqrt(1500), name


@pytest.mark.parametrize("width", [2, 3, 5, 12, 64, 127, 256])
def test_retrieval__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width):
    """The matrix product's last columns take another path than the rest: equal rows need not give equal bits."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    for images in (7, 13, 33, 97, retrieval.CHUNK + 1):
        for captions in (1, 3):
            owner, texts = np.repeat(np.arange(images), captions), images * captions
            scores = retrieval.evaluate(vector.repeat(images, 1), vector.repeat(texts, 1), owner)
            for k in (1, 5, 10):
                among = min(k, texts)
                chance = 1 - math.comb(texts - captions, among) / math.comb(texts, among)
                assert scores[f"i2t_r@{k}"] == pytest.approx(chance), f"{images} images, {captions} captions"
                assert scores[f"t2i_r@{k}"] == pytest.approx(min(k / images, 1)), f"{images} images"


@pytest.mark.parametrize("width", [3, 12, 64, 127])
def test_retrieval__order_changes_nothing_where_many_are_equal(width):
    generator = torch.Generator().manual_seed(width)
    source = torch.randn(60, width, generator=generator)
    images = source[torch.randint(0, 60, (257,), generator=generator)]
    texts, owner = source[torch.randint(0, 60, (514,), generator=generator)], np.repeat(np.arange(257), 2)
    whole = retrieval.credits(images, texts, owner)
    order = np.random.default_rng(0).permutation(514)
    shuffled = retrieval.credits(images, texts[order], owner[order])
    for name in ("i2t_r@1", "i2t_r@5", "i2t_rank"):
        assert shuffled[name] == pytest.approx(whole[name], abs=1e-9)
    for name in ("t2i_r@1", "t2i_r@5", "t2i_rank"):
        assert shuffled[name] == pytest.approx(whole[name][order], abs=1e-9)


def test_retrieval__the_order_of_the_images_changes_nothing():
    images, texts, owner = embeddings(70, 2, 2.0)
    order = np.random.default_rng(1).permutation(70)
    moved = retrieval.evaluate(images[order], texts, np.argsort(order)[owner])
    assert moved == pytest.approx(retrieval.evaluate(images, texts, owner))


def test_retrieval__shuffled_pairs_score_chance():
    """Perfect embeddings, captions dealt to the wrong images: the mean over deals is chance, 3 sigma."""
    images, _, _ = embeddings(100, 1, 0.0)
    deals = [
        retrieval.evaluate(images, images, np.random.default_rng(seed).permutation(100))["t2i_r@1"]
        for seed in range(60)
    ]
    assert abs(np.mean(deals) - 1 / 100) < 3 * math.sqrt(1 / 60) / 100  # a fixed point a deal, variance 1
    assert retrieval.evaluate(images, images, np.arange(100))["t2i_r@1"] == 1


def test_retrieval__a_random_encoder_scores_chance_from_image_to_text():
    rng = np.random.default_rng(11)
    owner = np.repeat(np.arange(400), 5)
    images, texts = torch.tensor(rng.normal(size=(400, 64))), torch.tensor(rng.normal(size=(2000, 64)))
    scores = retrieval.evaluate(images, texts, owner)
    for k in (1, 5, 10):
        chance = 1 - math.comb(1995, k) / math.comb(2000, k)
        assert abs(scores[f"i2t_r@{k}"] - chance) < 3 * math.sqrt(chance * (1 - chance) / 400)


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


def test_in_batch__leaves_out_batches_larger_than_the_set():
    assert set(retrieval.in_batch(torch.randn(63, 4), torch.randn(63, 4))) == {"in_batch@32"}


@pytest.mark.parametrize("width", [3, 12, 64, 127, 256])
def test_in_batch__a_constant_encoder_wins_no_batch(width):
    """The protocol counts candidates at or above the match, so a tie is lost and rounding must not decide it."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    for count in (33, 97, 130, retrieval.CHUNK + 1):
        constant = vector.repeat(count, 1)
        assert retrieval.in_batch(constant, constant)["in_batch@32"].max() == pytest.approx(0, abs=1e-12), count


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("ties", [False, True])
def test_retrieval__the_size_of_a_chunk_changes_no_bit(ties, chunk, monkeypatch):
    """Captions in any order."""
    images, texts, owner = embeddings(80, 3, 2.5)
    if ties:
        images, texts = images[:, :4].sign(), texts[:, :4].sign()
    order = np.random.default_rng(3).permutation(len(owner))
    monkeypatch.setattr(retrieval, "in_batch", lambda *_: {})  # it needs a caption of every image
    whole = retrieval.credits(images, texts[order], owner[order])
    assert retrieval.CHUNK > 237 and 0 < whole["t2i_r@1"].mean() < 1
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    cut = retrieval.credits(images, texts[order], owner[order])
    assert all(cut[name].tobytes() == values.tobytes() for name, values in whole.items())


def test_retrieval__an_image_without_a_caption_is_an_error_that_names_it():
    images, texts, owner = embeddings(20, 3, 2.5)
    kept = owner != 3
    with pytest.raises(ValueError, match=r"1 of 20 images have no caption, as image 3"):
        retrieval.credits(images, texts[kept], owner[kept])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_in_batch__the_size_of_a_chunk_changes_no_bit(chunk, monkeypatch):
    images, texts, _ = embeddings(90, 1, 2.5)
    whole = retrieval.in_batch(images, texts)
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    cut = retrieval.in_batch(images, texts)
    assert all(cut[name].tobytes() == values.tobytes() for name, values in whole.items())


def test_retrieval__embeddings_that_are_not_numbers_are_an_error_and_no_perfect_score():
    nothing = torch.full((40, 8), torch.nan)
    with pytest.raises((ValueError, FloatingPointError)):
        retrieval.evaluate(nothing, nothing, np.arange(40))
