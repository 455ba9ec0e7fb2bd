"""k-NN, retrieval and their counting rules, against hand-computed cases, naive versions and libraries."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from kdlib import metrics
from kdlib.evaluate import knn, retrieval


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3), st.integers(1, 8))
def test_recall_credit__is_the_mean_over_all_orders_of_the_tied(above, wrong, right, k):
    hits = [
        any(place < k - above for place in places) for places in itertools.combinations(range(wrong + right), right)
    ]
    credit = metrics.recall_credit(np.array([above]), np.array([wrong]), np.array([right]), k)[0]
    assert credit == pytest.approx(np.mean(hits), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 12), st.data())
def test_in_batch__is_the_share_of_batches_that_the_match_wins(candidates, data):
    reached = data.draw(st.integers(0, candidates - 1))
    batch = data.draw(st.integers(2, candidates))
    others = range(candidates - 1)  # the first `reached` of them are at or above the match
    wins = [min(drawn) >= reached for drawn in itertools.combinations(others, batch - 1)]
    got = metrics.in_batch_accuracy(np.array([reached]), candidates, batch)[0]
    assert got == pytest.approx(np.mean(wins), abs=1e-9)


def test_in_batch__refuses_a_batch_larger_than_the_set():
    with pytest.raises(ValueError, match="batch of 64 cannot be drawn from 10"):
        metrics.in_batch_accuracy(np.zeros(1), 10, 64)


def test_top_class_credit__splits_ties():
    scores = np.array([[3.0, 3.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    credit = metrics.top_class_credit(scores, np.array([0, 0, 2]), 1)
    assert credit.tolist() == pytest.approx([1 / 2, 0, 1 / 3])


# ---------------------------------------------------------------- k-NN


def clouds(count: int, classes: int, seed: int, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 12))
    return torch.tensor(centres[labels] + spread * rng.normal(size=(count, 12)), dtype=torch.float32), labels


def test_knn__is_scikit_learns():
    bank, bank_labels = clouds(1250, 5, 1, 1.5)
    query, labels = clouds(200, 5, 2, 1.5)
    scores = knn.evaluate(bank, bank_labels, query, labels)
    for k in (10, 20, 100, 200):
        model = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07))
        expected = model.fit(bank.double(), bank_labels).score(query.double(), labels)
        assert scores[f"knn@{k}_top1"] == pytest.approx(expected, abs=1e-9)
        assert 0.2 < expected < 0.99


def test_knn__k_is_capped_at_the_smallest_class():
    bank, bank_labels = clouds(40, 5, 1)
    query, labels = clouds(50, 5, 2)
    scores = knn.evaluate(bank, bank_labels, query, labels)
    assert scores["knn@10_top1"] == scores["knn@200_top1"]
    model = KNeighborsClassifier(8, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07))
    assert scores["knn@20_top1"] == pytest.approx(model.fit(bank, bank_labels).score(query, labels))


@pytest.mark.parametrize("width", [3, 64, 127, 256])
def test_knn__a_constant_encoder_scores_exactly_chance(width):
    constant = torch.randn(width, generator=torch.Generator().manual_seed(width)).expand(200, width)
    labels = np.arange(200) % 8
    scores = knn.evaluate(constant, labels, constant[:40], labels[:40])
    assert scores["knn@20_top1"] == pytest.approx(1 / 8) and scores["knn@20_top5"] == pytest.approx(5 / 8)


def test_knn__neighbours_tied_at_the_border_share_the_places_left():
    """k = 2 of: one neighbour of class 0 at 1.0; then one of each class tied. Class 0 wins; class 1 gets half."""
    bank = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    similarity = F.normalize(torch.tensor([[1.0, 0.0]]), dim=-1) @ F.normalize(bank, dim=-1).T
    best, index = similarity.topk(3, dim=1)
    scores = knn._class_scores(similarity, best, index, torch.tensor(labels), 2, 2)
    weight = math.exp((1 / math.sqrt(2) - 1) / 0.07)
    assert scores[0].tolist() == pytest.approx([1 + weight / 2, weight / 2])


def test_knn__order_and_chunks_change_nothing(monkeypatch):
    bank, bank_labels = clouds(300, 5, 1, 2.0)
    query, labels = clouds(90, 5, 2, 2.0)
    whole = knn.evaluate(bank, bank_labels, query, labels)
    order, bank_order = np.random.default_rng(0).permutation(90), np.random.default_rng(1).permutation(300)
    monkeypatch.setattr(knn, "CHUNK", 7)
    assert knn.evaluate(bank[bank_order], bank_labels[bank_order], query[order], labels[order]) == pytest.approx(whole)


# ---------------------------------------------------------------- retrieval


def embeddings(images: int, captions: int, noise: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(images, 16))
    owner = np.repeat(np.arange(images), captions)
    read = seen[owner] + noise * rng.normal(size=(len(owner), 16))
    return torch.tensor(seen, dtype=torch.float32), torch.tensor(read, dtype=torch.float32), owner


def naive_recalls(images, texts, owner) -> dict[str, float]:
    similarity = (F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T).numpy()
    scores = {}
    for k in (1, 5, 10):
        i2t = [
            bool(np.isin(np.argsort(-row)[:k], np.flatnonzero(owner == i)).any()) for i, row in enumerate(similarity)
        ]
        t2i = [owner[j] in np.argsort(-column)[:k] for j, column in enumerate(similarity.T)]
        scores |= {f"i2t_r@{k}": np.mean(i2t), f"t2i_r@{k}": np.mean(t2i)}
    return scores


def test_retrieval__is_the_naive_count():
    images, texts, owner = embeddings(60, 5, 2.0)
    scores = retrieval.evaluate(images, texts, owner)
    expected = naive_recalls(images, texts, owner)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["mean_recall"] == pytest.approx(np.mean(list(expected.values())))
    assert 0.1 < scores["t2i_r@1"] < 0.9


def test_retrieval__is_torchmetrics_recall():
    from torchmetrics.functional.retrieval import retrieval_hit_rate

    images, texts, owner = embeddings(40, 3, 2.0)
    similarity = F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    target = torch.tensor(owner)[:, None] == torch.arange(40)[None]
    hits = [retrieval_hit_rate(row, wanted, top_k=5) for row, wanted in zip(similarity, target, strict=True)]
    scores = retrieval.evaluate(images, texts, owner)
    assert scores["t2i_r@5"] == pytest.approx(torch.stack(hits).mean().item(), abs=1e-6)


@pytest.mark.parametrize("width", [3, 64, 127, 256])
@pytest.mark.parametrize("images", [50, 97])
def test_retrieval__a_constant_encoder_scores_exactly_chance(width, images):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    owner = np.repeat(np.arange(images), 5)
    scores = retrieval.evaluate(vector.expand(images, width), vector.expand(5 * images, width), owner)
    for k in (1, 5, 10):
        assert scores[f"t2i_r@{k}"] == pytest.approx(k / images)
        chance = 1 - math.comb(5 * images - 5, k) / math.comb(5 * images, k)
        assert scores[f"i2t_r@{k}"] == pytest.approx(chance)


def test_retrieval__a_random_encoder_scores_chance():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(400), 5)
    images, texts = torch.tensor(rng.normal(size=(400, 32))), torch.tensor(rng.normal(size=(2000, 32)))
    scores = retrieval.evaluate(images, texts, owner)
    for k in (1, 5, 10):
        sigma = math.sqrt(k / 400 * (1 - k / 400) / 2000)
        assert abs(scores[f"t2i_r@{k}"] - k / 400) < 4 * sigma


def test_retrieval__order_and_chunks_change_nothing(monkeypatch):
    images, texts, owner = embeddings(70, 5, 2.0)
    whole = retrieval.evaluate(images, texts, owner)
    order = np.random.default_rng(0).permutation(len(texts))
    monkeypatch.setattr(retrieval, "CHUNK", 11)
    shuffled = retrieval.evaluate(images, texts[order], owner[order])
    same = [name for name in whole if not name.startswith("in_batch")]  # that takes each image's first caption
    assert {name: shuffled[name] for name in same} == pytest.approx({name: whole[name] for name in same})
    assert retrieval.evaluate(images, texts, owner) == pytest.approx(whole)


def test_in_batch__of_images_with_themselves_is_one_for_any_encoder():
    rng = torch.Generator().manual_seed(0)
    random = torch.randn(300, 8, generator=rng)
    assert all(values.mean() == 1 for values in retrieval.in_batch(random, random).values())


def test_in_batch__is_what_random_batches_give():
    images, texts, _ = embeddings(128, 1, 3.0)
    similarity = (F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T).numpy()
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        rows = rng.permutation(128)[:32]
        block = similarity[np.ix_(rows, rows)]
        shares.append(np.mean(block.argmax(axis=1) == np.arange(32)))
    expected = retrieval.in_batch(images, texts)["in_batch@32"].mean()
    assert abs(np.mean(shares) - expected) < 4 * np.std(shares) / 20
