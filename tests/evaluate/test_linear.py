"""Linear probe: scikit-learn's optimum at the C that dev chooses, a case by hand, and what must not change it."""

import warnings

import numpy as np
import pytest
import torch
from fakes import clouds
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler, normalize

from kdlib.evaluate import linear


def parts(classes: int = 5):
    return clouds(300, classes, 1, 1.5), clouds(100, classes, 2, 1.5), clouds(120, classes, 3, 1.5)


def test_standardise__is_scikit_learns_with_the_statistics_of_fit():
    fit, other = clouds(80, 4, 1)[0], clouds(30, 4, 2)[0]
    scaler = StandardScaler().fit(normalize(fit.double().numpy()))
    for got, rows in zip(linear.standardise(fit, other), (fit, other), strict=True):
        np.testing.assert_allclose(got, scaler.transform(normalize(rows.double().numpy())), atol=1e-9)


@pytest.mark.parametrize("classes", [2, 5])
def test_credits__are_the_hits_of_scikit_learns_optimum_at_the_best_penalties(classes):
    """Tight fits from a cold start for each penalty; the first of equal ones is taken."""
    data = parts(classes)
    credits, facts = linear.credits(*data)
    fit, dev, test = linear.standardise(*(rows for rows, _ in data))
    models = {
        "linear_top1": {c: LogisticRegression(C=c, tol=1e-10, max_iter=10_000) for c in linear.CS},
        "ridge_top1": {value: RidgeClassifier(alpha=value * len(fit)) for value in linear.LAMBDAS},
    }
    for name, chosen in (("linear_top1", facts["linear_c"]), ("ridge_top1", facts["ridge_lambda"])):
        reached = {value: model.fit(fit, data[0][1]).score(dev, data[1][1]) for value, model in models[name].items()}
        assert chosen == max(reached, key=reached.get)
        assert credits[name].tolist() == (models[name][chosen].predict(test) == data[2][1]).tolist()
        assert 0.5 < credits[name].mean() < 1
    assert facts["linear_converged"] and facts["linear_search_images"] == 300


def test_credits__a_probe_that_runs_out_of_iterations_says_so(monkeypatch):
    monkeypatch.setattr(linear, "ITERATIONS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert linear.credits(*parts())[1]["linear_converged"] is False


def test_credits__a_large_fit_is_searched_on_every_nth_image_of_each_class(monkeypatch):
    """300 x 12 x 5 values with room for 3,600: every fifth image. The final fit is to all, so a tie of C's is one."""
    whole, facts = linear.credits(*parts())
    fits, original = [], LogisticRegression.fit

    def spy(self, rows, labels):
        fits.append(np.bincount(labels).tolist())
        return original(self, rows, labels)

    monkeypatch.setattr(linear, "SEARCH", 3600)
    monkeypatch.setattr(LogisticRegression, "fit", spy)
    monkeypatch.setattr(linear, "CS", (facts["linear_c"],))
    credits, found = linear.credits(*parts())
    assert fits == [[12] * 5, [60] * 5] and found["linear_search_images"] == 60
    assert np.mean(credits["linear_top1"] == whole["linear_top1"]) > 0.98


def test_credits__a_class_that_fit_lacks_is_never_found():
    (rows, labels), dev, test = parts()
    credits, _ = linear.credits((rows[labels != 3], labels[labels != 3]), dev, test)
    for values in credits.values():
        assert values[test[1] == 3].max() == 0 and values[test[1] != 3].mean() > 0.5


@pytest.mark.parametrize("width", [2, 33, 256])
def test_credits__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width):
    vector = torch.randn(1, width, generator=torch.Generator().manual_seed(width))
    for classes in (2, 3, 7):
        data = [(vector.repeat(size, 1), np.arange(size) % classes) for size in (classes * 11, classes * 3, 40)]
        for values in linear.credits(*data)[0].values():
            assert values == pytest.approx(np.full(40, 1 / classes), abs=1e-12)


def test_credits__features_that_are_not_numbers_are_an_error():
    fit, dev, (rows, labels) = parts()
    with pytest.raises(ValueError, match="not finite"):
        linear.credits(fit, dev, (rows * torch.nan, labels))
