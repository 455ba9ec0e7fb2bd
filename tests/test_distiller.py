"""The distiller: which losses train which student, of what they are taken, and what a checkpoint of it holds."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fakes import T, batch, config, inputs

from kdlib import losses, students
from kdlib.distiller import OBJECTIVES, Distiller, build, objective_of, role_of
from kdlib.losses import LOSSES
from kdlib.students import CBAM, STUDENTS

MAPS = {"image_attention_transfer", "text_attention_transfer"}
SPACE = {"image_regression", "text_regression", "image_anchor_kl", "text_anchor_kl"}
TABLE = {  # the paper's students: their losses without and with text
    "projection": ({"logit_matching"},) * 2,
    "bottleneck": ({"logit_matching"},) * 2,
    "attention": ({"logit_matching", "image_attention_transfer"}, {"logit_matching", *MAPS}),
    "cbam": ({"logit_matching", "image_attention_transfer"},) * 2,
    "resnet": ({"logit_matching"}, {"contrastive", "kl"}),
    "densenet": ({"logit_matching"}, {"contrastive", "kl"}),
    "mobilenet": ({"image_regression", "image_anchor_kl"}, SPACE),
}
MEANS = {side: torch.randn(T, generator=torch.Generator().manual_seed(k)) for k, side in enumerate(("image", "text"))}


def distiller(method: str = "projection", text: bool = True, **fields) -> Distiller:
    """``method`` with small inputs, seeded; ``classes`` and ``teacher_scale`` as fields too."""
    given = {name: fields.pop(name) for name in ("classes", "teacher_scale") if name in fields}
    made = config(method, **fields)
    torch.manual_seed(0)
    student = students.build(made, inputs(text))
    return Distiller(student, objective_of(made), made, **{"teacher_scale": 20.0, "means": MEANS} | given)


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(first[:, None], second[None], dim=-1)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("method", TABLE)
def test_distiller__each_student_gets_its_losses_and_trains_all_that_it_has(method, text):
    made = distiller(method, text)
    loss, terms = made(batch())
    assert set(terms) == TABLE[method][text]
    assert torch.allclose(loss, sum(terms.values()))
    loss.backward()
    still = {name for name, parameter in made.named_parameters() if parameter.grad is None}
    assert still <= ({"log_scale"} if method == "mobilenet" else set())


def test_objective__of_a_class_of_the_package_is_that_of_its_name(monkeypatch):
    for method in ("cbam", "kdlib.students:CBAM"):
        assert objective_of(config(method)) == ("logit_matching", "attention_transfer")
    assert objective_of(config("cbam", objective="kl+my_losses:mine")) == ("kl", "my_losses:mine")
    monkeypatch.setitem(STUDENTS, "Own", type("Own", (CBAM,), {}))
    assert objective_of(config("Own")) == ("logit_matching",)


@pytest.mark.parametrize(
    ("method", "objective", "variant", "role"),
    [
        ("projection", "", "", "student"),
        ("projection", "", "tau_4", "ablation"),
        ("projection", "feature_regression", "any", "ablation"),
        ("resnet", "feature_regression+anchor_kl", "any", "self_contained"),
        ("resnet", "supervised", "any", "supervised"),
        ("mobilenet", "", "", "self_contained"),
    ],
)
def test_role__comes_from_the_objective_and_what_the_student_reads(method, objective, variant, role):
    assert role_of(config(method, objective=objective, variant=variant)) == role


@pytest.mark.parametrize(("objective", "text", "words"), [
    ("kl", False, "need captions"),
    ("labels", True, "needs a data set with labels"),
    ("attention_transfer", True, "Projection has no attention map"),
    ("contrastiv", True, r"no loss 'contrastiv'\. Did you mean contrastive\? Known: anchor_kl, "),
])  # fmt: skip
def test_distiller__a_loss_that_is_unknown_or_lacks_what_it_compares_fails_before_training(objective, text, words):
    with pytest.raises((ValueError, KeyError), match=words):
        distiller("projection", text, objective=objective)


@pytest.mark.parametrize("objective", sorted(LOSSES))
@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
def test_losses__work_for_a_head_a_map_and_a_network(objective, method):
    if objective != "attention_transfer" or method == "attention":
        loss, terms = distiller(method, objective != "labels", objective=objective, classes=7)(batch())
        assert torch.isfinite(loss) and terms


def closeness(outputs, batch):
    return (outputs["logits"] - outputs["teacher_logits"]).square().mean()


def test_own_loss__is_one_function_of_outputs_and_batch_to_a_scalar_whose_term_has_its_name(monkeypatch):
    monkeypatch.setitem(LOSSES, "closeness", closeness)
    made = distiller(objective="closeness+logit_matching")
    loss, terms = made(batch())
    assert list(terms) == ["closeness", "logit_matching"]
    out = made.student(batch())
    apart = made.scale * cosines(out["image"], out["text"]) - 20 * cosines(batch()["image"], batch()["text"])
    assert terms["closeness"].item() == pytest.approx(apart.square().mean().item(), rel=1e-4)
    loss.backward()
    assert list(distiller(objective=f"{__name__}:closeness")(batch())[1]) == ["closeness"]
    monkeypatch.setitem(LOSSES, "rows", lambda outputs, batch: outputs["image"].sum(dim=1))
    with pytest.raises(ValueError, match=r"The loss rows returns shape \(3,\), no scalar"):
        distiller(objective="rows")(batch())


def test_combined__is_the_weighted_sum_of_contrastive_and_kl_and_rows_of_the_same_image_are_positives():
    made, twice = distiller("resnet", contrastive_weight=0.5, kl_weight=2.0, tau=3.0).eval(), batch()
    out, twice["row"] = made.student(twice), torch.tensor([4, 4, 9])
    student = losses.similarity_logits(out["image"], out["text"], made.scale)
    teacher = losses.similarity_logits(batch()["image"], batch()["text"], 20.0)
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    for data, same in ((twice, positives), (batch(), torch.eye(3, dtype=torch.bool))):
        expected = 0.5 * losses.contrastive(student, same) + 2 * losses.logit_matching(student, teacher, tau=3.0)
        assert torch.allclose(made(data)[0], expected)


@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
def test_vision_only__logits_leave_out_the_diagonal_unless_it_is_kept(method):
    """Cosines by torch's own function, the KL over the others only."""
    made = distiller(method, False, tau=1.5).eval()
    out = made.student(batch())
    matrices = made.scale * cosines(out["image"], out["image"]), 20.0 * cosines(batch()["image"], batch()["image"])
    student, teacher = (matrix[~torch.eye(3, dtype=torch.bool)].view(3, 2) / 1.5 for matrix in matrices)
    # of a symmetric matrix the columns say what the rows say
    expected = 1.5**2 * F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    term = made(batch())[1]["logit_matching"].item()
    assert term == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert term != pytest.approx(distiller(method, False, tau=1.5, diagonal=True).eval()(batch())[0].item(), rel=0.05)


