"""Sizes and times of a result, by hand."""

from types import SimpleNamespace

import pytest
import torch

from kdlib import machine
from kdlib.evaluate import cost
from kdlib.machine import latency, multiply_accumulates
from kdlib.students import StudentSpec, build

TEACHER = {
    "image": {"mb": 100.0, "macs": 1000, "batch_1_ms": [10.0] * 20, "batch_32_ms": [100.0] * 20},
    "text": {"mb": 40.0, "macs": 200, "batch_1_ms": [2.0] * 20, "batch_32_ms": [20.0] * 20},
}
STUDENT = {
    "student_mb": 3.0,
    "text_mb": 1.0,
    "image": {"macs": 10, "batch_1_ms": [1.0] * 20, "batch_32_ms": [28.0] * 20},
    "text": {"macs": 4, "batch_1_ms": [0.5] * 20, "batch_32_ms": [12.0] * 20},
}
VISION = {name: value for name, value in STUDENT.items() if name != "text"} | {"text_mb": 0.0}
READS = {  # what a student reads of an image and of a text
    "features": SimpleNamespace(reads="features", text_reads="features"),
    "tokens": SimpleNamespace(reads="tokens", text_reads="tokens"),
    "pixels": SimpleNamespace(reads="pixels", text_reads="features"),
    "alone": SimpleNamespace(reads="pixels", text_reads="ids"),
}
HISTORY = [{"seconds": 9.0, "data_share": 0.5}, *({"seconds": s, "data_share": 0.1} for s in (2.0, 4.0, 3.0))]


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x" * 1234)
    return path


def test_sizes__a_head_needs_both_sides_of_its_teacher(weights):
    made = cost.sizes(STUDENT, TEACHER, READS["features"], weights)
    assert (made["student_mb"], made["image_mb"], made["deployed_mb"]) == (3.0, 2.0, 143.0)
    assert (made["image_macs"], made["deployed_image_macs"]) == (10, 1010)
    assert (made["text_macs"], made["deployed_text_macs"]) == (4, 204)
    assert made["safetensors_bytes"] == 1234


def test_sizes__a_network_needs_the_text_side_only_and_alone_nothing(weights):
    assert cost.sizes(STUDENT, TEACHER, READS["pixels"], weights)["deployed_mb"] == 43.0
    alone = cost.sizes(VISION, TEACHER, READS["pixels"], weights)
    assert alone["deployed_mb"] == 3.0 and alone["deployed_image_macs"] == 10 and "text_macs" not in alone


def test_sizes__a_student_that_reads_pixels_and_ids_needs_no_teacher(weights):
    made = cost.sizes(STUDENT, TEACHER, READS["alone"], weights)
    assert made["deployed_mb"] == made["student_mb"] == 3.0
    assert (made["deployed_image_macs"], made["deployed_text_macs"]) == (10, 4)
    assert cost.times(STUDENT, TEACHER, READS["alone"], HISTORY)["text_batch_1"]["p50_ms"] == 0.5


def test_times__the_first_epoch_is_apart_and_the_backbone_is_timed_with_the_student():
    made = cost.times(STUDENT, TEACHER, READS["tokens"], HISTORY)
    assert (made["first_epoch_seconds"], made["seconds_per_epoch"]) == (9.0, 3.0)
    assert made["data_share"] == pytest.approx(0.2) and made["teacher"] == "cached"
    assert made["image_batch_1"]["p50_ms"] == 11.0 and made["image_batch_1"]["student_p50_ms"] == 1.0
    assert made["image_per_second"] == pytest.approx(32 / 0.128) and made["text_per_second"] == 1000
    assert cost.times(STUDENT, TEACHER, READS["pixels"], HISTORY)["image_batch_1"]["p50_ms"] == 1.0


def test_times__one_epoch_is_its_own_median():
    assert cost.times(VISION, TEACHER, READS["features"], HISTORY[:1])["seconds_per_epoch"] == 9.0


def test_latency__any_call_of_one_part_can_meet_any_of_the_other():
    made = latency([1.0, 3.0], [10.0, 20.0])
    assert made["p50_ms"] == pytest.approx(17.0)  # of 11, 13, 21, 23
    assert latency([5.0] * 3)["p90_ms"] == 5.0 and latency([1.0] * 7, [1.0] * 4)["calls"] == 4


@pytest.mark.parametrize("method", ["projection", "bottleneck", "attention"])
def test_multiply_accumulates__are_those_of_the_layers(method):
    """Of one image: by hand from the shapes; attention computes its keys and values for 16 tokens and the query."""
    spec = StudentSpec(teacher_width=32, width=24, grid=(4, 4), bottleneck=8, heads=4)
    student = build(method, spec).eval()
    batch = {"image": torch.randn(1, 32), "image_tokens": torch.randn(1, 16, 32)}
    query, keys = 32 * 32, 2 * 17 * 32 * 32
    by_hand = {
        "projection": 32 * 24,
        "bottleneck": 32 * 8 + 8 * 24,
        "attention": query + keys + 2 * 17 * 32 + 32 * 32 + 32 * 24,
    }
    with torch.inference_mode():
        assert multiply_accumulates(lambda: student.see(batch)) == by_hand[method]


@pytest.mark.parametrize(("seconds", "calls", "warm"), [(0.001, 200, 30), (1.0, 60, 6), (30.0, 5, 1)])
def test_call_times__of_slow_calls_there_are_fewer(monkeypatch, seconds, calls, warm):
    clock, made = [0.0], []

    def call():
        made.append(clock.__setitem__(0, clock[0] + seconds))

    monkeypatch.setattr(machine, "now", lambda device: clock[0])
    times = machine.call_times(call, torch.device("cpu"), 200)
    assert (len(times), len(made) - len(times)) == (calls, warm) and times[0] == pytest.approx(1000 * seconds)
