"""k-NN against a count written out, scikit-learn, and chance."""

import numpy as np
import pytest
import torch
from fakes import clouds, signs
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from kdlib.evaluate import knn


def naive_credits(bank, bank_labels, query, query_labels, k: int, top: int) -> list[float]:
    """One query at a time, ties at the border by equal shares, ties of classes by equal credit."""
    result = []
    for vector, label in zip(query.double().numpy(), query_labels, strict=True):
        rows = bank.double().numpy()
        cosine = np.round(rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector), 7)
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


def test_knn__is_the_naive_count_where_nearly_everything_ties(monkeypatch):
    monkeypatch.setattr(knn, "CHUNK", 7)  # of 40 queries
    bank, query = signs(90, 1), signs(40, 2)
    bank_labels, labels = np.arange(90) % 3, np.arange(40) % 3
    got = knn.credits(bank, bank_labels, query, labels)["knn@20_top1"]
    expected = naive_credits(bank, bank_labels, query, labels, 20, 1)
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    assert 0.2 < np.mean(expected) < 0.6


@pytest.mark.parametrize(("size", "ks"), [(7, [7]), (53, [10, 20, 53]), (300, [10, 20, 100, 200])])
def test_knn__a_bank_smaller_than_k_is_taken_whole_and_named_so(size, ks):
    bank, labels = clouds(size, 2, 1)
    assert list(knn.credits(bank, labels, bank, labels)) == [f"knn@{k}_top{n}" for k in ks for n in (1, 5)]


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("width", [2, 33, 64, 127, 256])
def test_knn__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width, queries):
    """The matrix product's last columns take another path than the rest: equal rows need not give equal bits."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    for size in (18, 42, 45, 101, 130, 203):
        for classes in (2, 5):
            labels = np.arange(size - size % classes) % classes
            bank, rows = vector.repeat(len(labels), 1), np.arange(queries) % len(labels)
            scores = knn.credits(bank, labels, bank[rows], labels[rows])
            tops = [values.mean() for name, values in scores.items() if name.endswith("top1")]
            assert tops == pytest.approx([1 / classes] * len(tops)), f"{len(labels)} in the bank, {classes} classes"
