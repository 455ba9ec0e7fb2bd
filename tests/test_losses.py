import numpy as np
import pytest
import scipy.special
import scipy.stats
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


ANCHORS = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
OF_FEATURES = {
    "feature_regression": losses.feature_regression,
    "anchor_kl": lambda s, t: losses.anchor_kl(s, t, ANCHORS[:, : s.shape[1]], tau=0.1),
    "relational": losses.relational,
    "dist": lambda s, t: losses.dist(s, t, tau=2.0),
    "dist without diagonal": lambda s, t: losses.dist(s, t, tau=2.0, leave_out_diagonal=True),
    "orthogonal_projection": losses.orthogonal_projection,
}
CALLS = {
    "logit_matching": lambda s, t: losses.logit_matching(s, t, tau=2.0),
    "without diagonal": lambda s, t: losses.logit_matching(s, t, tau=2.0, leave_out_diagonal=True),
    "attention_transfer": lambda s, t: losses.attention_transfer(s.abs(), t.abs()),
} | OF_FEATURES


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


def test_similarity_logits__stay_float32_under_autocast():
    """At a scale of 100 bfloat16 knows cosines to 0.4 of a logit: 'float32 whatever comes in' must hold there too."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 16, 64)
    exact = losses.similarity_logits(first, second, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = losses.similarity_logits(first, second, 100.0)
    assert got.dtype == torch.float32
    assert torch.allclose(got, exact, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7).flatmap(lambda n: st.tuples(st.lists(st.integers(0, 2), min_size=n, max_size=n))), st.data())
def test_contrastive__is_the_sum_written_out(owners, data):
    owner = np.array(owners[0])
    size = len(owner)
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(size, size)) * 4
    positives = owner[:, None] == owner[None]

    def way(matrix):
        log_p = scipy.special.log_softmax(matrix, axis=1)
        return -np.mean([log_p[i, positives[i]].mean() for i in range(size)])

    expected = (way(logits) + way(logits.T)) / 2
    got = losses.contrastive(torch.tensor(logits), torch.tensor(positives)).item()
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
    floor = np.mean(np.log(positives.sum(axis=1)))
    assert got >= floor - 1e-5


@pytest.mark.parametrize("captions", [1, 2, 5])
def test_contrastive__reaches_log_of_the_positives_and_rests_there(captions):
    owner = torch.arange(4).repeat_interleave(captions)
    positives = owner[:, None] == owner[None]
    student = (60.0 * positives).requires_grad_(True)
    loss = losses.contrastive(student, positives)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(captions), abs=1e-6)
    assert student.grad.abs().max() < 1e-6


def test_contrastive__is_clips_loss_for_pairs_of_embeddings():
    """As CLIP's own pseudocode: cross-entropy of logits and of their transpose with labels 0 ... B - 1."""
    torch.manual_seed(0)
    image, text = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    logits = image @ text.T * 14.0
    nll = torch.nn.functional.nll_loss
    labels = torch.arange(6)
    expected = (nll(logits.log_softmax(1), labels) + nll(logits.log_softmax(0).T, labels)) / 2
    got = losses.contrastive(losses.similarity_logits(image, text, 14.0), torch.eye(6, dtype=torch.bool))
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(2, 20))
def test_attention_transfer__is_the_distance_written_out_and_lies_between_0_and_2(seed, rows, places):
    rng = np.random.default_rng(seed)
    student, teacher = rng.random((2, rows, places)) + 1e-3
    expected = np.mean(
        [((s / np.linalg.norm(s) - t / np.linalg.norm(t)) ** 2).sum() for s, t in zip(student, teacher, strict=True)]
    )
    got = losses.attention_transfer(torch.tensor(student), torch.tensor(teacher)).item()
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert 0 <= got <= 2


def test_attention_transfer__padding_costs_nothing():
    student, teacher = torch.rand(3, 4), torch.rand(3, 4)
    padded = [torch.cat([maps, torch.zeros(3, 5)], dim=1) for maps in (student, teacher)]
    assert torch.allclose(losses.attention_transfer(*padded), losses.attention_transfer(student, teacher))


@pytest.mark.parametrize(("side", "target"), [(2, 7), (7, 14), (14, 7), (7, 4)])
def test_resample__keeps_flat_maps_flat_and_sides_in_place(side, target):
    assert torch.allclose(losses.resample(torch.full((2, side**2), 0.3), target**2), torch.tensor(0.3))
    rows = torch.arange(float(side)).repeat_interleave(side)[None]  # grows downwards
    moved = losses.resample(rows, target**2).view(target, target)
    assert torch.allclose(moved, moved[:, :1].expand(target, target), atol=1e-5)
    assert (moved[1:] >= moved[:-1]).all() and moved[-1, 0] > moved[0, 0]


