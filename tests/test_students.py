import pytest
import torch
from torch import nn

from kdlib import students
from kdlib.students import STUDENTS, Student, StudentSpec, megabytes, unit
from kdlib.study import METHODS

B, N, L = 3, 16, 5
SMALL = {"teacher_width": 32, "width": 24, "grid": (4, 4), "bottleneck": 8, "heads": 4, "convnet": "narrow"}


def batch(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    return {
        "image": torch.randn(B, 32, generator=generator),
        "image_tokens": torch.randn(B, N, 32, generator=generator),
        "text": torch.randn(B, 32, generator=generator),
        "text_tokens": torch.randn(B, L, 32, generator=generator) * mask[..., None],
        "text_mask": mask,
        "pixels": torch.rand(B, 3, 32, 32, generator=generator),
    }


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.mark.parametrize("text", [False, True])
def test_student__gives_unit_embeddings_and_maps_that_sum_to_one(method, text):
    out = students.build(method, StudentSpec(**SMALL, text=text)).eval()(batch())
    assert set(out) >= ({"image", "text"} if text else {"image"})
    assert ("text" in out) == text
    for side in ("image", "text"):
        if side in out:
            assert out[side].shape == (B, 24)
            assert torch.allclose(out[side].norm(dim=-1), torch.ones(B), atol=1e-5)
    if method in ("attention", "cbam"):
        assert out["image_attention"].shape == (B, N) and (out["image_attention"] >= 0).all()
        assert torch.allclose(out["image_attention"].sum(dim=-1), torch.ones(B), atol=1e-5)
    assert ("text_attention" in out) == (text and method == "attention")


def test_student__an_images_embedding_does_not_depend_on_the_others(method):
    student = students.build(method, StudentSpec(**SMALL, text=True)).eval()
    whole, one = batch(), {name: value[1:2] for name, value in batch().items()}
    assert torch.allclose(student(whole)["image"][1:2], student(one)["image"], atol=1e-5)
    assert torch.allclose(student(whole)["text"][1:2], student(one)["text"], atol=1e-5)


def test_student__every_parameter_learns(method):
    student = students.build(method, StudentSpec(**SMALL, text=True)).train()
    out = student(batch())
    weights = torch.Generator().manual_seed(1)
    sum((value * torch.randn(value.shape, generator=weights)).sum() for value in out.values()).backward()
    still = [name for name, parameter in student.named_parameters() if parameter.grad is None]
    assert not still


def test_attention__padding_is_never_looked_at():
    student = students.build("attention", StudentSpec(**SMALL, text=True)).eval()
    clean, dirty = batch(), batch()
    dirty["text_tokens"] = torch.where(clean["text_mask"][..., None], clean["text_tokens"], 99.0)
    assert torch.allclose(student(clean)["text"], student(dirty)["text"], atol=1e-6)
    assert (student(clean)["text_attention"][~clean["text_mask"]] == 0).all()


def test_feature_students__ignore_the_scale_of_the_teacher():
    for method in ("projection", "bottleneck", "attention", "cbam"):
        student = students.build(method, StudentSpec(**SMALL)).eval()
        scaled = {name: 7 * value if name.startswith("image") else value for name, value in batch().items()}
        assert torch.allclose(student(batch())["image"], student(scaled)["image"], atol=1e-5)


def test_same_seed__same_weights(method):
    def weights():
        torch.manual_seed(5)
        return students.build(method, StudentSpec(**SMALL, text=True)).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


TINY = {"teacher_width": 768, "grid": (14, 14)}
COCO = {"teacher_width": 512, "grid": (7, 7), "text": True}


@pytest.mark.parametrize(
    ("method", "spec", "printed"),
    [
        ("projection", TINY, 0.75),
        ("bottleneck", TINY, 0.50),
        ("attention", TINY, 9.76),
        ("resnet", TINY | {"width": 200}, 43.03),  # the study's has an output a class
        ("projection", COCO, 1.00),
        ("bottleneck", COCO, 0.75),
        ("attention", COCO, 9.02),
        ("cbam", COCO, 1.25),
        ("densenet", COCO | {"text": False}, 27.53),  # the study counts no text side
    ],
)
def test_size__is_the_studys(method, spec, printed):
    assert megabytes(students.build(method, StudentSpec(**spec))) == pytest.approx(printed, abs=0.006)


def test_size__where_ours_must_differ_by_how_much():
    """A text head of 512 x 256, and no second 256 x 256 layer behind ResNet's projection (the study: 43.39)."""
    head = megabytes(nn.Linear(512, 256))
    resnet = students.build("resnet", StudentSpec(**COCO))
    assert megabytes(resnet) - megabytes(resnet.text) == pytest.approx(43.136, abs=0.001)
    assert megabytes(resnet) == pytest.approx(43.136 + head, abs=0.001)
    assert 43.136 + megabytes(nn.Linear(256, 256)) == pytest.approx(43.39, abs=0.006)
    assert megabytes(students.build("densenet", StudentSpec(**COCO))) == pytest.approx(27.53 + head, abs=0.006)


def test_narrow__is_a_fraction_of_the_full_network():
    for method in ("resnet", "densenet"):
        narrow, full = (megabytes(students.build(method, StudentSpec(**TINY, convnet=c))) for c in ("narrow", "full"))
        assert narrow < full / 10


def test_errors__speak_to_the_user():
    with pytest.raises(ValueError, match=r"5 heads do not divide the teacher's width 32; set 'heads' to one of \[1, 2"):
        students.build("attention", StudentSpec(**SMALL | {"heads": 5}))
    with pytest.raises(KeyError, match=r"There is no student 'projektion'\. Known: attention, bottleneck"):
        students.build("projektion", StudentSpec(**SMALL))


class Mine(Student):
    reads = "features"

    def __init__(self, spec):
        super().__init__(spec)
        self.image = nn.Identity()

    def see(self, batch):
        return {"image": unit(batch["image"])}


def test_own_student__by_register_or_import_path(monkeypatch):
    monkeypatch.setattr(students, "STUDENTS", type(STUDENTS)("student", dict(STUDENTS)))
    students.STUDENTS.register("mine", Mine)
    assert isinstance(students.build("mine", StudentSpec(**SMALL)), Mine)
    assert isinstance(students.build(f"{__name__}:Mine", StudentSpec(**SMALL)), Mine)
    with pytest.raises(ValueError, match="exists already"):
        students.STUDENTS.register("mine", Student)
