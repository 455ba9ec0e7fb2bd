"""New captions and images through teacher and student, and what is nearest to them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib import finished, teachers
from kdlib.evaluate.knn import nearest
from kdlib.explore import search
from kdlib.explore.search import UploadError


def png(size=(8, 8), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, format=options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def test_nearest__is_the_order_of_the_cosines_with_ties_in_the_order_of_the_gallery():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    rows, cosines = nearest(gallery[0], gallery, 3)
    assert rows == [0, 2, 3] and cosines == pytest.approx([1, 1, 0.6])
    assert nearest(gallery[0], gallery, 9, leave_out=0)[0] == [2, 3, 1]


@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_encode__gives_for_a_scored_input_what_is_on_file(finished_study, teacher, method):
    (run,) = finished.find(finished_study, teacher, methods=[method], epochs=2)
    made = search.encode_image(run, run.image(5))
    for who in ("teacher", "student"):
        torch.testing.assert_close(made[who], search.space(run, who)["image"][5], rtol=0, atol=2e-3)
    np.testing.assert_allclose(made["teacher_attention"], run.teacher_attention[5], atol=2e-3)
    assert ("student_attention" in made) == (method == "attention")
    if run.has_text:
        made = search.encode_text(run, run.texts[7])
        for who in ("teacher", "student"):
            torch.testing.assert_close(made[who], search.space(run, who)["text"][7], rtol=0, atol=2e-3)


def test_encode__text_needs_a_teacher_that_reads(finished_study):
    (run,) = finished.find(finished_study, "dino", methods=["projection"], epochs=2)
    with pytest.raises(teachers.TeacherError, match="no text side"):
        search.encode_text(run, "a star")


def test_encode__without_the_teacher_only_a_student_of_pixels_answers(finished_study, monkeypatch):
    def gone(config):
        raise teachers.TeacherError("not to be had")

    monkeypatch.setattr(search, "teacher_of", gone)
    (pixels,) = finished.find(finished_study, "clip", methods=["resnet"], epochs=2)
    assert set(search.encode_image(pixels, pixels.image(0))) == {"student"}
    (features,) = finished.find(finished_study, "clip", methods=["projection"], epochs=2)
    with pytest.raises(teachers.TeacherError, match="not to be had"):
        search.encode_image(features, features.image(0))


def test_uploaded__is_upright_rgb_of_at_most_1024_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image = search.uploaded(png((2000, 1000), format="JPEG", exif=exif), "photo.jpg")
    assert image.mode == "RGB" and image.size == (512, 1024)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (png((64, 64), format="JPEG")[:-200], "not an image"),
        (png((8000, 8000)), "8000 x 8000 pixels"),
        (b"0" * (search.LARGEST_BYTES + 1), "10 MB are read"),
    ],
    ids=["empty", "not a picture", "cut off", "too many pixels", "too large"],
)
def test_uploaded__refuses_in_plain_words(content, words):
    with pytest.raises(UploadError, match=words):
        search.uploaded(content, "mine.png")
