"""Fidelity against loops written out, the Gram form of CKA, torch's and scipy's KL, and cases by hand."""

import math

import numpy as np
import pytest
import torch
from fakes import signs
from scipy.special import rel_entr, softmax

from kdlib.evaluate import fidelity

NAMES = ("similarity_cosine", "neighbour_agreement", "similarity_kl")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def pair(images: int, texts: int | None, seed: int = 0) -> tuple[dict, dict]:
    student, teacher = {"image": normal(images, 6, seed=seed)}, {"image": normal(images, 9, seed=seed + 1)}
    if texts:
        student["text"], teacher["text"] = normal(texts, 6, seed=seed + 2), normal(texts, 9, seed=seed + 3)
    return student, teacher


def naive(student, teacher, scale) -> dict[str, list[float]]:
    """One image at a time, in numpy, without a chunk."""
    result = {name: [] for name in NAMES}
    for i in range(len(student["image"])):
        rows, tops = [], []
        for side in (student, teacher):
            units = {name: x.double().numpy() / np.linalg.norm(x.double(), axis=1)[:, None] for name, x in side.items()}
            near = np.round(units["image"] @ units["image"][i], 9)
            others = [j for j in range(len(near)) if j != i]
            tops.append({j for j in others if near[j] == near[others].max()})
            rows.append(units["text"] @ units["image"][i] if "text" in side else near[others])
        result["similarity_cosine"].append(rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1]))
        result["neighbour_agreement"].append(len(tops[0] & tops[1]) / len(tops[0]) / len(tops[1]))
        teacher_shares, student_shares = softmax(scale * rows[1]), softmax(scale * rows[0])
        result["similarity_kl"].append(rel_entr(teacher_shares, student_shares).sum())
    return result


@pytest.mark.parametrize("make", [
    lambda: pair(40, None), lambda: pair(40, 50), lambda: ({"image": signs(40, 1)}, {"image": signs(40, 2)}),
])  # fmt: skip
def test_credits__are_the_naive_loops_image_by_image(make, monkeypatch):
    """Also where nearly everything ties, and in chunks; the widths differ."""
    student, teacher = make()
    monkeypatch.setattr(fidelity, "CHUNK", 7)
    got, expected = fidelity.credits(student, teacher, 7), naive(student, teacher, 7)
    assert tuple(got) == NAMES
    for name in NAMES:
        assert got[name] == pytest.approx(np.array(expected[name]), abs=1e-7)


def test_credits__by_hand():
    """Student at 0, 90, 180 degrees; teacher at 0, 60, 180: rows without the diagonal, by image.

    Image 0: (0, -1) against (1/2, -1). Image 1: (0, 0), all 0 and tied, against (1/2, -1/2).
    """
    student = {"image": torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])}
    teacher = {"image": torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)], [-1.0, 0.0]], dtype=torch.float64)}
    got = fidelity.credits(student, teacher, 2)
    assert got["similarity_cosine"][:2] == pytest.approx([1 / math.sqrt(1.25), 0])
    assert got["neighbour_agreement"].tolist() == [1, 1 / 2, 1]
    high, low = math.e / (math.e + 1 / math.e), 1 / math.e / (math.e + 1 / math.e)
    assert got["similarity_kl"][1] == pytest.approx(high * math.log(2 * high) + low * math.log(2 * low))


def gram_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = XX', L = YY' and the centring matrix H."""
    count = len(first)
    centre = np.eye(count) - 1 / count
    grams = [centre @ x.double().numpy() @ x.double().numpy().T @ centre for x in (first, second)]
    own, other = (np.trace(gram @ gram) for gram in grams)
    return np.trace(grams[0] @ grams[1]) / np.sqrt(own * other)


@pytest.mark.parametrize("count", [2, 3, 60])
def test_linear_cka__is_the_gram_form(count):
    first = normal(count, 7) + 3
    second = torch.cat([first[:, :3], normal(count, 8, seed=1)], dim=1)
    assert fidelity.linear_cka(first, second)[0] == pytest.approx(gram_cka(first, second), abs=1e-9)


@pytest.mark.parametrize("width", [2, 33, 256])
def test_linear_cka__of_a_constant_encoder_is_nothing_even_with_the_rounding_of_float32(width):
    teacher, constant = normal(50, 8), normal(1, width, seed=width).repeat(50, 1)
    noisy = constant * (1 + 1e-7 * normal(50, width, seed=3))
    zeros = torch.zeros(50, width)
    for first, second in ((constant, teacher), (teacher, noisy), (noisy, teacher), (zeros, teacher), (constant,) * 2):
        assert fidelity.linear_cka(first, second)[0] == 0


def weighted_cka(first, second, weights) -> float:
    """CKA of the rows repeated by their weights, which need not be whole: centred by the weighted mean."""
    sides = [x.double().numpy() for x in (first, second)]
    x, y = (side - weights @ side / weights.sum() for side in sides)
    own, other, cross = (a.T @ (weights[:, None] * b) for a, b in ((x, x), (y, y), (x, y)))
    return (cross**2).sum() / np.sqrt((own**2).sum() * (other**2).sum())


def test_linear_cka__the_influence_is_the_derivative_by_the_weight_of_an_image():
    first = normal(30, 5) + 2
    second = torch.cat([first[:, :2], normal(30, 4, seed=1)], dim=1)
    influence = fidelity.linear_cka(first, second)[1]
    for image in (0, 11, 29):
        step = 1e-5 * np.eye(30)[image]
        ends = [weighted_cka(first, second, np.ones(30) + sign * step) for sign in (1, -1)]
        assert influence[image] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)
    assert influence.sum() == pytest.approx(0, abs=1e-12)  # twice all images is the same geometry
