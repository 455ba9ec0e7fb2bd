import numpy as np
import pytest
import torch

from kdlib.evaluate import knn
from kdlib.report import gallery

# Five images at right angles; caption j belongs to image owner[j].
IMAGES = torch.eye(5)


@pytest.mark.parametrize(("rank", "said"), [(1, "hit"), (1.5, "near miss"), (10, "near miss"), (11, "failure")])
def test_outcome__is_named_by_the_rank(rank, said):
    assert gallery.outcome(rank) == said


def test_at_quantiles__takes_rows_in_the_order_of_their_values():
    values = np.array([50.0, 10.0, 30.0, 20.0, 40.0])
    assert gallery.at_quantiles(values, (0, 0.25, 0.5, 0.75, 1)) == [1, 3, 2, 4, 0]


def test_at_quantiles__keeps_the_order_of_ties_and_gives_no_row_twice():
    assert gallery.at_quantiles(np.ones(4), (0, 0.01, 1)) == [0, 3]


def test_captions__come_with_the_nearest_images_and_the_right_one_marked():
    texts = torch.tensor([[1, 0.5, 0.2, 0.1, 0], [0.9, 0.5, 0.2, 0.1, 0]])  # the second is image 1's: rank 2
    ranks = np.array([1, 2]), np.array([3, 1])
    hit, missed = gallery.answers(texts, IMAGES, lambda text, image: text == image, *ranks, (0, 1), count=3)
    assert (hit.query, hit.found, hit.right, hit.outcome) == (0, [0, 1, 2], [True, False, False], "hit")
    assert (missed.query, missed.found, missed.right) == (1, [0, 1, 2], [False, True, False])
    assert (missed.student_rank, missed.teacher_rank, missed.outcome) == (2, 1, "near miss")


def test_images__come_with_the_nearest_captions_and_all_of_their_own_marked():
    texts = torch.tensor([[1, 0.1, 0, 0, 0], [1, 0.2, 0, 0, 0], [1, 0.3, 0, 0, 0]])
    ranks = np.array([1.0, 1]), np.array([2.0, 1])
    (answer,) = gallery.answers(IMAGES[:2], texts, lambda image, text: (0, 1, 0)[text] == image, *ranks, (0,), 3)
    assert (answer.query, answer.found, answer.right) == (0, [0, 1, 2], [True, False, True])


def test_captions__of_a_small_gallery_are_as_many_as_there_are():
    answers = gallery.answers(IMAGES[:2], IMAGES[:2], lambda text, image: text == image, np.ones(2), np.ones(2), (0,))
    assert [answer.found for answer in answers] == [[0, 1]]


def test_by_class__has_the_worst_first_with_its_number_of_images():
    labels = np.array([0, 0, 2, 2, 2, 2])
    student, teacher = np.array([1, 1, 0, 0, 0, 1.0]), np.array([1, 0, 1, 1, 0, 0.0])
    frame = gallery.by_class(labels, student, teacher, ["cat", "none", "dog"])
    assert frame["class"].tolist() == ["dog", "cat"] and frame.images.tolist() == [4, 2]
    assert frame.student.tolist() == [0.25, 1] and frame.teacher.tolist() == [0.5, 0.5]


@pytest.fixture
def crowd():
    """bank, its labels, queries and theirs: three overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(3), 40)
    bank = IMAGES[:3].repeat_interleave(40, 0) + 0.7 * torch.randn(120, 5, generator=generator)
    query = IMAGES[:3].repeat_interleave(30, 0) + 0.7 * torch.randn(90, 5, generator=generator)
    return bank, labels, query, np.repeat(np.arange(3), 30)


def test_neighbours__predict_what_the_score_counts(crowd):
    found = gallery.neighbours(*crowd)
    credit = knn.credits(*crowd)["knn@20_top1"]
    assert 0 < credit.mean() < 1
    np.testing.assert_array_equal(found.predicted == crowd[3], credit == 1)
    assert found.index.shape == (90, 20)


def test_neighbours__are_the_nearest_and_their_share_is_of_the_right_class(crowd):
    bank, bank_labels, query, labels = crowd
    found = gallery.neighbours(*crowd)
    similar = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(bank, dim=1).T
    np.testing.assert_array_equal(found.index[:, 0], similar.argmax(dim=1))
    assert found.share[7] == np.mean(bank_labels[found.index[7]] == labels[7])


def test_neighbours__of_many_queries_are_looked_up_for_some_spread_evenly(crowd):
    found = gallery.neighbours(*crowd, most=10)
    assert found.rows.tolist()[0] == 0 and found.rows.tolist()[-1] == 89 and len(found.rows) == 10
    np.testing.assert_array_equal(found.predicted, gallery.neighbours(*crowd).predicted[found.rows])


def test_confusions__are_counted_most_frequent_first():
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    predicted = np.array([1, 1, 0, 0, 1, 1, 2])
    found = gallery.Neighbours(np.arange(7), labels, np.zeros((7, 1), int), predicted, np.zeros(7))
    first, second = gallery.confusions(found)
    assert first == gallery.Confusion(label=0, taken_for=1, count=2, of=3, row=0)
    assert second == gallery.Confusion(label=1, taken_for=0, count=1, of=3, row=3)


def test_confusions__are_none_where_all_is_right():
    labels = np.array([0, 1])
    assert gallery.confusions(gallery.Neighbours(np.arange(2), labels, np.zeros((2, 1), int), labels, np.ones(2))) == []
