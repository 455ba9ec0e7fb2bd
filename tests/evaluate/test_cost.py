"""Sizes and times of a result, by hand, and the parts of a real student that are measured."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from kdlib import students
from kdlib.config import RunConfig
from kdlib.evaluate import cost

TEACHER = {
    "image": {"mb": 100.0, "macs": 1000, "1_ms": [10.0] * 20, "32_ms": [100.0] * 20},
    "text": {"mb": 40.0, "macs": 200, "1_ms": [2.0] * 20, "32_ms": [20.0] * 20},
}
STUDENT = {
    "mb": 3.0,
    "image": {"macs": 10, "1_ms": [1.0] * 20, "32_ms": [28.0] * 20},
    "text": {"macs": 4, "1_ms": [0.5] * 20, "32_ms": [12.0] * 20},
}
FEATURES, TOKENS, PIXELS, SELF_CONTAINED = (  # what a student reads of an image and of a text
    SimpleNamespace(reads=image, text_reads=text)
    for image, text in (("features", "features"), ("tokens", "tokens"), ("pixels", "features"), ("pixels", "ids"))
)
HISTORY = [{"seconds": 9.0, "data_share": 0.5}, *({"seconds": s, "data_share": 0.1} for s in (2.0, 4.0, 3.0))]


@pytest.mark.parametrize(
    ("measured", "reads", "inference_mb", "macs"),
    [
        (STUDENT, FEATURES, 143.0, {"image": 1010, "text": 204}),
        (STUDENT, PIXELS, 43.0, {"image": 10, "text": 204}),
        (STUDENT, SELF_CONTAINED, 3.0, {"image": 10, "text": 4}),
        ({name: STUDENT[name] for name in ("mb", "image")}, FEATURES, 103.0, {"image": 1010}),
    ],
)
def test_sizes__a_student_needs_the_sides_of_the_teacher_whose_features_it_reads(measured, reads, inference_mb, macs):
    found = cost.sizes(measured, TEACHER, reads)
    assert found == {"student_mb": 3.0, "inference_mb": inference_mb, "teacher_mb": 140.0}
    assert cost.times(measured, TEACHER, reads, HISTORY)["macs"] == macs


def test_times__the_first_epoch_is_apart_and_the_backbone_is_timed_with_the_student():
    found = cost.times(STUDENT, TEACHER, TOKENS, HISTORY)
    assert found["epoch_s"] == 3.0 and found["waiting"] == pytest.approx(0.2)
    assert found["image_1"]["p50_ms"] == 11.0 and found["text_32"]["p50_ms"] == 32.0
    assert found["image_1"]["calls"] == 20
    assert cost.times(STUDENT, TEACHER, PIXELS, HISTORY)["image_1"]["p50_ms"] == 1.0
    assert cost.times(STUDENT, TEACHER, SELF_CONTAINED, HISTORY)["text_1"]["p50_ms"] == 0.5


@pytest.mark.parametrize(("method", "macs"), [("projection", 32 * 24), ("bottleneck", 32 * 8 + 8 * 24)])
def test_student_cost__counts_the_layers_of_both_sides(pairs, method, macs):
    """By hand from the shapes: teacher 32 wide, student 24, bottleneck 8."""
    config = RunConfig(teacher="clip", dataset="coco", method=method, width=24, bottleneck=8)
    student = students.build(config, students.Inputs(32, (4, 4), text=True)).eval()
    found = cost.student_cost(student, pairs["test"], Image.new("RGB", (8, 8)), "cpu", calls=5)
    assert found["image"]["macs"] == found["text"]["macs"] == macs
    assert found["mb"] == pytest.approx(sum(p.numel() for p in student.parameters()) * 4 / 2**20)
    assert {len(found[side][f"{size}_ms"]) for side in ("image", "text") for size in (1, 32)} == {5}


def test_teacher_cost__goes_from_decoded_images_and_strings():
    seen = []
    encode = dict.fromkeys(("encode_images", "encode_texts"), lambda given: seen.append((len(given), type(given[0]))))
    sizes = {"image": 2**18, "text": 2**19}
    teacher = SimpleNamespace(image_size=16, device=torch.device("cpu"), has_text=True, parameters=sizes, **encode)
    found = cost.teacher_cost(teacher, calls=5)
    assert (found["image"]["mb"], found["text"]["mb"]) == (1.0, 2.0)
    assert set(seen) == {(size, kind) for size in (1, 32) for kind in (Image.Image, str)}
