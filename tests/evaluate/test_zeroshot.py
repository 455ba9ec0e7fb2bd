"""Zero-shot mAP against scikit-learn, and cases by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from kdlib.evaluate import bootstrap, zeroshot
from kdlib.evaluate.metrics import cosines, unit_rows


def made(images: int, categories: int, seed: int, levels: int | None = None, share: float = 0.2):
    """Scores and relevance; with ``levels``, so few distinct scores that nearly everything ties."""
    rng = np.random.default_rng(seed)
    relevant = rng.random((images, categories)) < share
    scores = rng.normal(size=(images, categories)) + relevant
    return (np.round(scores * levels) / levels if levels else scores), relevant


def average_precision(scores, relevant, weights=None) -> np.ndarray:
    """(K,) of one resample of the images."""
    return zeroshot.average_precision(scores, relevant, None if weights is None else np.asarray(weights)[None])[:, 0]


def scikit(scores, relevant, weights) -> list[float]:
    """One category at a time; NaN where scikit-learn warns and says 0."""
    values = []
    for truth, column in zip(relevant.T, scores.T, strict=True):
        known = (truth & (weights > 0)).any()
        values.append(average_precision_score(truth, column, sample_weight=weights) if known else np.nan)
    return values


def test_average_precision__by_hand():
    """Right, wrong, right, wrong: (1/1 + 2/3) / 2. Tied in pairs: (1/2 + 2/4) / 2. The second twice: (1 + 2/4) / 2."""
    relevant = np.array([[True], [False], [True], [False]])
    clear = np.array([[0.9], [0.8], [0.7], [0.6]])
    assert average_precision(clear, relevant).tolist() == pytest.approx([5 / 6])
    tied = np.array([[0.9], [0.9], [0.6], [0.6]])
    assert average_precision(tied, relevant).tolist() == pytest.approx([1 / 2])
    assert average_precision(clear, relevant, np.array([1, 2, 1, 0])).tolist() == pytest.approx([3 / 4])


def test_average_precision__a_constant_encoder_scores_exactly_the_prevalence_whatever_the_rounding():
    relevant = made(130, 7, 1)[1]
    for width in (2, 3, 31, 33, 64, 127, 256):
        image, *texts = torch.randn(8, width, generator=torch.Generator().manual_seed(width))
        scores = cosines(unit_rows(image.repeat(130, 1)), unit_rows(torch.stack(texts))).numpy()
        assert average_precision(scores, relevant).tolist() == relevant.mean(axis=0).tolist()


def test_mean_average_precision__of_replicates_is_each_one_by_itself():
    """More replicates than a block, and a rare category that some of them do not hold."""
    scores, relevant = made(40, 5, 11, 3)
    relevant[:, 4] = np.arange(40) == 7
    weights = bootstrap.resamples(40, zeroshot.REPLICATES + 9)
    got = zeroshot.mean_average_precision(scores, relevant, weights)
    assert got.shape == (zeroshot.REPLICATES + 9,) and 0 < (weights[:, 7] == 0).sum() < len(weights)
    expected = [np.nanmean(scikit(scores, relevant, row)) for row in weights]
    np.testing.assert_allclose(got, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_average_precision__is_scikit_learns_on_anything(data):
    count = data.draw(st.integers(1, 12))
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count)), dtype=float)[:, None]
    relevant = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))[:, None]
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    got = average_precision(scores, relevant, weights)
    if not (relevant[:, 0] & (weights > 0)).any():
        assert np.isnan(got).all()
    else:
        np.testing.assert_allclose(got, scikit(scores, relevant, weights), atol=1e-12)
        assert 0 < got[0] <= 1 + 1e-12
