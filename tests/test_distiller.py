import pytest
import torch
from pydantic import ValidationError

from kdlib import losses, students
from kdlib.config import RunConfig
from kdlib.distiller import OBJECTIVES, Distiller
from kdlib.students import StudentSpec
from tests.test_students import SMALL, batch

FULL_BATCH = {"image_attention": torch.rand(3, 16), "text_attention": torch.rand(3, 5), "row": torch.arange(3)}
TABLE = {  # architecture: which loss trains which student, without and with text
    "projection": ({"logit_matching"}, {"logit_matching"}),
    "bottleneck": ({"logit_matching"}, {"logit_matching"}),
    "attention": (
        {"logit_matching", "image_attention_transfer"},
        {"logit_matching", "image_attention_transfer", "text_attention_transfer"},
    ),
    "cbam": ({"logit_matching", "image_attention_transfer"},) * 2,
    "resnet": ({"logit_matching"}, {"contrastive", "kl"}),
    "densenet": ({"logit_matching"}, {"contrastive", "kl"}),
}


def distiller(method: str, text: bool, **fields) -> Distiller:
    config = RunConfig(teacher="clip", dataset="coco", method=method, **fields)
    torch.manual_seed(0)
    student = students.build(method, StudentSpec(**SMALL, text=text))
    return Distiller(student, OBJECTIVES[method], config, teacher_scale=20.0)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("method", TABLE)
def test_distiller__each_student_gets_its_losses(method, text):
    made = distiller(method, text)
    loss, terms = made(batch() | FULL_BATCH)
    assert set(terms) == TABLE[method][text]
    assert torch.allclose(loss, sum(terms.values()))
    loss.backward()
    assert made.log_scale.grad.abs() > 0


def test_distiller__pixel_students_of_a_text_teacher_get_the_combined_loss():
    made = distiller("resnet", True, contrastive_weight=0.5, kl_weight=2.0, tau=3.0).eval()
    data = batch() | FULL_BATCH
    out = made.student(data)
    student = losses.similarity_logits(out["image"], out["text"], made.scale)
    teacher = losses.similarity_logits(data["image"], data["text"], 20.0)
    eye = torch.eye(3, dtype=torch.bool)
    expected = losses.combined(student, teacher, eye, tau=3.0, contrastive_weight=0.5, kl_weight=2.0)
    assert torch.allclose(made(data)[0], expected)


def test_distiller__a_student_that_is_its_teacher_has_no_loss():
    """An identity projection at the teacher's scale reproduces every similarity."""
    config = RunConfig(teacher="clip", dataset="coco", width=32)
    student = students.build("projection", StudentSpec(**SMALL | {"width": 32}, text=True))
    for side in (student.image, student.text):
        torch.nn.init.eye_(side.weight)
        torch.nn.init.zeros_(side.bias)
    made = Distiller(student, ("logit_matching",), config, teacher_scale=1 / 0.07)
    assert made(batch() | FULL_BATCH)[0].item() == pytest.approx(0, abs=1e-6)


def test_state__holds_all_that_is_trained_and_no_teacher():
    made = distiller("projection", True)
    assert set(made.state_dict()) == {
        "log_scale", "student.image.weight", "student.image.bias", "student.text.weight", "student.text.bias",
    }  # fmt: skip


def test_scale__never_passes_its_limit():
    made = distiller("projection", True)
    made.log_scale.data.fill_(20.0)
    assert made.scale == 100


def test_config__is_frozen_and_knows_its_fields():
    config = RunConfig(teacher="clip", dataset="coco")
    with pytest.raises(ValidationError):
        config.epochs = 7
    with pytest.raises(ValidationError, match="epoch"):
        RunConfig(teacher="clip", dataset="coco", epoch=5)
    with pytest.raises(ValidationError):
        RunConfig(teacher="clip", dataset="coco", epochs=0)
    assert {"epochs", "study", "device", "data_root"}.isdisjoint(config.training())
    assert {"seed", "lr_peak", "tau", "method", "teacher", "batch_size"} <= set(config.training())
