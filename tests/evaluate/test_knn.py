"""k-NN against a count written out, scikit-learn, and chance."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from kdlib.evaluate import knn


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
    k = min(k, min(np.bincount(bank_labels)[np.unique(bank_labels)]))
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


def test_knn__is_the_naive_count_query_by_query():
    bank, bank_labels = clouds(180, 6, 1)
    query, labels = clouds(60, 6, 2)
    got = knn.credits(bank, bank_labels, query, labels)
    for k in (10, 20, 100):
        for top in (1, 5):
            expected = naive_credits(bank, bank_labels, query, labels, k, top)
            assert got[f"knn@{k}_top{top}"].tolist() == pytest.approx(expected, abs=1e-6)


def test_knn__is_the_naive_count_where_nearly_everything_ties():
    bank, query = signs(90, 1), signs(40, 2)
    bank_labels, labels = np.arange(90) % 3, np.arange(40) % 3
    got = knn.credits(bank, bank_labels, query, labels)["knn@20_top1"]
    expected = naive_credits(bank, bank_labels, query, labels, 20, 1)
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    assert 0.2 < np.mean(expected) < 0.6


def test_knn__top5_is_scikit_learns():
    bank, bank_labels = clouds(480, 8, 1, 3.0)
    query, labels = clouds(150, 8, 2, 3.0)
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07))
    shares = model.fit(bank.double(), bank_labels).predict_proba(query.double())
    got = knn.credits(bank, bank_labels, query, labels)["knn@20_top5"]
    clear = (shares > 0).sum(axis=1) >= 5  # with fewer classes among the neighbours, those without tie
    expected = top_k_accuracy_score(labels[clear], shares[clear], k=5, labels=np.arange(8))
    assert clear.sum() > 50 and 0.3 < expected < 0.99
    assert got[clear].mean() == pytest.approx(expected, abs=1e-9)


def test_knn__by_hand():
    """Three neighbours at cosines 1, 0.96, 0.8 and k = 3: one of class 0 against two of class 1."""
    bank = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.8, 0.6], [-1.0, 0.0], [0.0, -1.0], [-0.6, -0.8]])
    labels = np.array([0, 1, 1, 0, 0, 1])
    near = math.exp(-0.04 / 0.07) + math.exp(-0.2 / 0.07)
    assert near < 1  # so class 0 wins
    scores = knn.evaluate(bank, labels, torch.tensor([[5.0, 0.0]]), np.array([0]))
    assert scores["knn@6_top1"] == 1
    assert knn.evaluate(bank, labels, torch.tensor([[5.0, 0.0]]), np.array([1]))["knn@6_top1"] == 0


def test_knn__k_is_not_capped_by_a_small_class():
    """Three neighbours at cosine 1 and fifty of the other class at 0.874: 3 against 7 x 0.166, then 50 x 0.166."""
    crowd, few = torch.tensor([[0.9, 0.5]]).repeat(50, 1), torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    bank, labels = torch.cat([crowd, few]), np.array([0] * 50 + [1] * 3)
    scores = knn.evaluate(bank, labels, torch.tensor([[1.0, 0.0]]), np.array([1]))
    assert scores["knn@10_top1"] == 1 and scores["knn@53_top1"] == 0


def test_knn__a_bank_smaller_than_k_is_taken_whole_and_named_so():
    assert knn.ks(53) == [10, 20, 53] and knn.headline(53) == "knn@20_top1"
    assert knn.ks(7) == [7] and knn.headline(7) == "knn@7_top1"
    assert knn.ks(10**5) == [10, 20, 100, 200]


def test_knn__tied_neighbours_share_the_last_place_by_hand(monkeypatch):
    """k = 2: one of class 0 at cosine 1; for the other place one of class 0 and three of class 1, 1/4 each."""
    monkeypatch.setattr(knn, "NEIGHBOURS", (2,))
    bank = torch.tensor([[1.0, 0.0]] + 4 * [[24.0, 7.0]])
    weight = math.exp((24 / 25 - 1) / 0.07)
    assert 3 / 4 * weight < 1 + weight / 4 and 3 * weight > 1 + weight  # class 1 would win with whole places
    scores = knn.evaluate(bank, np.array([0, 0, 1, 1, 1]), torch.tensor([[2.0, 0.0]]), np.array([0]))
    assert scores["knn@2_top1"] == 1


def test_knn__length_of_a_feature_does_not_matter():
    bank, bank_labels = clouds(120, 4, 1)
    query, labels = clouds(40, 4, 2)
    lengths = torch.linspace(0.01, 100, 120)[:, None]
    assert knn.evaluate(bank * lengths, bank_labels, 3 * query, labels) == knn.evaluate(
        bank, bank_labels, query, labels
    )


def test_knn__a_class_that_the_bank_does_not_have_is_never_found():
    bank, bank_labels = clouds(60, 3, 1)
    scores = knn.evaluate(bank, bank_labels, bank[:10], np.full(10, 3))
    assert scores["knn@20_top1"] == 0


def test_knn__random_features_score_chance():
    """Query labels drawn at random: whatever the neighbours say, hits are binomial with p = 1/K."""
    rng = np.random.default_rng(5)
    bank, query = torch.tensor(rng.normal(size=(1000, 16))), torch.tensor(rng.normal(size=(1500, 16)))
    scores = knn.evaluate(bank, np.arange(1000) % 10, query, rng.integers(0, 10, 1500))
    for k in (10, 20, 100):
        for top in (1, 5):
            chance = top / 10
            sigma = math.sqrt(chance * (1 - chance) / 1500)
            assert abs(scores[f"knn@{k}_top{top}"] - chance) < 3 * sigma


@pytest.mark.parametrize("queries", [1, 7, 40])
@pytest.mark.parametrize("width", [2, 3, 31, 33, 64, 127, 256])
def test_knn__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width, queries):
    """The matrix product's last columns take another path than the rest: equal rows need not give equal bits."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    for size in (18, 42, 45, 101, 130, 203):
        for classes in (2, 5):
            labels = np.arange(size - size % classes) % classes
            bank, rows = vector.repeat(len(labels), 1), np.arange(queries) % len(labels)
            scores = knn.evaluate(bank, labels, bank[rows], labels[rows])
            tops = [scores[f"knn@{k}_top1"] for k in knn.ks(len(labels))]
            assert tops == pytest.approx([1 / classes] * len(tops)), f"{len(labels)} in the bank, {classes} classes"


