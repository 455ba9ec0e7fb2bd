"""Do 95 % intervals hold the truth in 95 of 100 test sets? Simulated from the scores' own functions."""

import numpy as np
import pytest
import torch

from kdlib.evaluate import fidelity, knn, retrieval, zeroshot
from kdlib.evaluate.bootstrap import interval, replicate_means, resamples
from kdlib.evaluate.protocol import Scores

SLACK = 0.02  # the protocol's; three standard errors of the share of 1,000 intervals
SIZES = [(100, 1500), (500, 1000), (5000, 1000)]  # images of a test set, test sets


def covered(truth: float, bounds: list[tuple[float, float]]) -> float:
    return float(np.mean([low <= truth <= high for low, high in bounds]))


def of_shares(credits: np.ndarray) -> list[tuple[float, float]]:
    """The interval of each line of (trials, images) credits, as an evaluation makes it."""
    bounds = []
    for values in credits:
        scores = Scores()
        scores.add({"r@1": values}, resamples(credits.shape[1]))
        bounds.append(interval(scores.replicates["r@1"]))
    return bounds


def around(values: np.ndarray, ends: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each value with each of a few intervals, as distances from their own values: of large test sets all are alike."""
    return [(value + low, value + high) for value in values for low, high in ends]


def taken_from(population: np.ndarray, images: int, trials: int) -> np.ndarray:
    """(trials, images): test sets of a population of images, whose mean is the truth."""
    return population[np.random.default_rng([images, trials]).integers(len(population), size=(trials, images))]


@pytest.fixture(scope="module")
def populations() -> dict[str, np.ndarray]:
    """Credits of 2,000 images. What is searched, k-NN's bank or the other captions, stays the same."""
    rng = np.random.default_rng(4)
    centres, labels, classes = rng.normal(size=(8, 6)), rng.integers(0, 8, 400), rng.integers(0, 8, 2000)
    bank, query = (torch.tensor(centres[of] + 1.5 * rng.normal(size=(len(of), 6))) for of in (labels, classes))
    seen = torch.tensor(rng.normal(size=(2000, 16)))
    six = retrieval.credits(seen, seen + 1.5 * torch.tensor(rng.normal(size=(2000, 16))), np.arange(2000))
    recall = np.mean([six[name] for name in retrieval.RECALLS], axis=0)
    return {"knn": knn.credits(bank, labels, query, classes)["knn@20_top1"], "mean_recall": recall}


@pytest.mark.parametrize("score", ["knn", "mean_recall"])
@pytest.mark.parametrize(("images", "trials"), SIZES)
def test_knn_and_mean_recall__are_covered(populations, score, images, trials):
    credits = taken_from(populations[score], images, trials)
    bounds = of_shares(credits if images < 5000 else credits[:15])
    if images == 5000:
        means = credits.mean(axis=1)
        bounds = around(means, [(low - mean, high - mean) for (low, high), mean in zip(bounds, means, strict=False)])
    assert covered(populations[score].mean(), bounds) == pytest.approx(0.95, abs=SLACK)


@pytest.mark.parametrize(("images", "trials"), SIZES)
def test_zeroshot_map__is_covered(images, trials):
    """The truth is the mean over test sets of this size; each gets the intervals of some, around its own score."""
    rng, values, ends = np.random.default_rng(6), [], []
    for trial in range(trials):
        relevant = rng.random((images, 3 if images == 5000 else 10)) < 0.1
        scores = relevant + rng.normal(size=relevant.shape)
        values.append(zeroshot.mean_average_precision(scores, relevant))
        if trial < 40_000 / max(images, 1000):
            lines = zeroshot.mean_average_precision(scores, relevant, resamples(images))
            ends.append(interval(lines - lines.mean()))
    assert covered(np.mean(values), around(values, ends)) == pytest.approx(0.95, abs=SLACK)


@pytest.mark.parametrize(("images", "truth"), [(100, 0.02), (500, 0.0025), (500, 0.02), (500, 0.998)])
def test_recall__near_an_end_is_covered_at_least(images, truth):
    """Few hits come in whole numbers, so that no interval holds exactly 95 %; none may hold less than 93 %."""
    hits = np.random.default_rng([images, 2]).random((1000, images)) < truth
    assert covered(truth, of_shares(hits.astype(float))) > 0.93


def test_cka__is_covered():
    """The truth is the mean over test sets; replicates are of first order."""
    rng, weights, values, bounds = np.random.default_rng(6), resamples(300), [], []
    turn = torch.tensor(rng.normal(size=(6, 8)))
    for _ in range(400):
        first = torch.tensor(rng.normal(size=(300, 6)))
        value, influence = fidelity.linear_cka(first, first @ turn + 2 * torch.tensor(rng.normal(size=(300, 8))))
        values.append(value)
        bounds.append(interval(replicate_means(value + 300 * influence, weights)))
    assert covered(np.mean(values), bounds) == pytest.approx(0.95, abs=0.03)
