import pytest
import torch
import torch.nn.functional as F
from batches import SMALL, batch
from pydantic import ValidationError

from kdlib import losses, students
from kdlib.config import RunConfig
from kdlib.distiller import LOSSES, OBJECTIVES, Distiller
from kdlib.students import StudentSpec

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


def identity_student() -> students.Student:
    """A projection that leaves the teacher's features as they are."""
    student = students.build("projection", StudentSpec(**SMALL | {"width": 32}, text=True))
    for side in (student.image, student.text):
        torch.nn.init.eye_(side.weight)
        torch.nn.init.zeros_(side.bias)
    return student


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
    expected = 0.5 * losses.contrastive(student, eye) + 2 * losses.logit_matching(student, teacher, tau=3.0)
    assert torch.allclose(made(data)[0], expected)


def test_distiller__a_student_that_is_its_teacher_has_no_loss():
    """An identity projection at the teacher's scale reproduces every similarity."""
    config = RunConfig(teacher="clip", dataset="coco", width=32)
    student = identity_student()
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


def similarities(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=-1)


@pytest.mark.parametrize("method", TABLE)
def test_distiller__vision_only_logits_leave_out_the_diagonal(method):
    """Cosines by torch's own function, the KL over the others only."""
    made, data = distiller(method, False, tau=1.5).eval(), batch() | FULL_BATCH
    student = made.scale * similarities(made.student(data)["image"], made.student(data)["image"])
    teacher = 20.0 * similarities(data["image"], data["image"])
    off = ~torch.eye(3, dtype=torch.bool)
    rows = [matrix[off].view(3, 2) / 1.5 for matrix in (student, teacher)]
    expected = 1.5**2 * torch.nn.functional.kl_div(
        rows[0].log_softmax(-1), rows[1].softmax(-1), reduction="batchmean"
    )  # of a symmetric matrix the columns say what the rows say
    assert made(data)[1]["logit_matching"].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


def test_distiller__text_logits_keep_the_diagonal():
    made, data = distiller("projection", True, tau=1.5), batch() | FULL_BATCH
    out = made.student(data)
    student = made.scale * similarities(out["image"], out["text"])
    teacher = 20.0 * similarities(data["image"], data["text"])
    expected = losses.logit_matching(student, teacher, tau=1.5)
    assert made(data)[0].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses.logit_matching(student, teacher, tau=1.5, leave_out_diagonal=True) != expected


def test_distiller__rows_of_the_same_image_are_positives():
    made = distiller("resnet", True).eval()
    alone, twice = batch() | FULL_BATCH, batch() | FULL_BATCH | {"row": torch.tensor([4, 4, 9])}
    out = made.student(twice)
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = made.scale * similarities(out["image"], out["text"])
    assert made(twice)[1]["contrastive"].item() == pytest.approx(losses.contrastive(logits, positives).item(), rel=1e-4)
    assert made(twice)[1]["contrastive"] != made(alone)[1]["contrastive"]
    assert made(twice)[1]["kl"] == made(alone)[1]["kl"]


@pytest.mark.parametrize("method", ["attention", "cbam"])
def test_distiller__the_attention_weight_scales_its_terms_alone(method):
    data = batch() | FULL_BATCH
    once, thrice = (distiller(method, True, attention_weight=weight)(data)[1] for weight in (1.0, 3.0))
    for name, term in once.items():
        assert torch.allclose(thrice[name], 3 * term if name.endswith("transfer") else term)
        assert not name.endswith("transfer") or term > 0


def test_distiller__teacher_features_get_no_gradient():
    data = batch() | FULL_BATCH
    for name in ("image", "text", "image_attention", "text_attention"):
        data[name] = data[name].clone().requires_grad_(True)
    made = distiller("projection", True)
    with torch.no_grad():  # what the student makes of the features is its own; here only the target's path counts
        out = made.student(data)
    made.student = torch.nn.Module()
    made.student.spec, made.student.forward = StudentSpec(**SMALL, text=True), lambda _: out
    made(data)[0].backward()
    assert all(data[name].grad is None for name in ("image", "text", "image_attention", "text_attention"))
    assert made.log_scale.grad is not None


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("method", TABLE)
def test_state__of_another_distiller_makes_the_same_losses(method, text):
    first, data = distiller(method, text), batch() | FULL_BATCH
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    torch.manual_seed(9)
    second = Distiller(
        students.build(method, StudentSpec(**SMALL, text=text)), OBJECTIVES[method], first.config, teacher_scale=20.0
    )
    assert second.eval()(data)[0] != first.eval()(data)[0]
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(data)[0], first(data)[0])
    assert {name for name, _ in first.named_parameters()} <= set(first.state_dict())


def test_scale__starts_at_clips():
    assert distiller("projection", True).scale.item() == pytest.approx(1 / 0.07)


