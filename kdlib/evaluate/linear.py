"""Linear probe: accuracy of linear classifiers on frozen features, by logistic regression and by ridge regression.

Logistic regression by L-BFGS as in scikit-learn's LogisticRegression (Pedregosa et al., JMLR 2011; the linear
evaluation of CLIP, arXiv:2103.00020, does the same); ridge as in its RidgeClassifier.
"""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from kdlib.evaluate.metrics import top_class_credit, unit_rows

CS = (0.001, 0.01, 0.1, 1.0, 10.0)  # from the most regularised; each fit starts from the solution before it
LAMBDAS = (1.0, 0.1, 0.01, 0.001, 0.0001)  # per row of fit, so that the grid means the same at every size
ROWS = 8192  # at a time: 8192 x 200 float64 logits are 13 MB
NO_SPREAD = 1e-6  # of a feature of unit rows: below it is the rounding of float32, not a feature
GRADIENT = 1e-4  # converged when no component of the mean loss's gradient is above; 1e-5 costs 1.7 x for 0.001 top-1
PATIENCE = 2  # penalties in a row that are no better on dev: the rest of CS, the slowest to fit, is not tried
ITERATIONS = 500


def credits(
    fit: Tensor,
    fit_labels: np.ndarray,
    dev: Tensor,
    dev_labels: np.ndarray,
    test: Tensor,
    test_labels: np.ndarray,
    probe: bool = True,
) -> tuple[dict[str, np.ndarray], dict[str, float | int | bool]]:
    """``linear_top1`` and ``ridge_top1``, one credit in [0, 1] per test image (Q,), and facts about the fits.

    Features (rows, D) with labels (rows,) 0 to K - 1. Rows are brought to length 1, then standardised with
    ``fit`` statistics. ``fit`` alone is fitted; C and lambda are chosen by top-1 on ``dev``, the more regularised
    one where two are equal, and C no further than two in a row are no better; ``test`` is only scored. Without
    ``probe`` there is ridge alone, the closed form. Classes tied at the top share the credit, so that a constant
    encoder and a ``fit`` in balance score exactly 1/K.

    The facts are ``linear_c``, ``linear_iterations`` and ``linear_converged`` (of the C chosen, started from
    the C before) and ``ridge_lambda`` (per fit row; scikit-learn's alpha is this times the rows).
    Raises ValueError for labels that do not match their rows, a split without rows, and a class that ``fit`` does
    not have.
    """
    _check({"fit": (fit, fit_labels), "dev": (dev, dev_labels), "test": (test, test_labels)})
    fit, dev, test = standardise(fit, dev, test)

    result, facts = {}, {}
    if probe:
        best, start, worse = -1.0, None, 0
        for c in CS:
            weights, bias, iterations, converged = start = logistic(fit, fit_labels, c, start)
            reached = top_class_credit(_log_shares(dev, weights, bias), dev_labels, 1).mean()
            worse += 1
            if reached > best + 1e-12:
                best, linear, worse = reached, (weights, bias), 0
                facts = {"linear_c": c, "linear_iterations": iterations, "linear_converged": converged}
            if worse == PATIENCE:
                break
        result["linear_top1"] = top_class_credit(_log_shares(test, *linear), test_labels, 1)

    best = -1.0
    for value, (weights, bias) in zip(LAMBDAS, ridge(fit, fit_labels, LAMBDAS), strict=True):
        reached = top_class_credit((dev @ weights + bias).numpy(), dev_labels, 1).mean()
        if reached > best + 1e-12:
            best, closed, facts["ridge_lambda"] = reached, (weights, bias), value

    result["ridge_top1"] = top_class_credit((test @ closed[0] + closed[1]).numpy(), test_labels, 1)
    return result, facts


def standardise(fit: Tensor, *others: Tensor) -> list[Tensor]:
    """Unit rows (rows, D) float64 of each, shifted and scaled so that ``fit`` has mean 0 and deviation 1.

    A feature that does not vary in ``fit`` is divided by 1. Raises ValueError when a value is not finite.
    """
    parts = [torch.cat([unit_rows(rows) for rows in part.split(ROWS)]) for part in (fit, *others)]
    variance, mean = torch.var_mean(parts[0], dim=0, correction=0)
    deviation = variance.sqrt()
    deviation[deviation < NO_SPREAD] = 1.0
    return [part.sub_(mean).div_(deviation) for part in parts]  # in place: 90,000 x 256 are 184 MB


