"""Whether a student has converged, by simulation: how often the rule says so when it is true and when it is not."""

import numpy as np
import pytest

from kdlib.evaluate.convergence import Convergence, convergence
from kdlib.evaluate.uncertainty import replicate_means, resamples

IMAGES, DRAWS = 200, 60


def simulated(gain: float, seed: int) -> Convergence:
    """Two students right on a share of the images, of which they have four fifths of the luck in common."""
    rng = np.random.default_rng(seed)
    shared, own = rng.random(IMAGES), rng.random((2, IMAGES))
    luck = np.where(rng.random(IMAGES) < 0.8, shared, own)
    right = [(luck[0] < 0.4).astype(float), (luck[1] < 0.4 + gain).astype(float)]
    weights = resamples(IMAGES)
    values = [[one.mean()] for one in right]
    replicates = [replicate_means(one, weights)[None] for one in right]
    return convergence(values[0], replicates[0], values[1], replicates[1])


def test_convergence__is_said_in_nearly_all_cases_without_a_gain():
    share = np.mean([simulated(0.0, seed).converged for seed in range(DRAWS)])
    assert share >= 0.86


def test_convergence__a_gain_of_ten_points_is_seen_mostly():
    found = [simulated(0.1, seed) for seed in range(DRAWS)]
    assert np.mean([one.converged for one in found]) < 0.3
    assert np.mean([one.difference for one in found]) == pytest.approx(0.1, abs=0.02)


def test_convergence__in_words():
    assert str(Convergence(0.02, -0.01, 0.05)) == "converged: +0.020 [-0.010, +0.050]"
    assert str(Convergence(0.04, 0.01, 0.07)).startswith("still learning: +0.040")
    assert str(Convergence(-0.04, -0.07, -0.01)).startswith("past its best")


def test_convergence__of_a_student_with_itself_has_no_difference():
    replicates = np.random.default_rng(0).random((2, 1000))
    assert convergence([0.4, 0.5], replicates, [0.4, 0.5], replicates) == Convergence(0.0, 0.0, 0.0)
