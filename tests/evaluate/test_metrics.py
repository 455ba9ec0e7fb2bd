"""The counting rules against scipy's, and what they must add up to; retrieval's tests have random orders of ties."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.evaluate import metrics


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6000), st.data())
def test_in_batch__is_the_hypergeometric_chance_of_drawing_nobody_better(candidates, data):
    reached = data.draw(st.integers(0, candidates - 1))
    batch = data.draw(st.integers(1, candidates))
    got = metrics.in_batch_accuracy(np.array([reached]), candidates, batch)[0]
    expected = scipy.stats.hypergeom(candidates - 1, reached, batch - 1).pmf(0)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3).map(float), min_size=2, max_size=7), st.integers(1, 8))
def test_top_class_credit__over_all_labels_hands_out_k_places(scores, k):
    """Whatever the ties, k of the K classes are in the top k."""
    classes = len(scores)
    credit = metrics.top_class_credit(np.tile(scores, (classes, 1)), np.arange(classes), k)
    assert credit.sum() == pytest.approx(min(k, classes))


def test_top_class_credit__the_order_of_a_sum_decides_nothing():
    credit = metrics.top_class_credit(np.array([[0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1, 0.0]]), np.array([0]), 1)
    assert credit.tolist() == pytest.approx([0.5])
