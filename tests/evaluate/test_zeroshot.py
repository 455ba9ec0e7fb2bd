"""Zero-shot mAP against scikit-learn, torchmetrics, repeated rows, and cases by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.classification import MultilabelAveragePrecision

from kdlib.evaluate import zeroshot


def drawn(images: int, categories: int, seed: int, levels: int | None = None, share: float = 0.2):
    """Scores and relevance; with ``levels``, so few distinct scores that nearly everything ties."""
    rng = np.random.default_rng(seed)
    relevant = rng.random((images, categories)) < share
    scores = rng.normal(size=(images, categories)) + relevant
    return (np.round(scores * levels) / levels if levels else scores), relevant


def resamples(images: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=count)


def average_precision(scores, relevant, weights=None) -> np.ndarray:
    """(K,) of one resample of the images."""
    return zeroshot.average_precision(scores, relevant, None if weights is None else np.asarray(weights)[None])[:, 0]


def scikit(scores, relevant, weights=None) -> list[float]:
    """One category at a time; NaN where scikit-learn warns and says 0."""
    result = []
    for k in range(scores.shape[1]):
        counted = relevant[:, k] if weights is None else relevant[:, k] & (weights > 0)
        known = counted.any()
        value = average_precision_score(relevant[:, k], scores[:, k], sample_weight=weights) if known else np.nan
        result.append(value)
    return result


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_average_precision__is_scikit_learns_with_and_without_ties(levels):
    scores, relevant = drawn(200, 12, 1, levels)
    np.testing.assert_allclose(average_precision(scores, relevant), scikit(scores, relevant), atol=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
def test_average_precision__is_scikit_learns_with_weights(levels):
    scores, relevant = drawn(60, 10, 2, levels, 0.05)
    for weights in [*resamples(60, 20, 3), np.random.default_rng(4).random(60)]:
        got = average_precision(scores, relevant, weights)
        np.testing.assert_allclose(got, scikit(scores, relevant, weights), atol=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
def test_average_precision__a_weight_is_a_row_repeated(levels):
    scores, relevant = drawn(50, 8, 5, levels)
    for weights in resamples(50, 10, 6):
        pick = np.repeat(np.arange(50), weights)
        expected = average_precision(scores[pick], relevant[pick])
        np.testing.assert_allclose(average_precision(scores, relevant, weights), expected, atol=1e-12)


def test_average_precision__is_torchmetrics_where_nothing_ties():
    scores, relevant = drawn(150, 9, 7)
    metric = MultilabelAveragePrecision(9, average=None)
    expected = metric(torch.tensor(scores).sigmoid(), torch.tensor(relevant).long())
    got = average_precision(scores, relevant)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
    mean = MultilabelAveragePrecision(9)(torch.tensor(scores).sigmoid(), torch.tensor(relevant).long())
    assert zeroshot.mean_average_precision(scores, relevant) == pytest.approx(mean.item(), abs=1e-5)


def test_average_precision__by_hand():
    """Right, wrong, right, wrong: (1/1 + 2/3) / 2. Tied in pairs: (1/2 + 2/4) / 2. The second twice: (1 + 2/4) / 2."""
    relevant = np.array([[True], [False], [True], [False]])
    clear = np.array([[0.9], [0.8], [0.7], [0.6]])
    assert average_precision(clear, relevant).tolist() == pytest.approx([5 / 6])
    tied = np.array([[0.9], [0.9], [0.6], [0.6]])
    assert average_precision(tied, relevant).tolist() == pytest.approx([1 / 2])
    assert average_precision(clear, relevant, np.array([1, 2, 1, 0])).tolist() == pytest.approx([3 / 4])


def test_average_precision__perfect_scores_are_one_and_reversed_ones_the_worst():
    relevant = drawn(40, 6, 1)[1]
    assert average_precision(relevant.astype(float), relevant).tolist() == pytest.approx([1] * 6)
    worst = average_precision(-relevant.astype(float), relevant)
    assert worst.tolist() == pytest.approx(relevant.mean(axis=0))  # all relevant ones tie at the very end


def test_average_precision__a_constant_encoder_scores_exactly_the_prevalence_whatever_the_rounding():
    relevant = drawn(130, 7, 1)[1]
    for width in (2, 3, 31, 33, 64, 127, 256):
        image, *texts = torch.randn(8, width, generator=torch.Generator().manual_seed(width))
        scores = zeroshot.similarities(image.repeat(130, 1), torch.stack(texts))
        assert average_precision(scores, relevant).tolist() == relevant.mean(axis=0).tolist()


def test_average_precision__random_scores_are_near_the_prevalence():
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(4000, 40)), rng.random((4000, 40)) < 0.1
    assert zeroshot.mean_average_precision(scores, relevant) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("levels", [None, 2])
def test_average_precision__order_of_the_images_changes_nothing(levels):
    scores, relevant = drawn(80, 6, 9, levels)
    weights = resamples(80, 1, 1)[0]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(80)
        for chosen in (None, weights):
            got = average_precision(scores[order], relevant[order], None if chosen is None else chosen[order])
            assert got.tolist() == average_precision(scores, relevant, chosen).tolist()


def test_average_precision__a_category_that_no_image_shows_is_not_a_number_and_not_in_the_mean():
    scores, relevant = drawn(30, 4, 1)
    relevant[:, 2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = average_precision(scores, relevant)
        mean = zeroshot.mean_average_precision(scores, relevant)
        nothing = zeroshot.mean_average_precision(scores, np.zeros_like(relevant))
    assert np.isnan(values).tolist() == [False, False, True, False]
    assert mean == pytest.approx(values[[0, 1, 3]].mean()) and isinstance(mean, float)
    assert np.isnan(nothing)


def test_mean_average_precision__of_replicates_is_each_one_by_itself():
    """More replicates than a block, and a rare category that some of them do not draw."""
    scores, relevant = drawn(40, 5, 11, 3)
    relevant[:, 4] = np.arange(40) == 7
    weights = resamples(40, zeroshot.REPLICATES + 9, 12)
    got = zeroshot.mean_average_precision(scores, relevant, weights)
    assert got.shape == (zeroshot.REPLICATES + 9,) and 0 < (weights[:, 7] == 0).sum() < len(weights)
    expected = [np.nanmean(scikit(scores, relevant, row)) for row in weights]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_mean_average_precision__of_equal_weights_is_the_one_without():
    scores, relevant = drawn(40, 5, 1, 2)
    got = zeroshot.mean_average_precision(scores, relevant, np.stack([np.ones(40), np.full(40, 3), np.zeros(40)]))
    assert got[:2].tolist() == pytest.approx([zeroshot.mean_average_precision(scores, relevant)] * 2)
    assert np.isnan(got[2])


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-5, 5))
def test_average_precision__only_the_ranking_counts(seed, scale, shift):
    scores, relevant = drawn(30, 3, seed, 4, 0.4)
    moved = np.round(scale * scores + shift, 9)
    np.testing.assert_array_equal(average_precision(moved, relevant), average_precision(scores, relevant))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_average_precision__raising_a_relevant_image_to_the_top_never_costs(seed):
    scores, relevant = drawn(20, 1, seed, 3, 0.4)
    relevant[0] = True
    better = scores.copy()
    better[0] = scores.max() + 1
    assert average_precision(better, relevant) >= average_precision(scores, relevant) - 1e-12


def test_similarities__are_cosines_of_any_length():
    images = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0]])
    got = zeroshot.similarities(images, texts)
    assert got.dtype == np.float64 and got.tolist() == [[0.6, 0.8, -0.6], [0.0, 1.0, 0.0]]
    with pytest.raises(ValueError, match="not finite"):
        zeroshot.similarities(images * torch.nan, texts)


def test_prompts__are_one_sentence_a_category_in_order():
    assert zeroshot.prompts(("dog", "fire hydrant")) == ["a photo of a dog", "a photo of a fire hydrant"]


def test_relevance__by_hand():
    got = zeroshot.relevance(((0, 2), (), (2,)), 4)
    assert got.dtype == bool and got.astype(int).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert zeroshot.relevance((), 4).shape == (0, 4)


@pytest.mark.parametrize("index", [-1, 4])
def test_relevance__an_index_outside_the_categories_is_an_error(index):
    with pytest.raises(ValueError, match="Image 1 has the categories"):
        zeroshot.relevance(((0,), (index,)), 4)


def test_average_precision__arrays_that_do_not_belong_together_are_an_error():
    scores, relevant = drawn(10, 3, 1)
    with pytest.raises(ValueError, match="do not belong together"):
        average_precision(scores, relevant[:9])
    with pytest.raises(ValueError, match="do not belong together"):
        average_precision(scores, relevant, np.ones(9))
    with pytest.raises(ValueError, match="do not belong together"):
        zeroshot.mean_average_precision(scores, relevant, np.ones(10))  # (R, N) it must be
    with pytest.raises(ValueError, match="0 or more"):
        average_precision(scores, relevant, -np.ones(10))
    with pytest.raises(ValueError, match="not finite"):
        average_precision(scores * np.nan, relevant)
