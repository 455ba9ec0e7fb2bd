"""k-NN against a count written out, scikit-learn, and chance."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from kdlib.evaluate import knn


def shares(*data) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in knn.credits(*data).items()}


def clouds(count: int, classes: int, seed: int, spread: float = 2.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 12))
    return torch.tensor(centres[labels] + spread * rng.normal(size=(count, 12)), dtype=torch.float32), labels


def signs(count: int, seed: int) -> torch.Tensor:
    """Vectors of four signs: their cosines are exact multiples of 1/2, so nearly everything ties."""
    return torch.tensor(np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, 4)), dtype=torch.float32)


def naive_credits(bank, bank_labels, query, query_labels, k: int, top: int) -> list[float]:
    """One query at a time, ties at the border by equal shares, ties of classes by equal credit."""
    result = []
    for vector, label in zip(query.double().numpy(), query_labels, strict=True):
        rows = bank.double().numpy()
        cosine = rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)
        cosine = np.round(cosine, 7)
        border = np.sort(cosine)[::-1][k - 1]
        share = np.where(cosine > border, 1.0, 0.0)
        share[cosine == border] = (k - (cosine > border).sum()) / (cosine == border).sum()
        weight = share * np.exp((cosine - 1) / 0.07)
        classes = max(bank_labels.max(), query_labels.max()) + 1
        scores = np.round([weight[bank_labels == name].sum() for name in range(classes)], 12)
        above, tied = (scores > scores[label]).sum(), (scores == scores[label]).sum()
        result.append(min(max((top - above) / tied, 0.0), 1.0))
    return result


def test_knn__is_scikit_learns_where_nothing_ties():
    bank, bank_labels = clouds(480, 8, 1, 3.0)
    query, labels = clouds(150, 8, 2, 3.0)
    got = knn.credits(bank, bank_labels, query, labels)
    for k, top in ((20, 1), (100, 1), (100, 5)):
        model = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07))
        found = model.fit(bank.double(), bank_labels).predict_proba(query.double())
        expected = top_k_accuracy_score(labels, found, k=top, labels=np.arange(8))
        assert got[f"knn@{k}_top{top}"].mean() == pytest.approx(expected, abs=1e-9) and 0.2 < expected < 0.99


def test_knn__is_the_naive_count_where_nearly_everything_ties():
    bank, query = signs(90, 1), signs(40, 2)
    bank_labels, labels = np.arange(90) % 3, np.arange(40) % 3
    got = knn.credits(bank, bank_labels, query, labels)["knn@20_top1"]
    expected = naive_credits(bank, bank_labels, query, labels, 20, 1)
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    assert 0.2 < np.mean(expected) < 0.6


def test_knn__by_hand():
    """Three neighbours at cosines 1, 0.96, 0.8 and k = 3: one of class 0 against two of class 1."""
    bank = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.8, 0.6], [-1.0, 0.0], [0.0, -1.0], [-0.6, -0.8]])
    labels = np.array([0, 1, 1, 0, 0, 1])
    near = math.exp(-0.04 / 0.07) + math.exp(-0.2 / 0.07)
    assert near < 1  # so class 0 wins
    assert shares(bank, labels, torch.tensor([[5.0, 0.0]]), np.array([0]))["knn@6_top1"] == 1
    assert shares(bank, labels, torch.tensor([[5.0, 0.0]]), np.array([1]))["knn@6_top1"] == 0


def test_knn__a_bank_smaller_than_k_is_taken_whole_and_named_so():
    assert knn.ks(53) == [10, 20, 53] and knn.primary(53) == "knn@20_top1"
    assert knn.ks(7) == [7] and knn.primary(7) == "knn@7_top1"
    assert knn.ks(10**5) == [10, 20, 100, 200]


def test_knn__tied_neighbours_share_the_last_place_by_hand(monkeypatch):
    """k = 2: one of class 0 at cosine 1; for the other place one of class 0 and three of class 1, 1/4 each."""
    monkeypatch.setattr(knn, "NEIGHBOURS", (2,))
    bank = torch.tensor([[1.0, 0.0]] + 4 * [[24.0, 7.0]])
    weight = math.exp((24 / 25 - 1) / 0.07)
    assert 3 / 4 * weight < 1 + weight / 4 and 3 * weight > 1 + weight  # class 1 would win with whole places
    scores = shares(bank, np.array([0, 0, 1, 1, 1]), torch.tensor([[2.0, 0.0]]), np.array([0]))
    assert scores["knn@2_top1"] == 1


@pytest.mark.parametrize("queries", [1, 7, 40])
@pytest.mark.parametrize("width", [2, 3, 31, 33, 64, 127, 256])
def test_knn__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width, queries):
    """The matrix product's last columns take another path than the rest: equal rows need not give equal bits."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    for size in (18, 42, 45, 101, 130, 203):
        for classes in (2, 5):
            labels = np.arange(size - size % classes) % classes
            bank, rows = vector.repeat(len(labels), 1), np.arange(queries) % len(labels)
            scores = shares(bank, labels, bank[rows], labels[rows])
            tops = [scores[f"knn@{k}_top1"] for k in knn.ks(len(labels))]
            assert tops == pytest.approx([1 / classes] * len(tops)), f"{len(labels)} in the bank, {classes} classes"


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("make", ["clouds", "signs"])
def test_knn__the_size_of_a_chunk_changes_no_bit(make, chunk, monkeypatch):
    (bank, bank_labels), (query, labels) = clouds(150, 5, 1, 4.0), clouds(60, 5, 2, 4.0)
    if make == "signs":
        bank, query = signs(150, 1), signs(60, 2)
    whole = knn.credits(bank, bank_labels, query, labels)
    assert knn.CHUNK > 60 and 0 < whole["knn@20_top1"].mean() < 1
    monkeypatch.setattr(knn, "CHUNK", chunk)
    cut = knn.credits(bank, bank_labels, query, labels)
    assert all(cut[name].tobytes() == values.tobytes() for name, values in whole.items())
