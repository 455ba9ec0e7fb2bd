"""Linear probe: scikit-learn's LogisticRegression, as in CLIP's (arXiv:2103.00020), and the faster RidgeClassifier."""

import copy
import warnings

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor

from kdlib.evaluate.metrics import top_class_credit, unit_rows

CS = (0.001, 0.01, 0.1, 1.0, 10.0)  # from the most regularised; each fit starts from the solution before it
LAMBDAS = (1.0, 0.1, 0.01, 0.001, 0.0001)  # scikit-learn's alpha per row of fit: the same at every size
SEARCH = 10**9  # rows x width x classes that C is searched on at most: about 0.1 s an iteration on one core
PATIENCE = 2  # penalties in a row that are no better on dev: the rest of CS, the slowest to fit, is not tried
ITERATIONS = 500
GRADIENT = 1e-4  # converged when no component of the mean loss's gradient is above
NO_SPREAD = 1e-6  # of a feature of unit rows: below it is the rounding of float32, not a feature
NEVER = -1e300  # the score of a class that fit does not have

Part = tuple[Tensor, np.ndarray]  # features (rows, D), labels (rows,)


def credits(fit: Part, dev: Part, test: Part) -> tuple[dict[str, np.ndarray], dict]:
    """``linear_top1`` and ``ridge_top1``, one credit in [0, 1] per test image, and facts about the fits.

    Unit rows, standardised with the statistics of ``fit``, which alone is fitted. C and lambda are chosen by top-1 on
    ``dev``, the more regularised of equal ones. Where rows x width x classes of ``fit`` is above SEARCH, C is chosen on
    every n-th image of each class (``linear_search_images`` of them) and then fitted to all. Tied classes share.
    """
    rows, dev_rows, test_rows = standardise(fit[0], dev[0], test[0])
    labels, classes = fit[1], 1 + int(max(part[1].max() for part in (fit, dev, test)))
    step = -(-rows.size * classes // SEARCH)
    some = np.union1d(labels.argsort(kind="stable")[::step], np.unique(labels, return_index=True)[1])  # of each class
    model, best, worse = LogisticRegression(max_iter=ITERATIONS, tol=GRADIENT, warm_start=True), -1.0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the facts say it
        for c in CS:
            model.set_params(C=c).fit(rows[some], labels[some])
            share, worse = top_class_credit(_scores(model, dev_rows, classes), dev[1], 1).mean(), worse + 1
            if share > best + 1e-12:
                best, worse, chosen = share, 0, copy.copy(model)
            if worse == PATIENCE:
                break
        model = chosen.fit(rows, labels) if step > 1 else chosen
    ridges = [RidgeClassifier(alpha=value * len(labels)).fit(rows, labels) for value in LAMBDAS]
    shares = [top_class_credit(_scores(ridge, dev_rows, classes), dev[1], 1).mean() for ridge in ridges]
    first = int(np.argmax(np.round(shares, 12)))  # of equal ones
    models = {"linear_top1": model, "ridge_top1": ridges[first]}
    facts = {"linear_c": model.C, "linear_search_images": len(some), "ridge_lambda": LAMBDAS[first]}
    facts["linear_converged"] = bool(model.n_iter_[0] < ITERATIONS)
    return {name: top_class_credit(_scores(one, test_rows, classes), test[1], 1) for name, one in models.items()}, facts


def standardise(fit: Tensor, *others: Tensor) -> list[np.ndarray]:
    """Unit rows (rows, D) float64 of each, shifted and scaled so that ``fit`` has mean 0 and deviation 1."""
    parts = [unit_rows(part) for part in (fit, *others)]
    variance, mean = torch.var_mean(parts[0], dim=0, correction=0)
    deviation = variance.sqrt()
    deviation[deviation < NO_SPREAD] = 1.0
    return [part.sub_(mean).div_(deviation).numpy() for part in parts]  # in place: 90,000 x 256 are 184 MB


def _scores(model: LogisticRegression | RidgeClassifier, rows: np.ndarray, classes: int) -> np.ndarray:
    """(rows, K) log shares, or least squares onto 0 and 1: a tie's slack is relative, and none may be near 0."""
    values, shares = model.decision_function(rows), isinstance(model, LogisticRegression)
    if values.ndim == 1:  # of two classes
        values = np.stack([-values, values], axis=1) / (2 if shares else 1)
    scores = np.full((len(rows), classes), NEVER)
    scores[:, model.classes_] = log_softmax(values, axis=1) if shares else (values + 1) / 2
    return scores