def test_scale__comes_back_from_its_limit_when_the_loss_wants_it_lower():
    """A student that is its teacher, at a scale past the limit of 100, where the teacher's is 5."""
    config = RunConfig(teacher="clip", dataset="coco", width=32)
    student = identity_student()
    made = Distiller(student, ("logit_matching",), config, teacher_scale=5.0)
    made.log_scale.data.fill_(4.7)  # exp(4.7) = 110
    optimizer = torch.optim.SGD([made.log_scale], lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        made(batch() | FULL_BATCH)[0].backward()
        optimizer.step()
    assert made.scale < 99


def test_distiller__an_unknown_loss_is_an_error_that_lists_the_known_ones():
    config = RunConfig(teacher="clip", dataset="coco", width=32)
    with pytest.raises(
        KeyError, match=r"no loss 'mse'\. Known: anchor_kl, attention_transfer, combined, contrastive, dist, feature"
    ):
        Distiller(identity_student(), ("mse",), config, teacher_scale=1.0)


@pytest.mark.parametrize("method", ["resnet", "projection"])
def test_no_teacher__learns_from_labels_and_never_sees_the_teacher(method):
    """Other teacher features, the same loss and the same gradients; for a network, that is: a head reads them."""
    config = RunConfig(teacher="dino", dataset="tinyimagenet", method=method)
    torch.manual_seed(0)
    student = students.build(method, StudentSpec(**SMALL))
    made = Distiller(student, ("no_teacher",), config, teacher_scale=20.0, classes=7).eval()
    given = batch() | {"label": torch.arange(len(batch()["image"])) % 7}
    loss, terms = made(given)
    assert set(terms) == {"labels"}
    unit = F.normalize(student(given)["image"], dim=-1)
    weights = F.normalize(made.classifier.weight, dim=-1)
    by_hand = F.cross_entropy(made.scale * unit @ weights.T, given["label"])
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    if method == "resnet":
        other = made(given | {"image": torch.randn_like(given["image"])})[0]
        assert torch.equal(loss, other)


def test_no_teacher__with_captions_is_contrastive_alone():
    config = RunConfig(teacher="clip", dataset="coco", method="resnet")
    student = students.build("resnet", StudentSpec(**SMALL, text=True))
    made = Distiller(student, ("no_teacher",), config, teacher_scale=20.0)
    assert set(made(batch() | FULL_BATCH)[1]) == {"contrastive"}


def test_diagonal__kept_gives_the_loss_with_the_identity():
    """With the diagonal the image x image target is nearly the identity, so that the loss differs."""
    losses_ = []
    for kept in (False, True):
        made = distiller("projection", False, diagonal=kept).eval()
        losses_.append(made(batch())[0].item())
    assert losses_[0] != pytest.approx(losses_[1], rel=0.05)


@pytest.mark.parametrize(
    ("objective", "text", "method", "words"),
    [
        ("contrastive", False, "resnet", "need captions"),
        ("kl", False, "projection", "need captions"),
        ("labels", True, "resnet", "needs a data set with labels"),
        ("attention_transfer", True, "projection", "Projection has no attention map"),
    ],
)
def test_distiller__a_loss_that_lacks_what_it_compares_fails_before_training(objective, text, method, words):
    config = RunConfig(teacher="clip", dataset="coco", method=method)
    student = students.build(method, StudentSpec(**SMALL, text=text))
    with pytest.raises(ValueError, match=words):
        Distiller(student, (objective,), config, teacher_scale=1.0)


def test_classifier__is_part_of_the_checkpoint_and_not_of_the_student():
    config = RunConfig(teacher="dino", dataset="tinyimagenet", method="projection")
    student = students.build("projection", StudentSpec(**SMALL))
    made = Distiller(student, ("labels",), config, teacher_scale=1.0, classes=5)
    assert made.state_dict()["classifier.weight"].shape == (5, 24)
    assert not any("classifier" in name for name in student.state_dict())


# ---------------------------------------------------------------- losses in the teacher's space

MEANS = {side: torch.randn(32, generator=torch.Generator().manual_seed(k)) for k, side in enumerate(("image", "text"))}
ANCHORS = {
    f"{side}_anchors": torch.randn(7, 32, generator=torch.Generator().manual_seed(k))
    for k, side in enumerate(("image", "text"))
}
ALONE = batch() | FULL_BATCH | ANCHORS
METHODS = (  # of the study of methods: objective, its terms on an image alone, and on both sides
    ("feature_regression", {"image_regression"}, {"image_regression", "text_regression"}),
    ("anchor_kl", {"image_anchor_kl"}, {"image_anchor_kl", "text_anchor_kl"}),
    ("relational", {"image_relational"}, {"image_relational", "text_relational"}),
    ("dist", {"dist"}, {"dist"}),
    ("orthogonal_projection", {"image_orthogonal"}, {"image_orthogonal", "text_orthogonal"}),
    ("teacher_contrastive", {"image_teacher_contrastive"}, {"image_teacher_contrastive", "text_teacher_contrastive"}),
)


def of(objective: str, text: bool, method: str = "resnet", width: int = 24, **fields) -> Distiller:
    config = RunConfig(teacher="clip", dataset="coco", method=method, **fields)
    torch.manual_seed(0)
    student = students.build(method, StudentSpec(**SMALL | {"width": width, "image_size": 32}, text=text))
    return Distiller(student, tuple(objective.split("+")), config, teacher_scale=20.0, means=MEANS)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(("objective", "alone", "both"), METHODS)
def test_method__has_a_term_for_each_side_and_trains_all_that_it_has(objective, alone, both, text):
    made = of(objective, text)
    loss, terms = made(ALONE)
    assert set(terms) == (both if text else alone)
    loss.backward()
    still = {name for name, parameter in made.named_parameters() if parameter.grad is None}
    assert still <= {"log_scale"}


@pytest.mark.parametrize("objective", sorted(LOSSES))
def test_losses__work_for_a_head_a_map_and_a_network(objective):
    for method in ("projection", "attention", "resnet", "vit"):
        if objective == "attention_transfer" and method in ("projection", "resnet"):
            continue
        given = {"classes": 7} if objective == "labels" else {"means": MEANS}
        config = RunConfig(teacher="clip", dataset="coco", method=method)
        student = students.build(method, StudentSpec(**SMALL | {"image_size": 32}, text=objective != "labels"))
        made = Distiller(student, (objective,), config, teacher_scale=20.0, **given)
        loss, _ = made(ALONE | {"label": torch.arange(3)})
        assert torch.isfinite(loss)


def test_regression__is_of_the_projected_embedding_and_the_centred_feature():
    made = of("feature_regression+anchor_kl", True, anchor_weight=0.3, anchor_tau=0.2).eval()
    terms, out = made(ALONE)[1], made.student(ALONE)
    for side in ("image", "text"):
        projected = out[side] @ made.projector.weight.T
        centred, anchors = ALONE[side] - MEANS[side], ANCHORS[f"{side}_anchors"] - MEANS[side]
        expected = (2 - 2 * F.cosine_similarity(projected, centred)).mean()
        assert terms[f"{side}_regression"].item() == pytest.approx(expected.item(), rel=1e-4)
        expected = 0.3 * losses.anchor_kl(projected, centred, anchors, tau=0.2)
        assert terms[f"{side}_anchor_kl"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_teacher_contrastive__pairs_a_side_with_the_teachers_other_side():
    made = of("teacher_contrastive", True).eval()
    terms, out = made(ALONE)[1], made.student(ALONE)
    logits = made.scale * similarities(out["image"] @ made.projector.weight.T, ALONE["text"] - MEANS["text"])
    expected = losses.contrastive(logits, torch.eye(3, dtype=torch.bool))
    assert terms["image_teacher_contrastive"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_projector__is_in_the_checkpoint_and_not_in_the_student():
    made = of("feature_regression", False)
    state = made.state_dict()
    assert state["image_mean"].equal(MEANS["image"]) and "projector.2.running_mean" in state
    assert not any("projector" in name for name in made.student.state_dict())
    assert not any("projector" in name or "mean" in name for name in of("logit_matching", False).state_dict()
                   if not name.startswith("student"))  # fmt: skip


def test_projector__of_image_and_text_is_nothing_where_the_widths_agree():
    """So that the cosines between the two, which inference takes, are those that were trained."""
    assert isinstance(of("feature_regression", True, width=32).projector, torch.nn.Identity)
    assert of("feature_regression", True).projector.weight.shape == (32, 24)


def test_orthogonal__keeps_the_cosines_while_it_trains():
    made = of("orthogonal_projection", False)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(ALONE)[0].backward()
        optimizer.step()
    vectors = F.normalize(torch.randn(5, 24), dim=-1)
    assert torch.allclose(similarities(vectors, vectors), similarities(*2 * [made.orthogonal(vectors)]), atol=1e-4)


@pytest.mark.parametrize("objective", ["feature_regression+anchor_kl", "orthogonal_projection", "teacher_contrastive"])
def test_teacher_space__the_teacher_gets_no_gradient(objective):
    data = ALONE | {name: ALONE[name].clone().requires_grad_(True) for name in ("image", *ANCHORS)}
    made = of(objective, False)
    made(data)[0].backward()
    assert all(data[name].grad is None for name in ("image", *ANCHORS))


def test_state__of_a_distiller_with_projectors_makes_the_same_losses():
    first = of("feature_regression+orthogonal_projection", False)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    second = of("feature_regression+orthogonal_projection", False)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.eval()(ALONE)[0], first.eval()(ALONE)[0])
