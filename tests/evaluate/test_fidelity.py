"""Fidelity against loops written out, the Gram form of CKA, torch's and scipy's KL, and cases by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from scipy.stats import ortho_group

from kdlib.evaluate import fidelity
from kdlib.evaluate.uncertainty import linear_replicates, resamples

NAMES = ("similarity_cosine", "neighbour_agreement", "similarity_kl")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def signs(count: int, seed: int) -> torch.Tensor:
    """Vectors of four signs: their cosines are exact multiples of 1/2, so nearly everything ties."""
    return torch.tensor(np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, 4)), dtype=torch.float32)


def pair(images: int, texts: int | None, seed: int = 0) -> tuple[dict, dict]:
    student, teacher = {"image": normal(images, 6, seed=seed)}, {"image": normal(images, 9, seed=seed + 1)}
    if texts:
        student["text"], teacher["text"] = normal(texts, 6, seed=seed + 2), normal(texts, 9, seed=seed + 3)
    return student, teacher


def turned(features: dict, seed: int = 5) -> dict:
    rotation = torch.tensor(ortho_group.rvs(features["image"].shape[1], random_state=seed))
    return {name: rows.double() @ rotation for name, rows in features.items()}


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


@pytest.mark.parametrize("texts", [None, 1, 50])
def test_credits__are_the_naive_loops_image_by_image(texts):
    student, teacher = pair(40, texts)
    got, expected = fidelity.credits(student, teacher, 7), naive(student, teacher, 7)
    assert tuple(got) == NAMES
    for name in NAMES:
        assert got[name] == pytest.approx(np.array(expected[name]), abs=1e-7)


def test_credits__are_the_naive_loops_where_nearly_everything_ties():
    student, teacher = {"image": signs(40, 1)}, {"image": signs(40, 2)}
    got, expected = fidelity.credits(student, teacher, 1), naive(student, teacher, 1)
    for name in NAMES:
        assert got[name] == pytest.approx(np.array(expected[name]), abs=1e-7)
    assert len(np.unique(got["neighbour_agreement"])) > 2


@pytest.mark.parametrize("texts", [None, 30])
def test_credits__the_teacher_as_its_own_student_is_perfect(texts):
    _, teacher = pair(25, texts)
    got = fidelity.credits(teacher, teacher, 5)
    assert got["similarity_cosine"] == pytest.approx(np.ones(25))
    assert got["neighbour_agreement"].tolist() == [1.0] * 25
    assert got["similarity_kl"] == pytest.approx(np.zeros(25), abs=1e-9)


@pytest.mark.parametrize("texts", [None, 30])
def test_credits__a_rotation_or_the_lengths_of_the_student_change_nothing(texts):
    student, teacher = pair(25, texts)
    student = {name: rows.double() for name, rows in student.items()}
    expected = fidelity.credits(student, teacher, 7.5)
    lengths = torch.linspace(0.1, 9, 25)[:, None]
    for other in (turned(student), student | {"image": lengths * student["image"]}):
        got = fidelity.credits(other, teacher, 7.5)
        for name in NAMES:
            assert got[name] == pytest.approx(expected[name], abs=1e-7)


def test_credits__read_image_and_text_and_nothing_else():
    student, teacher = pair(12, 9)
    expected = fidelity.credits(student, teacher, 7.5)
    got = fidelity.credits(student | {"image_attention": normal(12, 4)}, teacher | {"prompt": normal(3, 9)}, 7.5)
    assert all(got[name].tolist() == expected[name].tolist() for name in NAMES)


def test_credits__order_of_the_images_and_texts_changes_nothing():
    student, teacher = pair(30, 20)
    expected = fidelity.credits(student, teacher, 7.5)
    order, texts = np.random.default_rng(1).permutation(30), np.random.default_rng(2).permutation(20)
    moved = [{"image": side["image"][order], "text": side["text"][texts]} for side in (student, teacher)]
    got = fidelity.credits(*moved, 7.5)
    for name in NAMES:
        assert got[name] == pytest.approx(expected[name][order], abs=1e-9)


def test_credits__chunks_change_nothing(monkeypatch):
    student, teacher = pair(23, None)
    whole = fidelity.credits(student, teacher, 7.5)
    monkeypatch.setattr(fidelity, "CHUNK", 5)
    for name, values in fidelity.credits(student, teacher, 7.5).items():
        assert values.shape == (23,) and values == pytest.approx(whole[name], abs=1e-9)


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


def test_credits__ties_share_the_agreement_by_hand():
    """Three equal images and one apart: each of the three has two nearest, the one apart has three."""
    tied = {"image": torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])}
    got = fidelity.credits(tied, tied, 1)
    assert got["neighbour_agreement"] == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 3])


@pytest.mark.parametrize("width", [2, 3, 33, 256])
def test_credits__a_constant_student_agrees_by_chance_and_has_the_flat_distribution(width):
    """Its nearest is any of the 29 others; its KL is log(29) less the teacher's entropy."""
    _, teacher = pair(30, None)
    student = {"image": normal(1, width, seed=width).repeat(30, 1)}
    got = fidelity.credits(student, teacher, 5)
    assert got["neighbour_agreement"] == pytest.approx(np.full(30, 1 / 29))
    unit = F.normalize(teacher["image"].double(), dim=1)
    rows = (unit @ unit.T)[~torch.eye(30, dtype=torch.bool)].view(30, 29)
    entropy = torch.distributions.Categorical(logits=10.0 * rows / 2.0).entropy()
    assert got["similarity_kl"] == pytest.approx(math.log(29) - entropy.numpy(), abs=1e-8)
    assert (got["similarity_cosine"] < 1).all()


