"""The losses against hand-computed cases, sums written out in numpy, and scipy; and what must not change them."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib import losses

LOGITS = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.floats(-20, 20), min_size=n, max_size=n), min_size=n, max_size=n)
)
VECTORS = np.random.default_rng(4).normal(size=(2, 6, 5))
ANCHORS = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
CALLS = {
    "logit_matching": lambda s, t: losses.logit_matching(s, t, tau=2.0),
    "logit_matching without diagonal": lambda s, t: losses.logit_matching(s, t, tau=2.0, leave_out_diagonal=True),
    "attention_transfer": lambda s, t: losses.attention_transfer(s.abs(), t.abs()),
    "feature_regression": losses.feature_regression,
    "anchor_kl": lambda s, t: losses.anchor_kl(s, t, ANCHORS[:, : s.shape[1]], tau=0.1),
    "relational": losses.relational,
    "dist": lambda s, t: losses.dist(s, t, tau=2.0),
    "dist without diagonal": lambda s, t: losses.dist(s, t, tau=2.0, leave_out_diagonal=True),
    "orthogonal_projection": losses.orthogonal_projection,
}


def without_diagonal(matrix: np.ndarray) -> np.ndarray:
    size = len(matrix)
    return np.array([[matrix[i, j] for j in range(size) if j != i] for i in range(size)])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", CALLS)
def test_losses__reach_the_student_alone_and_are_finite_in_bfloat16(name):
    torch.manual_seed(0)
    for pair in (torch.randn(2, 4, 4), (100 * torch.randn(2, 8, 8)).bfloat16()):
        student, teacher = (one.requires_grad_(True) for one in pair.unbind())
        loss = CALLS[name](student, teacher)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
        assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_losses__are_zero_for_the_teacher_and_never_negative(name, seed):
    student, teacher = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(seed))
    same = F.layer_norm(teacher, (4,)) if name == "orthogonal_projection" else teacher
    assert CALLS[name](same, teacher).item() == pytest.approx(0, abs=2e-5)
    assert CALLS[name](student, teacher).item() > -1e-6


def test_similarity_logits__are_scaled_cosines_in_float32_also_under_autocast():
    """At a scale of 100 bfloat16 knows cosines to 0.4 of a logit."""
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    assert torch.allclose(losses.similarity_logits(first, second, 10.0), torch.tensor([[6.0, -8.0]]))
    torch.manual_seed(0)
    first, second = torch.randn(2, 16, 64)
    exact = losses.similarity_logits(first, second, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = losses.similarity_logits(first, second, 100.0)
    assert got.dtype == torch.float32 and torch.allclose(got, exact, atol=1e-4)


def kl_by_scipy(student: np.ndarray, teacher: np.ndarray, tau: float, keep) -> float:
    """tau^2 * mean over rows and columns of KL(teacher || student), written out."""

    def rows(s, t):
        p, q = scipy.special.softmax(keep(t) / tau, axis=1), scipy.special.softmax(keep(s) / tau, axis=1)
        return scipy.special.rel_entr(p, q).sum(axis=1).mean()

    return tau**2 * (rows(student, teacher) + rows(student.T, teacher.T)) / 2


@settings(max_examples=40, deadline=None)
@given(LOGITS, st.floats(0.5, 8), st.booleans())
def test_logit_matching__is_scipys_kl_of_all_or_of_all_but_the_diagonal(values, tau, without):
    teacher = torch.tensor(values, dtype=torch.float64)
    student = teacher.flip(0).roll(1, 1) * 0.7
    got = losses.logit_matching(student, teacher, tau=tau, leave_out_diagonal=without).item()
    keep = without_diagonal if without else np.asarray
    assert got == pytest.approx(kl_by_scipy(student.numpy(), teacher.numpy(), tau, keep), rel=1e-3, abs=1e-4)


def test_logit_matching__by_hand():
    """Rows (0, ln 3) against (0, 0): p = (1/4, 3/4), q = (1/2, 1/2)."""
    teacher = torch.tensor([[0.0, np.log(3)], [np.log(3), 0.0]])
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert losses.logit_matching(torch.zeros(2, 2), teacher, tau=1.0).item() == pytest.approx(expected, abs=1e-6)
    # doubling the temperature of doubled logits leaves the distributions and multiplies the loss by 4
    doubled = losses.logit_matching(torch.zeros(2, 2), 2 * teacher, tau=2.0).item()
    assert doubled == pytest.approx(4 * expected, abs=1e-6)


def test_attention_transfer__by_hand():
    """(3, 4) / 5 against (1, 0): 0.4^2 + 0.8^2 = 0.8; scale does not matter, and neither does padding."""
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    assert losses.attention_transfer(student, teacher).item() == pytest.approx(0.8)
    assert losses.attention_transfer(7 * student, 2 * teacher).item() == pytest.approx(0.8)
    assert losses.attention_transfer(torch.tensor([[0.0, 1.0]]), teacher).item() == pytest.approx(2)
    assert losses.attention_transfer(F.pad(student, (0, 5)), F.pad(teacher, (0, 5))).item() == pytest.approx(0.8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(2, 20))
def test_attention_transfer_and_feature_regression__are_the_distance_written_out(seed, rows, places):
    vectors = np.random.default_rng(seed).random((2, rows, places)) + 1e-3
    student, teacher = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    for loss in (losses.attention_transfer, losses.feature_regression):
        got = loss(*map(torch.tensor, vectors)).item()
        assert got == pytest.approx(np.square(student - teacher).sum(axis=1).mean(), rel=1e-4, abs=1e-6)
        assert 0 <= got <= 2


def test_attention_transfer__resamples_the_student_to_the_teachers_grid():
    """A row (0, 1) to four places: centres at -1/4, 1/4, 3/4, 5/4 of the way, held at the border."""
    coarse, teacher = torch.tensor([[0.0, 1.0, 0.0, 1.0]]), torch.rand(1, 16)
    fine = losses.resample(coarse, 16)
    assert torch.allclose(fine.view(4, 4), torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(4, 4))
    assert torch.equal(losses.attention_transfer(coarse, teacher), losses.attention_transfer(fine, teacher))
    with pytest.raises(ValueError, match="square maps"):
        losses.attention_transfer(torch.rand(1, 5), teacher)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=7), st.integers(0, 99))
def test_contrastive__is_the_sum_written_out_and_lies_above_its_floor(owners, seed):
    """Where each image is there once, that is CLIP's loss."""
    owner = np.array(owners)
    logits = np.random.default_rng(seed).normal(size=(len(owner), len(owner))) * 4
    positives = owner[:, None] == owner

    def way(matrix):
        log_p = scipy.special.log_softmax(matrix, axis=1)
        return -np.mean([log_p[i, positives[i]].mean() for i in range(len(owner))])

    got = losses.contrastive(torch.tensor(logits), torch.tensor(positives)).item()
    assert got == pytest.approx((way(logits) + way(logits.T)) / 2, rel=1e-4, abs=1e-5)
    assert got >= np.mean(np.log(positives.sum(axis=1))) - 1e-5


