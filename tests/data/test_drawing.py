import numpy as np
import pytest

from kdlib.data import drawing


@pytest.mark.parametrize(
    ("other", "relation"),
    [((1, 2), "above"), ((1, 0), "below"), ((2, 1), "to the left of"), ((0, 1), "to the right of")],
)
def test_captions__relate_two_objects_by_their_places(other, relation):
    first = drawing.Thing("star", "red", large=True, column=1, row=1)
    second = drawing.Thing("ring", "blue", large=False, column=other[0], row=other[1])
    found = {
        drawing.captions(np.random.default_rng(seed), [first, second])[1]
        for seed in range(20)  # the order of the two is drawn
    }
    opposite = {"above": "below", "to the left of": "to the right of"}
    opposite |= {value: key for key, value in opposite.items()}
    assert found == {f"a red star {relation} a ring", f"a blue ring {opposite[relation]} a star"}


def test_draw_object__the_mask_covers_what_was_drawn():
    image, mask = drawing.draw_object(np.random.default_rng(3), "square", "solid")
    assert image.size == mask.size == (64, 64)
    inside = np.asarray(mask) == 255
    assert 0.03 < inside.mean() < 0.6


def test_draw_scene__boxes_lie_in_the_image_and_match_their_objects():
    for seed in range(20):
        image, things, boxes = drawing.draw_scene(np.random.default_rng(seed))
        assert 1 <= len(things) == len(boxes) <= 4
        assert len({(thing.row, thing.column) for thing in things}) == len(things)
        for x, y, width, height in boxes:
            assert 0 <= x <= x + width <= image.width
            assert 0 <= y <= y + height <= image.height
