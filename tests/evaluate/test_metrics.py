"""The counting rules against all orders of the tied, simulations, and scipy's and scikit-learn's own."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.evaluate import metrics


def one(function, *counts, **others) -> float:
    return function(*(np.array([count]) for count in counts), **others)[0]


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_credit__is_what_random_tie_breaking_earns(k):
    """Scores of few values, two right candidates of 40; 4,000 random orders."""
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 4, size=40)
    scores[7] = scores[23] = 2
    best = scores == 2
    right = np.isin(np.arange(40), (7, 23))
    credit = one(metrics.recall_credit, (scores > 2).sum(), (best & ~right).sum(), 2, k=k)
    hits = []
    for _ in range(4000):
        order = np.lexsort((rng.random(40), -scores))
        hits.append(np.isin(order[:k], (7, 23)).any())
    sigma = math.sqrt(max(credit * (1 - credit), 1e-12) / len(hits))
    assert abs(np.mean(hits) - credit) <= 4 * sigma


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6000), st.data())
def test_in_batch__is_the_hypergeometric_chance_of_drawing_nobody_better(candidates, data):
    reached = data.draw(st.integers(0, candidates - 1))
    batch = data.draw(st.integers(1, candidates))
    got = metrics.in_batch_accuracy(np.array([reached]), candidates, batch)[0]
    expected = scipy.stats.hypergeom(candidates - 1, reached, batch - 1).pmf(0)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


ROWS = st.integers(2, 7).flatmap(
    lambda classes: st.lists(st.integers(0, 3).map(float), min_size=classes, max_size=classes)
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 8))
def test_top_class_credit__over_all_labels_hands_out_k_places(scores, k):
    """Whatever the ties, k of the K classes are in the top k."""
    classes = len(scores)
    credit = metrics.top_class_credit(np.tile(scores, (classes, 1)), np.arange(classes), k)
    assert credit.sum() == pytest.approx(min(k, classes))


def test_top_class_credit__the_order_of_a_sum_decides_nothing():
    terms = np.random.default_rng(0).random(50)
    forward, backward = sum(terms), sum(terms[::-1])
    assert forward != backward
    credit = metrics.top_class_credit(np.array([[forward, backward, 0.0]]), np.array([0]), 1)
    assert credit.tolist() == pytest.approx([0.5])