def test_attention_weight__scales_its_terms_alone():
    once, thrice = (distiller("attention", attention_weight=weight)(batch())[1] for weight in (1.0, 3.0))
    assert all(torch.allclose(thrice[name], term * (3 if name in MAPS else 1)) for name, term in once.items())


def test_teacher_space__compares_the_projected_embedding_with_centred_features():
    objective, data = "feature_regression+anchor_kl+teacher_contrastive", batch()
    made = distiller("resnet", objective=objective, anchor_weight=0.3).eval()
    terms, out = made(data)[1], made.student(data)
    for side in ("image", "text"):
        projected, centred = out[side] @ made.projector.weight.T, data[side] - MEANS[side]
        expected = (2 - 2 * F.cosine_similarity(projected, centred)).mean()
        assert terms[f"{side}_regression"].item() == pytest.approx(expected.item(), rel=1e-4)
        expected = 0.3 * losses.anchor_kl(projected, centred, data[f"{side}_anchors"] - MEANS[side], tau=0.07)
        assert terms[f"{side}_anchor_kl"].item() == pytest.approx(expected.item(), rel=1e-4)
        other = {"image": "text", "text": "image"}[side]
        logits = made.scale * cosines(projected, data[other] - MEANS[other])
        expected = losses.contrastive(logits, torch.eye(3, dtype=torch.bool))
        assert terms[f"{side}_teacher_contrastive"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["resnet", "projection"])
def test_supervised__learns_from_labels_or_captions_and_the_teacher_is_no_target(method):
    """Other teacher features, the same loss; for a network, that is: a head reads them."""
    made = distiller(method, False, objective="supervised", classes=7).eval()
    loss, terms = made(batch())
    assert set(terms) == {"labels"}
    logits = made.scale * cosines(made.student(batch())["image"], made.classifier.weight)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, batch()["label"]).item(), rel=1e-5)
    if method == "resnet":
        assert torch.equal(loss, made(batch() | {"image": torch.randn(3, T)})[0])
    assert set(distiller(method, True, objective="supervised")(batch())[1]) == {"contrastive"}


def test_scale__never_passes_its_limit_and_comes_back_when_the_loss_wants_it_lower():
    made = distiller(width=T, teacher_scale=1 / 0.07)
    for side in (made.student.image, made.student.text):
        torch.nn.init.eye_(side.weight)
        torch.nn.init.zeros_(side.bias)
    assert made(batch())[0].item() == pytest.approx(0, abs=1e-6)  # the student is its teacher
    made.log_scale.data.fill_(4.7)  # exp(4.7) = 110
    assert made.scale == 100
    optimizer = torch.optim.SGD([made.log_scale], lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        made(batch())[0].backward()
        optimizer.step()
    assert made.scale < 99


def test_build__is_seeded_by_the_run_and_takes_shapes_and_means_from_the_features():
    arrays = {"image_pooled": torch.randn(6, T).numpy()}
    features = type("Features", (dict,), {"facts": {"grid": [4, 4], "image_mean": MEANS["image"].tolist()}})(arrays)
    split = SimpleNamespace(features=features, has_text=False, vocabulary=None, teacher_scale=7.0)
    made = [build(config("mobilenet", seed=seed), split) for seed in (0, 0, 1)]
    first, again, other = (one.state_dict()["projector.1.weight"] for one in made)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert made[0].teacher_scale == 7 and not made[0].training and made[0].student.inputs.teacher_width == T
    assert set(OBJECTIVES) <= set(STUDENTS)