def test_credits__kl_is_torchs_at_one_scale_for_both():
    student, teacher = pair(12, 17)
    got = fidelity.credits(student, teacher, 4)["similarity_kl"]
    rows = [
        F.normalize(s["image"].double(), dim=1) @ F.normalize(s["text"].double(), dim=1).T for s in (student, teacher)
    ]
    logits = [4.0 * values for values in rows]
    log_shares = [values.log_softmax(dim=1) for values in logits]
    expected = F.kl_div(*log_shares, reduction="none", log_target=True).sum(dim=1)
    assert got == pytest.approx(expected.numpy(), abs=1e-8) and (got > 0).all()


def test_credits__kl_stays_finite_where_the_logits_are_far_apart():
    student, teacher = pair(12, 17)
    got = fidelity.credits(student, teacher, 10000)["similarity_kl"]
    assert np.isfinite(got).all() and got.max() > 100


def test_credits__what_cannot_be_compared_is_an_error():
    student, teacher = pair(12, 17)
    with pytest.raises(ValueError, match="A student without a text encoder"):
        fidelity.credits({"image": student["image"]}, teacher, 1)
    with pytest.raises(ValueError, match="11 rows of the student's image against 12"):
        fidelity.credits(student | {"image": student["image"][1:]}, teacher, 1)
    with pytest.raises(ValueError, match="two images"):
        fidelity.credits({"image": normal(1, 3)}, {"image": normal(1, 3)}, 1)
    with pytest.raises(ValueError, match="not finite"):
        fidelity.credits(student | {"text": student["text"] * torch.nan}, teacher, 1)


def cka(first, second) -> float:
    return fidelity.linear_cka(first, second)[0]


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
    assert cka(first, second) == pytest.approx(gram_cka(first, second), abs=1e-9)


def test_linear_cka__chunks_change_nothing(monkeypatch):
    first, second = normal(50, 7), normal(50, 4, seed=1)
    whole = cka(first, second)
    monkeypatch.setattr(fidelity, "ROWS", 9)
    assert cka(first, second) == pytest.approx(whole, abs=1e-12)


def test_linear_cka__is_one_for_a_rotation_a_scale_and_a_shift():
    first = normal(40, 6).double()
    rotation = torch.tensor(ortho_group.rvs(6, random_state=1))
    for other in (first, first @ rotation, 1e-4 * first, 1e6 * first, first - 5, 1e-100 * first):
        assert cka(first, other) == pytest.approx(1)


