"""Linear probe against scikit-learn, a case by hand, and what must not change it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler, normalize

from kdlib.evaluate import linear


def clouds(count: int, classes: int, seed: int, spread: float = 1.5):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 12))
    return torch.tensor(centres[labels] + spread * rng.normal(size=(count, 12)), dtype=torch.float32), labels


def splits(classes: int = 5):
    return *clouds(300, classes, 1), *clouds(100, classes, 2), *clouds(120, classes, 3)


def standard(features: torch.Tensor) -> tuple[np.ndarray, StandardScaler]:
    rows = normalize(features.double().numpy())
    scaler = StandardScaler().fit(rows)
    return scaler.transform(rows), scaler


def test_standardise__is_scikit_learns_with_the_statistics_of_fit():
    fit, other = clouds(80, 4, 1)[0], clouds(30, 4, 2)[0]
    expected, scaler = standard(fit)
    got = linear.standardise(fit, other)
    np.testing.assert_allclose(got[0], expected, atol=1e-9)
    np.testing.assert_allclose(got[1], scaler.transform(normalize(other.double().numpy())), atol=1e-9)


def test_standardise__leaves_a_feature_without_variance_at_nothing():
    """Rows of length 1 whose third feature is 0.6 up to the rounding of float32."""
    angle = torch.linspace(0, 6, 50)
    rows = torch.stack([0.8 * angle.cos(), 0.8 * angle.sin(), torch.full((50,), 0.6)], dim=1)
    got = linear.standardise(rows)[0]
    assert got[:, 2].abs().max() < 1e-6
    assert got[:, :2].std(dim=0, correction=0).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(("gradient", "apart"), [(linear.GRADIENT, 5e-3), (1e-7, 1e-5)])
@pytest.mark.parametrize("c", linear.CS)
def test_logistic__is_scikit_learns_at_the_same_c(monkeypatch, c, gradient, apart):
    """The same optimum: as near as the default stops, and ten times nearer than 1e-4 where it goes on."""
    monkeypatch.setattr(linear, "GRADIENT", gradient)
    fit, labels, dev = *clouds(300, 5, 1), clouds(100, 5, 2)[0]
    fit, dev = linear.standardise(fit, dev)
    model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(fit.numpy(), labels)
    weights, bias, _, converged = linear.logistic(fit, labels, c)
    shares = (dev @ weights + bias).softmax(dim=1).numpy()
    assert converged
    np.testing.assert_allclose(shares, model.predict_proba(dev.numpy()), atol=apart)
    assert (shares.argmax(axis=1) == model.predict(dev.numpy())).all()


def test_logistic__that_runs_out_of_iterations_says_so(monkeypatch):
    monkeypatch.setattr(linear, "ITERATIONS", 2)
    fit, labels = clouds(100, 4, 1)
    assert linear.logistic(linear.standardise(fit)[0], labels, 1.0)[2:] == (2, False)


def test_logistic__a_warm_start_ends_where_a_cold_one_does():
    fit, labels = clouds(200, 4, 1)
    fit = linear.standardise(fit)[0]
    warm = linear.logistic(fit, labels, 1.0, linear.logistic(fit, labels, 0.1))
    cold = linear.logistic(fit, labels, 1.0)
    shares = [(fit @ weights + bias).softmax(dim=1).numpy() for weights, bias, *_ in (warm, cold)]
    np.testing.assert_allclose(shares[0], shares[1], atol=5e-3)
    again = linear.logistic(fit, labels, 1.0, cold)
    assert again[2] == 0 and again[3]


def test_logistic__chunks_of_rows_change_nothing(monkeypatch):
    fit, labels = clouds(100, 4, 1)
    whole = linear.logistic(linear.standardise(fit)[0], labels, 1.0)
    monkeypatch.setattr(linear, "ROWS", 7)
    parts = linear.logistic(linear.standardise(fit)[0], labels, 1.0)
    np.testing.assert_allclose(whole[0], parts[0], atol=1e-4)


def test_logistic__by_hand():
    """Two samples at +1 and -1: w = (u, -u), share s(2u), and the gradient -2 (1 - s) + 2 x 2u / (2c) is 0."""
    c = 0.5
    weights, bias, *_ = linear.logistic(torch.tensor([[1.0], [-1.0]]).double(), np.array([0, 1]), c)
    u = weights[0, 0].item()
    assert weights[0, 1].item() == pytest.approx(-u) and bias.tolist() == pytest.approx([0, 0])
    share = 1 / (1 + np.exp(-2 * u))
    assert u == pytest.approx(c * (1 - share), abs=1e-3)
    assert 0.1 < u < 0.25


def test_logistic__of_two_classes_is_scikit_learns_at_the_same_c():
    fit, labels = clouds(200, 2, 1, 1.5)
    (fit,) = linear.standardise(fit)
    for c in (0.01, 1.0):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(fit.numpy(), labels)
        weights, bias, _, converged = linear.logistic(fit, labels, c)
        assert converged
        np.testing.assert_allclose((weights[:, 1] - weights[:, 0]).numpy(), model.coef_[0], rtol=0.02, atol=2e-3)
        assert float(bias[1] - bias[0]) == pytest.approx(model.intercept_[0], abs=2e-3)


def test_credits__without_the_probe_there_is_ridge_alone():
    rows, facts = linear.credits(*splits(), probe=False)
    assert set(rows) == {"ridge_top1"} and set(facts) == {"ridge_lambda"}
    assert rows["ridge_top1"].tolist() == linear.credits(*splits())[0]["ridge_top1"].tolist()


def test_credits__stop_when_two_penalties_in_a_row_are_no_better(monkeypatch):
    """By hand: dev falls from the first C on, so that the third is the last one fitted."""
    fitted, fit = [], linear.logistic

    def spy(features, labels, c, start):
        fitted.append(c)
        return fit(features, labels, c, start)

    monkeypatch.setattr(linear, "logistic", spy)
    monkeypatch.setattr(linear, "top_class_credit", lambda scores, labels, k: np.ones(len(labels)) / len(fitted))
    linear.credits(*splits())
    assert fitted == list(linear.CS[:3])


def test_ridge__is_scikit_learns_at_the_same_penalty():
    fit, labels, dev = *clouds(300, 5, 1), clouds(100, 5, 2)[0]
    fit, dev = linear.standardise(fit, dev)
    for value, (weights, bias) in zip(linear.LAMBDAS, linear.ridge(fit, labels, linear.LAMBDAS), strict=True):
        model = RidgeClassifier(alpha=value * len(fit)).fit(fit.numpy(), labels)
        scores = (dev @ weights + bias).numpy()
        np.testing.assert_allclose(2 * scores - 1, model.decision_function(dev.numpy()), atol=1e-8)  # targets -1, 1
        assert (scores.argmax(axis=1) == model.predict(dev.numpy())).all()


def test_ridge__by_hand():
    """x = +1 and -1 with targets 1 and 0, mean 1/2: w = mean(x y) / (mean(x^2) + lambda) = (1/2) / (1 + 1)."""
    (weights, bias), *_ = linear.ridge(torch.tensor([[1.0], [-1.0]]).double(), np.array([0, 1]), (1.0,))
    assert weights.tolist() == [pytest.approx([0.25, -0.25])] and bias.tolist() == [0.5, 0.5]


def test_credits__are_the_hits_of_scikit_learns_models():
    fit, fit_labels, _, _, test, labels = splits()
    rows, facts = linear.credits(*splits())
    scaled, scaler = standard(fit)
    query = scaler.transform(normalize(test.double().numpy()))
    logistic = LogisticRegression(C=facts["linear_c"], tol=1e-10, max_iter=10_000).fit(scaled, fit_labels)
    ridge = RidgeClassifier(alpha=facts["ridge_lambda"] * len(fit)).fit(scaled, fit_labels)
    assert rows["linear_top1"].tolist() == (logistic.predict(query) == labels).tolist()
    assert rows["ridge_top1"].tolist() == (ridge.predict(query) == labels).tolist()
    assert 0.5 < rows["linear_top1"].mean() < 0.99
    assert facts["linear_converged"] is True and facts["linear_iterations"] > 0


def test_credits__choose_by_dev_and_the_more_regularised_where_two_are_equal():
    """Separable: every C is right on all of dev, so the smallest C and the largest lambda are taken."""
    data = *clouds(100, 4, 1, 0.05), *clouds(40, 4, 2, 0.05), *clouds(60, 4, 3, 0.05)
    rows, facts = linear.credits(*data)
    assert rows["linear_top1"].tolist() == rows["ridge_top1"].tolist() == [1.0] * 60
    assert facts["linear_c"] == min(linear.CS) and facts["ridge_lambda"] == max(linear.LAMBDAS)


def test_credits__choose_the_c_that_is_best_on_dev():
    fit, fit_labels, dev, dev_labels, *_ = splits()
    fit_rows, dev_rows = linear.standardise(fit, dev)
    reached = {}
    for c in linear.CS:
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(fit_rows.numpy(), fit_labels)
        reached[c] = model.score(dev_rows.numpy(), dev_labels)
    assert len(set(reached.values())) > 1
    assert linear.credits(*splits())[1]["linear_c"] == max(reached, key=reached.get)  # max keeps the first, smallest


def test_credits__test_labels_are_scored_and_nothing_else():
    *data, labels = splits(2)
    rows, facts = linear.credits(*data, labels)
    other, other_facts = linear.credits(*data, 1 - labels)
    assert facts == other_facts
    for name, values in rows.items():
        assert (1 - values).tolist() == other[name].tolist()  # of two classes: the same predictions


def test_credits__other_test_images_change_nothing():
    *data, test, labels = splits()
    rows, facts = linear.credits(*data, test, labels)
    few, few_facts = linear.credits(*data, test[:7], labels[:7])
    assert facts == few_facts
    assert all(few[name].tolist() == values[:7].tolist() for name, values in rows.items())


@pytest.mark.parametrize("width", [2, 3, 33, 256])
def test_credits__a_constant_encoder_scores_exactly_chance_whatever_the_rounding(width):
    vector = torch.randn(1, width, generator=torch.Generator().manual_seed(width))
    for classes in (2, 3, 7):
        sizes = [classes * 11, classes * 3, 40]
        data = [part for size in sizes for part in (vector.repeat(size, 1), np.arange(size) % classes)]
        rows, _ = linear.credits(*data)
        for values in rows.values():
            assert values == pytest.approx(np.full(40, 1 / classes), abs=1e-12)


def test_credits__a_constant_encoder_with_float32_noise_in_test_is_at_chance_on_the_mean():
    """Batches of another shape round in another way; the noise must not be standardised into a feature."""
    rng = np.random.default_rng(0)
    rows = torch.full((600, 8), 0.3) * (1 + 1e-7 * torch.tensor(rng.normal(size=(600, 8)), dtype=torch.float32))
    assert linear.standardise(rows)[0].abs().max() < 1e-5


def test_credits__scale_of_the_features_changes_nothing():
    fit, fit_labels, dev, dev_labels, test, labels = splits()
    rows, facts = linear.credits(fit, fit_labels, dev, dev_labels, test, labels)
    scaled, scaled_facts = linear.credits(300 * fit, fit_labels, 300 * dev, dev_labels, 300 * test, labels)
    assert {name: values.tolist() for name, values in rows.items()} == {n: v.tolist() for n, v in scaled.items()}
    chosen = ("linear_c", "ridge_lambda", "linear_converged")
    assert [facts[name] for name in chosen] == [scaled_facts[name] for name in chosen]


def test_credits__order_of_the_samples_changes_nothing():
    fit, fit_labels, dev, dev_labels, test, labels = splits()
    rows, facts = linear.credits(fit, fit_labels, dev, dev_labels, test, labels)
    a, b, c = (np.random.default_rng(4).permutation(len(part)) for part in (fit, dev, test))
    shuffled, others = linear.credits(fit[a], fit_labels[a], dev[b], dev_labels[b], test[c], labels[c])
    for name, values in rows.items():
        assert shuffled[name].tolist() == values[c].tolist()
    assert (facts["linear_c"], facts["ridge_lambda"]) == (others["linear_c"], others["ridge_lambda"])


def test_credits__are_the_same_twice():
    first, second = linear.credits(*splits()), linear.credits(*splits())
    assert first[1] == second[1]
    assert all(first[0][name].tobytes() == second[0][name].tobytes() for name in first[0])


def test_credits__leave_the_callers_features_alone():
    data = [part.double() if torch.is_tensor(part) else part for part in splits()]
    before = [part.clone() for part in data[::2]]
    linear.credits(*data)
    assert all(torch.equal(old, new) for old, new in zip(before, data[::2], strict=True))


def test_credits__a_class_that_fit_does_not_have_is_an_error_that_names_it():
    fit, fit_labels, dev, dev_labels, test, labels = splits()
    keep = fit_labels != 3
    with pytest.raises(ValueError, match=r"fit has no image of 1 of 5 classes \(3\)"):
        linear.credits(fit[keep], fit_labels[keep], dev, dev_labels, test, labels)


def test_credits__labels_that_do_not_match_their_rows_are_an_error():
    fit, fit_labels, dev, dev_labels, test, labels = splits()
    with pytest.raises(ValueError, match="dev has 100 rows of features and 99 labels"):
        linear.credits(fit, fit_labels, dev, dev_labels[1:], test, labels)
    with pytest.raises(ValueError, match="test is empty"):
        linear.credits(fit, fit_labels, dev, dev_labels, test[:0], labels[:0])
    with pytest.raises(ValueError, match="dev has a label below 0"):
        linear.credits(fit, fit_labels, dev, dev_labels - 1, test, labels)


def test_credits__features_that_are_not_numbers_are_an_error():
    fit, fit_labels, dev, dev_labels, test, labels = splits()
    with pytest.raises(ValueError, match="not finite"):
        linear.credits(fit, fit_labels, dev, dev_labels, test * torch.nan, labels)
