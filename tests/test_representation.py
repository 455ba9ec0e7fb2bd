"""The measures of notebooks/representation.ipynb, on arrays whose answer is known."""

from itertools import permutations
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from kdlib.experiment import Experiment
from kdlib.utils import project_root

CELLS = ("cell-03", "cka", "neighbours", "agreement", "measured")


def measures(count: int) -> SimpleNamespace:
    """What the notebook's cells define."""
    names = {"count": count}
    for cell in nbformat.read(project_root() / "notebooks/representation.ipynb", 4).cells:
        if cell.id in CELLS:
            exec(cell.source.replace("show.use()", ""), names)
    return SimpleNamespace(**names)


representation = measures(4)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_debiased_cka__is_1_for_equal_geometry_and_0_for_none_even_with_few_images():
    features = normal(30, 200)
    turned = np.linalg.qr(normal(200, 200, seed=1))[0]
    assert representation.debiased_cka(features, 3 * features @ turned + 5) == pytest.approx(1)
    unrelated = [representation.debiased_cka(features, normal(30, 200, seed=seed)) for seed in range(2, 60)]
    assert abs(np.mean(unrelated)) < 3 * np.std(unrelated) / len(unrelated) ** 0.5
    assert np.isnan(representation.debiased_cka(features, np.ones((30, 4))))


def test_debiased_cka__is_the_definition_of_song_and_others():
    first, second = normal(6, 3), normal(6, 2, seed=1)

    def hsic(x, y):
        k, l = (z @ z.T for z in (x, y))  # noqa: E741
        # Over all quadruples of different images, a U-statistic.
        return np.mean([k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(6), 4)])

    expected = hsic(first, second) / (hsic(first, first) * hsic(second, second)) ** 0.5
    assert representation.debiased_cka(first, second) == pytest.approx(expected)


def test_neighbours__are_those_of_the_sorted_cosines():
    features = normal(50, 6)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = units @ units.T
    np.fill_diagonal(similar, -9)
    np.testing.assert_array_equal(representation.neighbours(features), np.argsort(-similar)[:, :4])
    assert (representation.kept_neighbours(5 * torch.from_numpy(features), features) == 1).all()
    assert measures(9).neighbours(features[:3]).shape == (3, 2)


def test_kept_neighbours__is_the_share_of_the_teachers():
    angles = np.radians([0, 10, 20, 90, 100, 110])
    teacher = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    swapped = teacher[[0, 3, 2, 1, 4, 5]]  # images 1 and 3 change places
    kept = measures(2).kept_neighbours(swapped, teacher)
    np.testing.assert_allclose(kept, [0.5, 0, 0.5, 0, 0.5, 0.5])


def test_attention_agreement__tells_the_own_map_from_anothers():
    maps = np.eye(5, 9) + 0.1
    own, other = representation.attention_agreement(7 * maps, maps)
    np.testing.assert_allclose(own, 1)
    assert (other < 0).all()
    own, other = representation.attention_agreement(np.tile(maps[:1], (5, 1)), maps)
    assert own.mean() == pytest.approx(other.mean())
    assert (representation.attention_agreement(np.ones((5, 9)), maps)[0] == 0).all()
    larger = maps.reshape(5, 3, 3).repeat(2, axis=1).repeat(2, axis=2).reshape(5, 36)
    assert representation.attention_agreement(larger, maps)[0].mean() > 0.9


@pytest.mark.usefixtures("shared_features")
@pytest.mark.parametrize(("teacher", "method"), [("clip", "attention"), ("dino", "resnet")])
def test_measure__has_a_row_a_measure_between_chance_and_1(small_run, teacher, method):
    experiment = Experiment.open(small_run(teacher, method=method, epochs=1))
    experiment.train()
    frame = measures(3).measured_of(experiment.embed(), experiment.embed(who="teacher")).set_index("measure")
    assert list(frame.index) == ["cka", "neighbours", "attention"][: 2 + (method == "attention")]
    inside = frame.low.le(frame.value) & frame.value.le(frame.high)  # CKA has no interval
    assert (frame.value <= 1).all() and inside[1:].all()
    assert frame.chance["neighbours"] == pytest.approx(3 / (len(experiment.splits["test"]) - 1))
    if method == "attention":  # a head of 1 epoch still has most of its teacher's geometry
        assert frame.value["cka"] > 0.5 and frame.value["neighbours"] > 2 * frame.chance["neighbours"]