def test_resample__by_hand():
    """A row (0, 1) to four places: centres at -1/4, 1/4, 3/4, 5/4 of the way, held at the border."""
    moved = losses.resample(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), 16).view(4, 4)
    assert torch.allclose(moved, torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(4, 4))


def test_logit_matching__nothing_is_learnt_from_a_constant_added_to_all_logits():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 5)
    before = losses.logit_matching(student, teacher, tau=2.0)
    assert torch.allclose(losses.logit_matching(student + 30, teacher - 7, tau=2.0), before, atol=1e-4)


def test_logit_matching__the_teachers_left_out_diagonal_changes_nothing():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 6)
    before = losses.logit_matching(student, teacher, tau=1.0, leave_out_diagonal=True)
    teacher[torch.eye(6, dtype=torch.bool)] = torch.tensor([1e4, -1e4, 7.0, 0.0, 3.0, torch.inf])
    assert torch.equal(losses.logit_matching(student, teacher, tau=1.0, leave_out_diagonal=True), before)


def test_logit_matching__two_images_without_the_diagonal_have_nothing_to_compare():
    """One other image takes all the probability: the loss is 0 whatever the logits."""
    student, teacher = torch.tensor([[0.0, 9.0], [1.0, 0.0]]), torch.tensor([[0.0, -5.0], [4.0, 0.0]])
    assert losses.logit_matching(student, teacher, tau=1.0, leave_out_diagonal=True).item() == 0


def test_logit_matching__pulls_the_student_towards_the_teacher():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 5)
    student = student.clone().requires_grad_(True)
    before = losses.logit_matching(student, teacher, tau=2.0)
    before.backward()
    assert losses.logit_matching(student.detach() - 0.5 * student.grad, teacher, tau=2.0) < before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_contrastive__lies_above_its_floor(seed):
    student = torch.tensor(np.random.default_rng(seed).normal(size=(6, 6)) * 5)
    owner = torch.tensor([0, 0, 0, 1, 1, 2])
    floor = (3 * np.log(3) + 2 * np.log(2)) / 6
    assert losses.contrastive(student, owner[:, None] == owner[None]).item() >= floor - 1e-5


# ---------------------------------------------------------------- losses of students that stand alone


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


VECTORS = np.random.default_rng(4).normal(size=(2, 6, 5))


def test_feature_regression__by_hand_and_by_numpy():
    """(3, 4) and (4, 3): cosine 24 / 25, so 2 - 48 / 25; opposite vectors: 4; the length does not matter."""
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert losses.feature_regression(student, teacher).item() == pytest.approx(0.08, abs=1e-6)
    assert losses.feature_regression(7 * student, 0.1 * teacher).item() == pytest.approx(0.08, abs=1e-6)
    assert losses.feature_regression(student, -student).item() == pytest.approx(4)
    ours, theirs = VECTORS
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, theirs)]
    expected = np.square(unit[0] - unit[1]).sum(axis=1).mean()
    got = losses.feature_regression(torch.tensor(ours), torch.tensor(theirs)).item()
    assert got == pytest.approx(expected, rel=1e-5)


def anchor_kl_by_scipy(student, teacher, anchors, tau) -> float:
    rows = []
    for s, t in zip(student, teacher, strict=True):
        p = scipy.special.softmax([cosine(t, a) / tau for a in anchors])
        q = scipy.special.softmax([cosine(s, a) / tau for a in anchors])
        rows.append(scipy.special.rel_entr(p, q).sum())
    return float(np.mean(rows))


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_anchor_kl__is_scipys_kl_over_the_anchors(tau):
    anchors = np.random.default_rng(5).normal(size=(11, 5))
    got = losses.anchor_kl(*map(torch.tensor, (*VECTORS, anchors)), tau=tau).item()
    assert got == pytest.approx(anchor_kl_by_scipy(*VECTORS, anchors, tau), rel=1e-4)


def test_anchor_kl__by_hand():
    """Anchors (1, 0) and (0, 1), tau 1: the teacher on the first has p = e / (e + 1), the diagonal student 1 / 2."""
    student, teacher = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    p = np.e / (np.e + 1)
    expected = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    assert losses.anchor_kl(student, teacher, torch.eye(2), tau=1.0).item() == pytest.approx(expected, abs=1e-6)