def test_knn__the_order_of_a_bank_with_duplicates_changes_nothing():
    source = torch.randn(40, 31, generator=torch.Generator().manual_seed(0))
    pick = np.random.default_rng(0).integers(0, 40, 130)
    bank, labels = source[pick], np.arange(130) % 3
    whole = knn.credits(bank, labels, source, np.arange(40) % 3)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(130)
        shuffled = knn.credits(bank[order], labels[order], source, np.arange(40) % 3)
        for name, values in whole.items():
            assert shuffled[name] == pytest.approx(values, abs=1e-9)


def test_knn__credits_are_one_a_query_across_the_chunks_and_evaluate_is_their_mean():
    bank, bank_labels = clouds(250, 5, 1)
    query, labels = clouds(knn.CHUNK + 1, 5, 2)
    rows = knn.credits(bank, bank_labels, query, labels)
    assert set(rows) == {f"knn@{k}_top{top}" for k in (10, 20, 100, 200) for top in (1, 5)}
    assert all(values.shape == (knn.CHUNK + 1,) for values in rows.values())
    alone = knn.credits(bank, bank_labels, query[-1:], labels[-1:])
    assert all(rows[name][-1] == alone[name][0] for name in rows)
    assert knn.evaluate(bank, bank_labels, query, labels)["knn@20_top1"] == pytest.approx(rows["knn@20_top1"].mean())


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


def test_knn__features_that_are_not_numbers_are_an_error_and_no_perfect_score():
    bank, labels = clouds(60, 3, 1)
    with pytest.raises((ValueError, FloatingPointError)):
        knn.evaluate(bank, labels, torch.full((9, 12), torch.nan), labels[:9])


def test_predict__names_the_class_that_the_score_counts_right():
    generator = torch.Generator().manual_seed(0)
    bank, query = torch.randn(200, 8, generator=generator), torch.randn(60, 8, generator=generator)
    labels, truth = np.arange(200) % 4, np.arange(60) % 4
    credit = knn.credits(bank, labels, query, truth)["knn@20_top1"]
    np.testing.assert_array_equal(knn.predict(bank, labels, query) == truth, credit > 0.5)


def test_predict__by_hand():
    """Two neighbours of the query's direction in class 1, one opposite in class 0; a tie goes to the first class."""
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.2]])
    labels = np.array([1, 1, 0, 0])
    assert knn.predict(bank, labels, torch.tensor([[1.0, 0.0], [-1.0, 0.1]]), k=2).tolist() == [1, 0]
    assert knn.predict(bank[[0, 2]], labels[[0, 2]], torch.tensor([[0.0, 1.0]]), k=1).tolist() == [0]