def logistic(
    features: Tensor, labels: np.ndarray, c: float, start: tuple | None = None
) -> tuple[Tensor, Tensor, int, bool]:
    """Multinomial logistic regression: weights (D, K), bias (K,), iterations, whether it converged.

    Minimises mean cross-entropy (nats) + ||weights||^2 / (2 c n) over ``features`` (n, D) float64 by L-BFGS, the
    bias not penalised. Of two classes only the difference of the columns counts; its penalty is that of the one column
    which scikit-learn fits then, so that C means the same. ``start`` is an earlier result of this function, otherwise
    all is zero.
    """
    count, width = features.shape
    targets = torch.as_tensor(labels)
    classes = int(targets.max()) + 1
    penalty = (2.0 if classes == 2 else 1.0) / (c * count)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(values).view(width + 1, classes)  # the last row is the bias
        weights, bias = parameters[:-1], parameters[-1]
        gradient = torch.zeros_like(parameters)
        total = 0.0
        for rows, own in zip(features.split(ROWS), targets.split(ROWS), strict=True):
            log_shares = torch.addmm(bias, rows, weights).log_softmax(dim=1)  # (B, K)
            total -= log_shares.gather(1, own[:, None]).sum().item()
            error = log_shares.exp_().scatter_add_(1, own[:, None], -torch.ones(len(own), 1, dtype=torch.float64))
            gradient[:-1].addmm_(rows.T, error)
            gradient[-1] += error.sum(dim=0)
        gradient /= count
        gradient[:-1] += penalty * weights
        return total / count + 0.5 * penalty * weights.square().sum().item(), gradient.numpy().ravel()

    first = torch.zeros(width + 1, classes, dtype=torch.float64)
    if start is not None:
        first = torch.cat([start[0], start[1][None]])
    # The default ftol stops on small steps long before the gradient is small; scikit-learn sets this one.
    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": GRADIENT, "ftol": 64 * np.finfo(float).eps}
    found = minimize(loss, first.numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
    solution = torch.from_numpy(found.x).view(width + 1, classes)
    return solution[:-1], solution[-1], int(found.nit), bool(found.success)


def ridge(features: Tensor, labels: np.ndarray, lambdas: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Least squares onto one-hot targets: weights (D, K) and bias (K,) for each lambda.

    Minimises the mean squared error + lambda ||weights||^2 over ``features`` (n, D) float64, which must have
    mean 0 as :func:`standardise` leaves them; then the bias is the share of each class. One eigendecomposition
    of the (D, D) Gram matrix serves all lambdas.
    """
    targets = torch.as_tensor(labels)
    classes = int(targets.max()) + 1
    count, width = features.shape
    gram = features.T @ features / count
    sums = torch.zeros(classes, width, dtype=torch.float64).index_add_(0, targets, features)
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ sums.T / count  # (D, K)
    shares = torch.bincount(targets, minlength=classes).double() / count
    return [(vectors @ (turned / (values.clamp_min(0) + value)[:, None]), shares) for value in lambdas]


def _log_shares(features: Tensor, weights: Tensor, bias: Tensor) -> np.ndarray:
    """(B, K) log-probabilities. Logits near 0 would break ties by rounding: the slack of a tie is relative."""
    return (features @ weights + bias).log_softmax(dim=1).numpy()


def _check(splits: dict[str, tuple[Tensor, np.ndarray]]) -> None:
    for name, (features, labels) in splits.items():
        if len(features) != len(labels):
            raise ValueError(f"{name} has {len(features)} rows of features and {len(labels)} labels.")
        if len(labels) == 0:
            raise ValueError(f"{name} is empty; the linear probe needs fit, dev and test.")
        if labels.min() < 0:
            raise ValueError(f"{name} has a label below 0; classes count from 0.")
    classes = 1 + max(int(labels.max()) for _, labels in splits.values())
    missing = np.setdiff1d(np.arange(classes), splits["fit"][1])
    if len(missing):
        some = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise ValueError(
            f"fit has no image of {len(missing)} of {classes} classes ({some}); a class that is never fitted cannot "
            f"be found. Take more images a class, or score only the classes of fit."
        )
