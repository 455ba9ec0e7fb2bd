"""Do 95 % intervals hold the truth in 95 of 100 test sets? Simulated from the scores' own functions."""

import numpy as np
import pytest
import torch

from kdlib.evaluate import fidelity, knn, zeroshot
from kdlib.evaluate.exam import Scores
from kdlib.evaluate.uncertainty import interval, linear_replicates, resamples

TRIALS = 1000  # the share of 1,000 intervals has a standard error of 0.7 points
SLACK = 0.02


def covered(truth: float, bounds: list[tuple[float, float]]) -> float:
    return float(np.mean([low <= truth <= high for low, high in bounds]))


def of_shares(credits: np.ndarray, owner: np.ndarray | None = None) -> list[tuple[float, float]]:
    """The interval of each line of (trials, queries) credits, as an exam makes it."""
    images = credits.shape[1] if owner is None else int(owner.max()) + 1
    weights, bounds = resamples(images), []
    for values in credits:
        scores = Scores()
        scores.add({"r@1": values}, weights, owner)
        bounds.append(interval(scores.replicates["r@1"]))
    return bounds


@pytest.mark.parametrize(("images", "truth", "trials"), [(100, 0.3, TRIALS), (500, 0.3, TRIALS), (5000, 0.3, 200)])
def test_recall__is_covered(images, truth, trials):
    hits = np.random.default_rng([images, 1]).random((trials, images)) < truth
    assert covered(truth, of_shares(hits.astype(float))) == pytest.approx(0.95, abs=SLACK if trials == TRIALS else 0.04)


@pytest.mark.parametrize(("images", "truth"), [(100, 0.02), (500, 0.0025), (500, 0.02), (500, 0.998)])
def test_recall__near_an_end_is_covered_at_least(images, truth):
    """Few hits come in whole numbers, so that no interval holds exactly 95 %; none may hold less than 93 %."""
    hits = np.random.default_rng([images, 2]).random((TRIALS, images)) < truth
    assert covered(truth, of_shares(hits.astype(float))) > 0.93


def test_recall__of_captions_that_agree_is_covered():
    """Five captions an image, which share half of what decides."""
    rng = np.random.default_rng(3)
    image, own = rng.normal(size=(600, 300, 1)), rng.normal(size=(600, 300, 5))
    hits = (image + own > 0.8).reshape(600, -1).astype(float)
    truth = 1 - torch.distributions.Normal(0, 2**0.5).cdf(torch.tensor(0.8)).item()
    assert covered(truth, of_shares(hits, np.repeat(np.arange(300), 5))) == pytest.approx(0.95, abs=SLACK)


def test_knn__is_covered():
    """The bank stays, the test images are drawn anew: what an interval over test images speaks of."""
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(8, 6))
    labels = rng.integers(0, 8, 400)
    bank = torch.tensor(centres[labels] + 1.5 * rng.normal(size=(400, 6)))
    drawn = rng.integers(0, 8, 300 * 200)
    query = torch.tensor(centres[drawn] + 1.5 * rng.normal(size=(len(drawn), 6)))
    credits = knn.credits(bank, labels, query, drawn)["knn@20_top1"]
    bounds = of_shares(credits.reshape(300, 200))
    assert covered(credits.mean(), bounds) == pytest.approx(0.95, abs=0.035)  # 300 trials: 1.3 points


def test_zeroshot_map__is_covered():
    """The truth is the mean over test sets of this size, since average precision depends on it."""
    rng, weights, found = np.random.default_rng(5), resamples(150, 300), []
    for _ in range(300):
        relevant = rng.random((150, 4)) < 0.3
        scores = relevant + 1.2 * rng.normal(size=relevant.shape)
        value = zeroshot.mean_average_precision(scores, relevant)
        drawn = zeroshot.mean_average_precision(scores, relevant, weights)
        found.append((value, *interval(drawn - drawn.mean() + value)))
    truth = np.mean([value for value, *_ in found])
    assert covered(truth, [bounds for _, *bounds in found]) == pytest.approx(0.95, abs=0.04)


def test_cka__is_covered():
    """Likewise; its replicates are of first order."""
    rng, weights, found = np.random.default_rng(6), resamples(300), []
    turn = torch.tensor(rng.normal(size=(6, 8)))
    for _ in range(400):
        first = torch.tensor(rng.normal(size=(300, 6)))
        second = first @ turn + 2 * torch.tensor(rng.normal(size=(300, 8)))
        value, influence = fidelity.linear_cka(first, second)
        found.append((value, *interval(linear_replicates(value, influence, weights))))
    truth = np.mean([value for value, *_ in found])
    assert covered(truth, [bounds for _, *bounds in found]) == pytest.approx(0.95, abs=0.03)
