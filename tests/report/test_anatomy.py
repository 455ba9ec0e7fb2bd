import numpy as np
import pytest
import torch
from torch import nn

from kdlib import students
from kdlib.report import anatomy
from kdlib.students import Student, StudentSpec, unit
from kdlib.study.file import METHODS

SPEC = StudentSpec(teacher_width=16, width=8, grid=(2, 2), text=True, bottleneck=4, heads=2, convnet="narrow")


def batch_of() -> dict:
    return {"image": torch.ones(1, 16), "image_tokens": torch.ones(1, 4, 16), "pixels": torch.ones(1, 3, 32, 32)}


@pytest.mark.parametrize("method", METHODS)
def test_parts__hold_all_parameters_of_every_student(method):
    student = students.build(method, SPEC).eval()
    text = {"text": torch.ones(1, 16), "text_tokens": torch.ones(1, 3, 16), "text_mask": torch.ones(1, 3).bool()}
    image, size = anatomy.parts(student, "image", batch_of())
    read, text_size = anatomy.parts(student, "text", text)
    assert size == text_size == "8"
    assert sum(part.parameters for part in image + read) == sum(np.prod(p.shape) for p in student.parameters())


def test_parts__stand_in_the_order_in_which_they_run_with_what_they_give():
    image, _ = anatomy.parts(students.build("attention", SPEC).eval(), "image", batch_of())
    assert [(part.name, part.output) for part in image] == [("image_block", "16"), ("image", "8")]
    assert image[0].kind == "AttentionBlock: MultiheadAttention, Linear" and image[1].kind == "Linear"


class Own(Student):
    """A user's student, whose parts run in another order than they are built."""

    reads = "features"

    def __init__(self, spec):
        super().__init__(spec)
        self.last = nn.Linear(5, spec.width)
        self.first = nn.ModuleList([nn.Linear(spec.teacher_width, 5)])

    def see(self, batch):
        return {"image": unit(self.last(self.first[0](batch["image"])))}


def test_parts__of_a_users_own_student():
    student = Own(StudentSpec(teacher_width=16, width=8))
    image, _ = anatomy.parts(student, "image", batch_of())
    assert [(part.name, part.output, part.parameters) for part in image] == [("first", "5", 85), ("last", "8", 48)]
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("projection", "pooled feature 16"),
        ("cbam", "pooled feature 16\ntokens 4 × 16"),
        ("resnet", "pixels 3 × 32 × 32"),
    ],
)
def test_reads__says_what_the_student_is_given(method, said):
    student = students.build(method, SPEC)
    given = {"features": ["image"], "tokens": ["image", "image_tokens"], "pixels": ["image", "pixels"]}[student.reads]
    assert anatomy.reads(student, "image", {name: batch_of()[name] for name in given}) == said


def test_reads__a_student_that_stands_alone_reads_pixels_and_token_ids():
    spec = StudentSpec(teacher_width=16, width=8, text=True, convnet="narrow", text_side="transformer", vocabulary=9)
    student = students.build("resnet", spec)
    text = {"text": torch.ones(1, 16), "text_ids": torch.ones(1, 3).long(), "text_mask": torch.ones(1, 3).bool()}
    assert anatomy.reads(student, "image", batch_of()) == "pixels 3 × 32 × 32"
    assert anatomy.reads(student, "text", text) == "token ids 3"
