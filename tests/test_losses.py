import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib import losses

LOGITS = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.floats(-20, 20), min_size=n, max_size=n), min_size=n, max_size=n)
)


def kl_by_scipy(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    """tau^2 * mean over rows and columns of KL(teacher || student), written out."""

    def rows(s, t):
        p, q = scipy.special.softmax(t / tau, axis=1), scipy.special.softmax(s / tau, axis=1)
        return scipy.special.rel_entr(p, q).sum(axis=1).mean()

    return tau**2 * (rows(student, teacher) + rows(student.T, teacher.T)) / 2


def without_diagonal(matrix: np.ndarray) -> np.ndarray:
    size = len(matrix)
    return np.array([[matrix[i, j] for j in range(size) if j != i] for i in range(size)])


@settings(max_examples=40, deadline=None)
@given(LOGITS, st.floats(0.5, 8))
def test_logit_matching__is_scipys_kl(values, tau):
    teacher = torch.tensor(values, dtype=torch.float64)
    student = teacher.flip(0).roll(1, 1) * 0.7
    got = losses.logit_matching(student, teacher, tau=tau).item()
    assert got == pytest.approx(kl_by_scipy(student.numpy(), teacher.numpy(), tau), rel=1e-3, abs=1e-4)


def test_logit_matching__by_hand():
    """Rows (0, ln 3) against (0, 0): p = (1/4, 3/4), q = (1/2, 1/2)."""
    teacher = torch.tensor([[0.0, np.log(3)], [np.log(3), 0.0]])
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert losses.logit_matching(torch.zeros(2, 2), teacher, tau=1.0).item() == pytest.approx(expected, abs=1e-6)
    # doubling the temperature of doubled logits leaves the distributions and multiplies the loss by 4
    assert losses.logit_matching(torch.zeros(2, 2), 2 * teacher, tau=2.0).item() == pytest.approx(
        4 * expected, abs=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(LOGITS)
def test_logit_matching__is_zero_for_the_teacher_and_never_negative(values):
    teacher = torch.tensor(values)
    assert losses.logit_matching(teacher, teacher, tau=2.0).item() == pytest.approx(0, abs=1e-5)
    assert losses.logit_matching(teacher * 0.5 + 1, teacher, tau=2.0).item() > -1e-5


def test_logit_matching__without_the_diagonal_is_the_kl_of_the_rest():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 5))
    got = losses.logit_matching(torch.tensor(student), torch.tensor(teacher), tau=1.5, leave_out_diagonal=True)

    def rows(s, t):
        p = scipy.special.softmax(without_diagonal(t) / 1.5, axis=1)
        q = scipy.special.softmax(without_diagonal(s) / 1.5, axis=1)
        return scipy.special.rel_entr(p, q).sum(axis=1).mean()

    expected = 1.5**2 * (rows(student, teacher) + rows(student.T, teacher.T)) / 2
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_logit_matching__the_left_out_diagonal_changes_nothing():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 6)
    before = losses.logit_matching(student, teacher, tau=1.0, leave_out_diagonal=True)
    after = losses.logit_matching(student + 50 * torch.eye(6), teacher, tau=1.0, leave_out_diagonal=True)
    assert torch.equal(before, after)
    assert losses.logit_matching(student + 50 * torch.eye(6), teacher, tau=1.0) != before


def test_logit_matching__needs_two_images_without_the_diagonal():
    with pytest.raises(ValueError, match="at least 2 images"):
        losses.logit_matching(torch.zeros(1, 1), torch.zeros(1, 1), tau=1.0, leave_out_diagonal=True)


def test_attention_transfer__by_hand():
    """(3, 4) / 5 against (1, 0): 0.4^2 + 0.8^2 = 0.8; scale does not matter."""
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    assert losses.attention_transfer(student, teacher).item() == pytest.approx(0.8)
    assert losses.attention_transfer(7 * student, 2 * teacher).item() == pytest.approx(0.8)
    assert losses.attention_transfer(teacher, teacher).item() == 0
    assert losses.attention_transfer(torch.tensor([[0.0, 1.0]]), teacher).item() == pytest.approx(2)


def test_attention_transfer__resamples_the_student_to_the_teachers_grid():
    teacher = torch.rand(3, 16)
    coarse = torch.nn.functional.avg_pool2d(teacher.view(3, 1, 4, 4), 2).flatten(1)
    fine = torch.nn.functional.interpolate(coarse.view(3, 1, 2, 2), size=(4, 4), mode="bilinear").flatten(1)
    assert torch.equal(losses.attention_transfer(coarse, teacher), losses.attention_transfer(fine, teacher))
    with pytest.raises(ValueError, match="square maps"):
        losses.attention_transfer(torch.rand(1, 5), teacher[:1])


def test_contrastive__is_the_cross_entropy_of_pairs():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 5), torch.arange(5)
    cross = torch.nn.functional.cross_entropy
    expected = (cross(logits, target) + cross(logits.T, target)) / 2
    assert torch.allclose(losses.contrastive(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_contrastive__a_second_caption_of_an_image_is_no_false_negative():
    owner = torch.tensor([0, 0, 1])
    positives = owner[:, None] == owner[None]
    perfect = 100.0 * positives
    floor = 2 / 3 * np.log(2)  # two rows with two positives, one with one
    assert losses.contrastive(perfect, positives).item() == pytest.approx(floor, abs=1e-6)
    assert losses.contrastive(perfect, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(floor, abs=1e-6)
    confused = torch.tensor([[100.0, 0, 0], [0, 100, 0], [0, 0, 100]])
    assert losses.contrastive(confused, positives).item() > floor + 1


def test_combined__is_the_weighted_sum():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 4)
    positives = torch.eye(4, dtype=torch.bool)
    expected = 0.5 * losses.contrastive(student, positives) + 3 * losses.logit_matching(student, teacher, tau=2.0)
    got = losses.combined(student, teacher, positives, tau=2.0, contrastive_weight=0.5, kl_weight=3.0)
    assert torch.allclose(got, expected)


CALLS = {
    "logit_matching": lambda s, t: losses.logit_matching(s, t, tau=2.0),
    "without diagonal": lambda s, t: losses.logit_matching(s, t, tau=2.0, leave_out_diagonal=True),
    "attention_transfer": lambda s, t: losses.attention_transfer(s.abs(), t.abs()),
    "combined": lambda s, t: losses.combined(s, t, torch.eye(len(s), dtype=torch.bool), tau=2.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_losses__no_gradient_reaches_the_teacher_and_one_reaches_the_student(name):
    student, teacher = torch.randn(2, 4, 4).unbind()
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    CALLS[name](student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CALLS)
def test_losses__are_finite_in_bfloat16(name):
    torch.manual_seed(0)
    student, teacher = (100 * torch.randn(2, 8, 8)).bfloat16().unbind()
    student.requires_grad_(True)
    loss = CALLS[name](student, teacher)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_similarity_logits__are_scaled_cosines():
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    assert torch.allclose(losses.similarity_logits(first, second, 10.0), torch.tensor([[6.0, -8.0]]))