def relational_by_numpy(student, teacher, distance_weight=1.0, angle_weight=2.0) -> float:
    def huber(difference: float) -> float:
        return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5

    def relations(rows):
        size = len(rows)
        pairs = {(i, j): np.linalg.norm(rows[i] - rows[j]) for i in range(size) for j in range(size) if i != j}
        mean = np.mean(list(pairs.values()))
        angles = {
            (i, j, k): cosine(rows[i] - rows[j], rows[k] - rows[j])
            for i in range(size)
            for j in range(size)
            for k in range(size)
            if len({i, j, k}) == 3
        }
        return {key: value / mean for key, value in pairs.items()}, angles

    (d, a), (d_there, a_there) = relations(student), relations(teacher)
    distance = np.mean([huber(d[key] - d_there[key]) for key in d])
    return distance_weight * distance + angle_weight * np.mean([huber(a[key] - a_there[key]) for key in a])


def test_relational__is_the_sum_over_pairs_and_triplets_written_out():
    got = losses.relational(*map(torch.tensor, VECTORS)).item()
    assert got == pytest.approx(relational_by_numpy(*VECTORS), rel=1e-4)
    weighted = losses.relational(*map(torch.tensor, VECTORS), distance_weight=25.0, angle_weight=50.0).item()
    assert weighted == pytest.approx(relational_by_numpy(*VECTORS, 25.0, 50.0), rel=1e-4)


def test_relational__by_hand():
    """Points 0, 1, 3 on a line against an equilateral triangle: distances 1, 2, 3 over their mean 2 against 1."""
    line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    distance = (0.5 * 0.5**2 + 0 + 0.5 * 0.5**2) / 3
    # cosines on the line are 1, -1, 1 at the three points, in the triangle 1 / 2
    angle = (0.5 * 0.5**2 * 2 + (1.5 - 0.5)) / 3
    got = losses.relational(line, triangle, distance_weight=1.0, angle_weight=0.0).item()
    assert got == pytest.approx(distance, abs=1e-6)
    got = losses.relational(line, triangle, distance_weight=0.0, angle_weight=1.0).item()
    assert got == pytest.approx(angle, abs=1e-6)


def test_relational__does_not_see_rotation_shift_and_scale():
    torch.manual_seed(0)
    teacher = torch.randn(6, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    assert losses.relational(3 * teacher @ rotation + 1, teacher).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 3 images"):
        losses.relational(teacher[:2], teacher[:2])


def dist_by_scipy(student, teacher, tau, diagonal=True) -> float:
    def softmaxed(logits):
        logits = logits / tau if diagonal else np.where(np.eye(len(logits), dtype=bool), -np.inf, logits / tau)
        return scipy.special.softmax(logits, axis=1)

    def way(p, q):
        rows = zip(p, q, strict=True) if diagonal else zip(without_diagonal(p), without_diagonal(q), strict=True)
        return np.mean([1 - scipy.stats.pearsonr(a, b).statistic for a, b in rows])

    p, q = softmaxed(student), softmaxed(teacher)
    return tau**2 * (way(p, q) + way(p.T, q.T))


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_dist__is_scipys_correlation(tau, diagonal):
    student, teacher = np.random.default_rng(6).normal(size=(2, 7, 7))
    got = losses.dist(torch.tensor(student), torch.tensor(teacher), tau=tau, leave_out_diagonal=not diagonal).item()
    assert got == pytest.approx(dist_by_scipy(student, teacher, tau, diagonal), rel=1e-4)


def test_dist__opposite_rows_of_two_are_as_far_as_can_be():
    """Of two probabilities the correlation is 1 or -1: rows and columns 2 each."""
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert losses.dist(logits, logits.flip(1), tau=1.0).item() == pytest.approx(4, abs=1e-5)
    with pytest.raises(ValueError, match="at least 3 images"):
        losses.dist(logits, logits, tau=1.0, leave_out_diagonal=True)


def test_orthogonal_projection__by_hand():
    """(0, 2) is layer-normed to (-1, 1); against (1, 1) that is (4 + 0) / 2; shift and scale do not matter."""
    student, teacher = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    assert losses.orthogonal_projection(student, teacher).item() == pytest.approx(2, abs=1e-4)
    assert losses.orthogonal_projection(student, 10 * teacher + 3).item() == pytest.approx(2, abs=1e-4)
    ours, theirs = VECTORS
    normed = (theirs - theirs.mean(axis=1, keepdims=True)) / theirs.std(axis=1, keepdims=True)
    got = losses.orthogonal_projection(torch.tensor(ours), torch.tensor(theirs)).item()
    assert got == pytest.approx(np.square(ours - normed).mean(), rel=1e-3)


@pytest.mark.parametrize("name", OF_FEATURES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_losses_of_features__are_zero_for_the_teacher_and_never_negative(name, seed):
    student, teacher = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(seed))
    same = torch.nn.functional.layer_norm(teacher, (4,)) if name == "orthogonal_projection" else teacher
    assert OF_FEATURES[name](same, teacher).item() == pytest.approx(0, abs=2e-5)
    assert OF_FEATURES[name](student, teacher).item() > -1e-6
