"""What was transferred, on arrays whose answer is known."""

import numpy as np
import pytest
import torch

from kdlib import teachers
from kdlib.evaluate.metrics import unit_rows
from kdlib.explore import transfer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_debiased_cka__is_1_for_equal_geometry_and_0_for_none_even_with_few_images():
    features = normal(30, 200)
    turned = torch.linalg.qr(normal(200, 200, seed=1))[0]
    assert transfer.debiased_cka(features, 3 * features @ turned + 5) == pytest.approx(1)
    unrelated = [transfer.debiased_cka(features, normal(30, 200, seed=seed)) for seed in range(2, 60)]
    assert abs(np.mean(unrelated)) < 3 * np.std(unrelated) / len(unrelated) ** 0.5
    assert np.isnan(transfer.debiased_cka(features, torch.ones(30, 4)))


def test_debiased_cka__is_the_definition_of_song_and_others():
    """HSIC as a mean over all quadruples of different images (U-statistic), which the formula shortens."""
    from itertools import permutations

    first, second = normal(6, 3), normal(6, 2, seed=1)

    def hsic(x, y):
        k, l = (z @ z.T for z in (x, y))  # noqa: E741
        terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(6), 4)]
        return sum(terms) / len(terms)

    expected = hsic(first, second) / (hsic(first, first) * hsic(second, second)) ** 0.5
    assert transfer.debiased_cka(first, second) == pytest.approx(expected.item())


@pytest.mark.parametrize("counts", [(3, 3), (8, 9)])
def test_debiased_cka__refuses_too_few_or_other_images(counts):
    with pytest.raises(ValueError, match="at least 4"):
        transfer.debiased_cka(normal(counts[0], 2), normal(counts[1], 2))


@pytest.mark.parametrize("family", ["clip", "blip", "dino", "beit"])
def test_layer_features__are_all_hidden_states_and_the_last_leads_to_the_feature(family, small_shapes):
    from kdlib import data

    teacher = teachers.load(family)
    dataset = data.load("tinyimagenet", small_shapes, "test")
    images = [dataset.images[row] for row in range(40)]
    found = transfer.layer_features(teacher, images.__getitem__, range(40))
    layers = teacher.vision_config.num_hidden_layers
    names = list(found)
    assert names[0] == "layer 0, class token" and names[-1] == f"layer {layers}, mean of patches"
    assert len(found) == 2 * (layers + 1) and {len(rows) for rows in found.values()} == {40}
    pooled = teacher.encode_images(images)["pooled"]
    alike = {name: transfer.debiased_cka(rows, pooled) for name, rows in found.items()}
    read = "mean of patches" if family == "beit" else "class token"
    assert alike[f"layer {layers}, {read}"] > 0.6
    assert alike[f"layer {layers}, {read}"] > alike[f"layer 0, {read}"] or np.isnan(alike[f"layer 0, {read}"])


def test_map_agreement__tells_the_own_map_from_anothers():
    maps = np.eye(5) + 0.1
    own, other = transfer.map_agreement(maps, 7 * maps)
    np.testing.assert_allclose(own, 1)
    assert (other < 0).all()
    always, again = transfer.map_agreement(maps, np.tile(maps[:1], (5, 1)))
    assert always.mean() == pytest.approx(again.mean())
    assert (transfer.map_agreement(maps, np.ones((5, 5)))[0] == 0).all()


def test_neighbours__are_those_of_the_sorted_cosines_across_chunks(monkeypatch):
    space = unit_rows(normal(50, 6))
    similar = (space @ space.T).fill_diagonal_(-9)
    expected = similar.argsort(dim=1, descending=True)[:, :4].numpy()
    monkeypatch.setattr(transfer, "CHUNK", 7)
    found = transfer.neighbours(space, 4)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(transfer.kept(found, found[:, ::-1]), 1)
    np.testing.assert_allclose(transfer.kept(found, np.roll(found, 1, axis=0) * 0 - 1), 0)


def test_plane__finds_the_rotation_and_nothing_where_there_is_none():
    teacher = normal(400, 6) * torch.tensor([5, 3, 1, 1, 1, 1])
    turned = torch.linalg.qr(normal(6, 6, seed=1))[0]
    same = transfer.plane(teacher, 0.2 * teacher @ turned + 3)
    np.testing.assert_allclose(same.student, same.teacher, atol=1e-6)
    assert same.explained == pytest.approx(1) and 0.8 < same.shown < 1
    assert transfer.plane(teacher, normal(400, 100, seed=2)).explained < 0.05  # fitted on the images that are not shown
    narrow = transfer.plane(teacher, teacher[:, :2])
    assert 0.8 < narrow.explained < 1


def test_by_group__averages_queries_and_keeps_those_of_an_image_together():
    owner = np.repeat(np.arange(40), 2)
    difference = np.where(owner < 30, -0.5, 0.25)
    groups = {"worse": owner < 30, "better": owner >= 30, "empty": owner > 99}
    frame = transfer.by_group(difference, owner, groups).set_index("group")
    assert list(frame.index) == ["worse", "better"]
    assert frame.difference.tolist() == [-0.5, 0.25] and frame.images.tolist() == [30, 10]
    assert frame.few.tolist() == [False, True]
    assert (frame.low == frame.difference).all() and (frame.high == frame.difference).all()
    noise = normal(80).numpy()
    alone = transfer.by_group(noise, np.arange(80), {"all": np.ones(80, bool)}).iloc[0]
    paired = transfer.by_group(np.repeat(noise[:40], 2), owner, {"all": np.ones(80, bool)}).iloc[0]
    assert paired.high - paired.low > 1.2 * (alone.high - alone.low)  # 40 images say less than 80


def test_thirds__name_their_range_and_cover_all():
    values = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9])
    parts = transfer.thirds(values, "words")
    assert list(parts) == ["1 to 3 words", "4 to 6 words", "7 to 9 words"]
    assert np.sum(list(parts.values()), axis=0).tolist() == [1] * 9
    assert list(transfer.thirds(np.array([4, 4, 4]), "words")) == ["4 words"]
    skewed = transfer.thirds(np.array([1, 1, 1, 1, 2, 9]), "words")
    assert np.sum(list(skewed.values()), axis=0).tolist() == [1] * 6


def test_flow__counts_what_changed_and_tests_it():
    before, after = np.zeros(100), np.zeros(100)
    before[:20], after[10:40] = 1, 1
    found = transfer.flow(before, after)
    assert [len(part) for part in (found.right, found.mended, found.broken, found.wrong)] == [10, 20, 10, 60]
    assert found.mended.tolist() == list(range(20, 40)) and found.broken.tolist() == list(range(10))
    assert found.p == pytest.approx(2 * sum(_binomial(30, k) for k in range(11)))
    assert transfer.flow(before, before).p == 1


def _binomial(n: int, k: int) -> float:
    from math import comb

    return comb(n, k) / 2**n
