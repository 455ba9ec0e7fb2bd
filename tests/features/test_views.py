import hashlib
import math

import numpy as np
import pytest
from PIL import Image

from kdlib import features
from kdlib.data.dataset import Dataset
from kdlib.data.tree import Tree
from kdlib.features.encoders import pixel_encoder, pixel_parts, view_encoder
from kdlib.features.views import View, Views, pixels_of

SEEN = 24  # side of what the teacher of these tests looks at


@pytest.fixture
def dataset(tmp_path):
    """Twenty wide, smooth pictures, as photographs are."""
    rng = np.random.default_rng(0)
    for number in range(20):
        small = Image.fromarray(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8))
        small.resize((112, 80), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    names = tuple(f"{number}.png" for number in range(20))
    return Dataset("smooth", "fit", Tree(tmp_path, "none"), names, names)


class Eye:
    """A teacher whose feature is what it sees, in rough: the mean colour of each of nine fields."""

    family = source = revision = "eye"
    image_size = SEEN

    def __init__(self):
        self.batches = []

    def prepare(self, images):
        import torch

        return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() for image in images])

    def encode_pixels(self, pixels):
        import torch.nn.functional as F

        self.batches.append(len(pixels))
        return {"pooled": F.adaptive_avg_pool2d(pixels, 3).flatten(1) / 255}


def test_draw__is_a_pure_function_of_name_and_number():
    views = Views(4, 0.5, True, 0.3)
    drawn = [[views.draw(name, number) for number in range(4)] for name in ("a", "b")]
    assert drawn == [[Views(9, 0.5, True, 0.3).draw(name, number) for number in range(4)] for name in ("a", "b")]
    assert len({view for row in drawn for view in row}) == 8


def test_draw__is_what_the_digest_of_name_and_number_says():
    """Worked out by hand: stored features depend on it, so it must never change."""
    digest = hashlib.sha256(b"n01443537_0.JPEG/3").digest()
    area, x, y, mirror = (int.from_bytes(digest[at : at + 4], "little") / 2**32 for at in (0, 4, 8, 12))
    side = math.sqrt(0.25 + 0.75 * area)
    view = Views(1, 0.25, True).draw("n01443537_0.JPEG", 3)
    assert (view.side, view.left, view.top) == pytest.approx((side, x * (1 - side), y * (1 - side)))
    assert view.flip == (mirror < 0.5)


def test_draw__areas_are_even_between_the_least_and_all_and_half_are_mirrored():
    views = [Views(1, 0.4, True, 0.2).draw(str(name), 0) for name in range(4000)]
    areas = np.array([view.side**2 for view in views])
    assert areas.min() >= 0.4 and areas.max() <= 1
    assert np.allclose(np.quantile(areas, [0.25, 0.5, 0.75]), [0.55, 0.7, 0.85], atol=0.02)
    places = np.array([(view.left, view.top) for view in views])
    assert places.min() >= 0 and (places + np.sqrt(areas)[:, None]).max() <= 1 + 1e-9
    shares = places / (1 - np.sqrt(areas))[:, None]  # of the room that there is
    assert np.allclose(shares.mean(axis=0), 0.5, atol=0.02) and abs(np.corrcoef(shares.T)[0, 1]) < 0.05
    assert abs(np.mean([view.flip for view in views]) - 0.5) < 0.03
    factors = np.array([(view.brightness, view.contrast, view.saturation) for view in views])
    assert factors.min() >= 0.8 and factors.max() <= 1.2 and np.allclose(factors.mean(axis=0), 1, atol=0.01)


def test_view__of_all_is_the_centre_square():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    assert np.array_equal(View(0, 0, 1).of(image, 60), image.crop((15, 0, 75, 60)))


def test_view__a_flip_is_a_view_of_its_own():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    plain, mirrored = View(0.1, 0.2, 0.5), View(0.1, 0.2, 0.5, flip=True)
    assert plain != mirrored
    assert np.array_equal(np.array(mirrored.of(image, 30)), np.array(plain.of(image, 30))[:, ::-1])


def test_view__colour_changes_what_it_says():
    image = Image.fromarray(np.random.default_rng(0).integers(60, 180, (20, 20, 3), dtype=np.uint8))
    plain = np.array(image, dtype=float)
    bright, flat, grey = (
        np.array(View(0, 0, 1, **{name: factor}).of(image, 20), dtype=float)
        for name, factor in (("brightness", 1.2), ("contrast", 0.5), ("saturation", 0.0))
    )
    assert np.allclose(bright, 1.2 * plain, atol=1)
    assert flat.std() == pytest.approx(plain.std() / 2, rel=0.05)
    assert np.ptp(grey, axis=2).max() <= 1


def test_views__that_change_nothing_are_refused():
    with pytest.raises(ValueError, match="set crop below 1, flip or colour"):
        Views(4)
    assert not Views().change and Views(0, 0.9).change


def test_views__epochs_go_round_the_stored_ones_and_never_end_where_none_are_stored():
    assert [Views(3, 0.5).number(epoch) for epoch in range(1, 8)] == [0, 1, 2, 0, 1, 2, 0]
    assert [Views(0, 0.5).number(epoch) for epoch in range(1, 8)] == list(range(7))


def test_views__teacher_and_student_see_the_same(dataset):
    """The teacher's pass cuts views from the files, the student from stored pixels: each sees the same place."""
    views, teacher, size = Views(5, 0.4, True, 0.2), Eye(), 32
    store = features.ensure({"views": 1}, dataset, view_encoder(lambda: teacher, "float32", views))
    assert store["view_pooled"].shape == (20, 5, 27)
    source_size = views.source_size(size)
    assert source_size == 51  # 32 / sqrt(0.4), so that the smallest crop has 32 pixels a side
    source = features.ensure(pixel_parts(dataset, source_size), dataset, lambda: pixel_encoder(source_size))
    own = []
    for number in range(5):
        seen = pixels_of(views, source["pixels"], source.ids, number, size)
        again = teacher.encode_pixels(teacher.prepare([image.transpose(1, 2, 0) for image in seen]))["pooled"].numpy()
        assert np.abs(again - store["view_pooled"][:, number]).mean() < 0.01
        own.append(again)
    others = np.abs(np.roll(own, 1, axis=0).transpose(1, 0, 2) - store["view_pooled"]).mean()
    assert others > 0.05  # another view of the same image is not that one


def test_view_encoder__the_teacher_looks_at_no_more_at_once_than_else(dataset):
    teacher = Eye()
    features.ensure({"views": 1}, dataset, view_encoder(lambda: teacher, "float16", Views(16, 0.5)))
    assert teacher.batches == [64] * 5
    teacher.batches.clear()
    features.ensure({"views": 2}, dataset, view_encoder(lambda: teacher, "float16", Views(100, 0.5)))
    assert teacher.batches == [64, 36] * 20


def test_view_encoder__more_views_begin_with_the_fewer(dataset):
    few, many = (
        features.ensure({"views": count}, dataset, view_encoder(Eye, "float32", Views(count, 0.5, True)))["view_pooled"]
        for count in (2, 6)
    )
    assert np.array_equal(few, many[:, :2])


def test_view_parts__all_that_changes_a_view_changes_the_key(dataset):
    kept = [Views(2, 0.5), Views(3, 0.5), Views(2, 0.6), Views(2, 0.5, True), Views(2, 0.5, False, 0.1)]
    parts = [features.view_parts({"family": "dino"}, dataset, "float16", views) for views in kept]
    assert len({features.store_key(one) for one in parts}) == len(kept)