def test_feature_regression__by_hand():
    """(3, 4) and (4, 3): cosine 24 / 25, so 2 - 48 / 25; opposite vectors: 4; the length does not matter."""
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert losses.feature_regression(student, teacher).item() == pytest.approx(0.08, abs=1e-6)
    assert losses.feature_regression(7 * student, 0.1 * teacher).item() == pytest.approx(0.08, abs=1e-6)
    assert losses.feature_regression(student, -student).item() == pytest.approx(4)


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_anchor_kl__is_scipys_kl_over_the_anchors(tau):
    anchors = np.random.default_rng(5).normal(size=(11, 5))

    def row(s, t) -> float:
        p, q = (scipy.special.softmax([cosine(one, anchor) / tau for anchor in anchors]) for one in (t, s))
        return scipy.special.rel_entr(p, q).sum()

    expected = np.mean([row(s, t) for s, t in zip(*VECTORS, strict=True)])
    got = losses.anchor_kl(*map(torch.tensor, (*VECTORS, anchors)), tau=tau).item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_anchor_kl__by_hand():
    """Anchors (1, 0) and (0, 1), tau 1: the teacher on the first has p = e / (e + 1), the diagonal student 1 / 2."""
    student, teacher = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    p = np.e / (np.e + 1)
    expected = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    assert losses.anchor_kl(student, teacher, torch.eye(2), tau=1.0).item() == pytest.approx(expected, abs=1e-6)


def relations(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all pairs over their mean, and cosines of the angles of all triplets."""
    places = range(len(rows))
    distances = np.array([np.linalg.norm(rows[i] - rows[j]) for i in places for j in places if i != j])
    triplets = [(i, j, k) for i in places for j in places for k in places if len({i, j, k}) == 3]
    return distances / distances.mean(), np.array(
        [cosine(rows[i] - rows[j], rows[k] - rows[j]) for i, j, k in triplets]
    )


def test_relational__is_the_sum_over_pairs_and_triplets_written_out():
    huber = [scipy.special.huber(1, a - b).mean() for a, b in zip(*map(relations, VECTORS), strict=True)]
    got = losses.relational(*map(torch.tensor, VECTORS), distance_weight=25.0, angle_weight=50.0)
    assert got.item() == pytest.approx(np.dot([25, 50], huber), rel=1e-4)


def test_relational__by_hand():
    """Points 0, 1, 3 on a line against an equilateral triangle: distances 1, 2, 3 over their mean 2 against 1."""
    line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    distance = (0.5 * 0.5**2 + 0 + 0.5 * 0.5**2) / 3
    # cosines on the line are 1, -1, 1 at the three points, in the triangle 1 / 2
    angle = (0.5 * 0.5**2 * 2 + (1.5 - 0.5)) / 3
    for weights, expected in (((1.0, 0.0), distance), ((0.0, 1.0), angle)):
        got = losses.relational(line, triangle, distance_weight=weights[0], angle_weight=weights[1])
        assert got.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_dist__is_scipys_correlation(tau, diagonal):
    student, teacher = np.random.default_rng(6).normal(size=(2, 7, 7))
    logits = [m / tau if diagonal else np.where(np.eye(7, dtype=bool), -np.inf, m / tau) for m in (student, teacher)]
    p, q = (scipy.special.softmax(one, axis=1) for one in logits)

    def way(p, q):
        p, q = (p, q) if diagonal else (without_diagonal(p), without_diagonal(q))
        return np.mean([1 - scipy.stats.pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)])

    got = losses.dist(torch.tensor(student), torch.tensor(teacher), tau=tau, leave_out_diagonal=not diagonal).item()
    assert got == pytest.approx(tau**2 * (way(p, q) + way(p.T, q.T)), rel=1e-4)


def test_dist__opposite_rows_of_two_are_as_far_as_can_be():
    """Of two probabilities the correlation is 1 or -1: rows and columns 2 each."""
    logits = torch.eye(2)
    assert losses.dist(logits, logits.flip(1), tau=1.0).item() == pytest.approx(4, abs=1e-5)


def test_orthogonal_projection__by_hand():
    """(0, 2) is layer-normed to (-1, 1); against (1, 1) that is (4 + 0) / 2; shift and scale do not matter."""
    student, teacher = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    assert losses.orthogonal_projection(student, teacher).item() == pytest.approx(2, abs=1e-4)
    assert losses.orthogonal_projection(student, 10 * teacher + 3).item() == pytest.approx(2, abs=1e-4)