def test_linear_cka__a_rotation_and_a_scale_of_either_change_nothing_and_it_is_symmetric():
    first, second = normal(40, 6).double(), normal(40, 9, seed=1).double()
    expected = cka(first, second)
    rotation = torch.tensor(ortho_group.rvs(6, random_state=1))
    assert 0.05 < expected < 0.9
    assert cka(7 * first @ rotation, second / 3) == pytest.approx(expected)
    assert cka(second, first) == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(40)
    assert cka(first[order], second[order]) == pytest.approx(expected)
    assert cka(first @ torch.diag(torch.arange(1.0, 7).double()), second) != pytest.approx(expected)


def test_linear_cka__by_hand():
    """Centred columns x = (1, -1, 0), y = (1, 1, -2): orthogonal. With z = (1, 0, -1): (x'z)^2 / (2 * 2) = 1/4."""
    x, y, z = (torch.tensor(column)[:, None] for column in ([1.0, -1.0, 0.0], [1.0, 1.0, -2.0], [1.0, 0.0, -1.0]))
    assert cka(x, y) == pytest.approx(0)
    assert cka(x, z) == pytest.approx(1 / 4)


def test_linear_cka__is_near_nothing_for_independent_features_of_many_images():
    assert cka(normal(20_000, 16), normal(20_000, 24, seed=1)) < 0.01


@pytest.mark.parametrize("width", [2, 3, 33, 256])
def test_linear_cka__of_a_constant_encoder_is_nothing_even_with_the_rounding_of_float32(width):
    teacher, constant = normal(50, 8), normal(1, width, seed=width).repeat(50, 1)
    noisy = constant * (1 + 1e-7 * normal(50, width, seed=3))
    for student in (constant, noisy, torch.zeros(50, width)):
        assert cka(student, teacher) == 0 == cka(teacher, student)
    assert cka(constant, constant) == 0


def weighted_cka(first, second, weights) -> float:
    """CKA of the rows repeated by their weights, which need not be whole: centred by the weighted mean."""
    sides = [x.double().numpy() for x in (first, second)]
    x, y = (side - weights @ side / weights.sum() for side in sides)
    own, other, cross = (a.T @ (weights[:, None] * b) for a, b in ((x, x), (y, y), (x, y)))
    return (cross**2).sum() / np.sqrt((own**2).sum() * (other**2).sum())


def test_linear_cka__the_influence_is_the_derivative_by_the_weight_of_an_image(monkeypatch):
    first = normal(30, 5) + 2
    second = torch.cat([first[:, :2], normal(30, 4, seed=1)], dim=1)
    monkeypatch.setattr(fidelity, "ROWS", 7)
    value, influence = fidelity.linear_cka(first, second)
    assert value == pytest.approx(cka(first, second), abs=1e-12)
    for image in (0, 11, 29):
        step = 1e-5 * np.eye(30)[image]
        ends = [weighted_cka(first, second, np.ones(30) + sign * step) for sign in (1, -1)]
        assert influence[image] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)
    assert influence.sum() == pytest.approx(0, abs=1e-12)  # twice all images is the same geometry
    assert np.allclose(fidelity.linear_cka(1e-100 * first.double(), second)[1], influence)


def test_linear_cka__the_influence_tells_what_resampling_the_images_would():
    first = normal(400, 6)
    second = torch.cat([first[:, :3], normal(400, 4, seed=1)], dim=1)
    value, influence = fidelity.linear_cka(first, second)
    weights = resamples(400, 300)
    quick = linear_replicates(value, influence, weights)
    drawn = [cka(first[rows], second[rows]) for rows in (np.repeat(np.arange(400), w) for w in weights)]
    assert np.corrcoef(quick, drawn)[0, 1] > 0.95
    assert quick.std() == pytest.approx(np.std(drawn), rel=0.15)


def test_linear_cka__the_influence_on_a_constant_encoder_is_nothing():
    value, influence = fidelity.linear_cka(normal(1, 8).repeat(50, 1), normal(50, 8))
    assert value == 0 and not influence.any() and influence.shape == (50,)


def test_linear_cka__what_cannot_be_compared_is_an_error():
    with pytest.raises(ValueError, match="9 rows against 10"):
        cka(normal(9, 3), normal(10, 3))
    with pytest.raises(ValueError, match="not finite"):
        cka(normal(9, 3), normal(9, 3) / torch.zeros(9, 3))
