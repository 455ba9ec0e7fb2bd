"""What the controls must score, and that each trip-wire trips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib.evaluate import controls, knn, retrieval
from kdlib.evaluate import exam as exams
from kdlib.evaluate.exam import Exam
from kdlib.experiment import Experiment


@pytest.fixture(scope="module")
def experiments(small_shapes, tmp_path_factory):
    """The exams of a vision-language and of a vision-only teacher."""
    from kdlib.config import RunConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        opened = {}
        for teacher, dataset in (("clip", "coco"), ("dino", "tinyimagenet")):
            config = RunConfig(teacher=teacher, dataset=dataset, data_root=str(small_shapes), timed_calls=5)
            opened[teacher] = Experiment.open(config)
        yield opened


@pytest.fixture(params=["clip", "dino"])
def exam(experiments, request) -> Exam:
    return experiments[request.param].exam


def scored(exam: Exam, row: str, width: int = 16):
    return controls.score(exam, row, width)


def test_wires__none_trips_on_sound_metrics(exam):
    rows = {row: scored(exam, row) for row in controls.ROWS}
    assert [wire for wire in controls.wires(exam, rows) if not wire["passed"]] == []


def test_constant__scores_chance_by_hand(experiments):
    """20 scenes with 5 captions, 60 objects in 20 classes."""
    found = scored(experiments["clip"].exam, "constant").values
    assert found["t2i_r@5"] == pytest.approx(5 / 20) and found["t2i_r@10"] == pytest.approx(10 / 20)
    assert found["i2t_r@1"] == pytest.approx(5 / 100)
    assert scored(experiments["dino"].exam, "constant").values["knn@20_top1"] == pytest.approx(1 / 20)


def test_teacher__keeps_everything_of_itself(exam):
    found = scored(exam, "teacher").values
    assert found["similarity_cosine"] == pytest.approx(1) and found["cka"] == pytest.approx(1)
    assert found["similarity_kl"] == pytest.approx(0, abs=1e-9)


def test_pca__is_the_teacher_where_the_student_is_as_wide(exam):
    wide = exam.scored.store["image_pooled"].shape[1]
    same, teacher = scored(exam, "pca", wide).values, scored(exam, "teacher").values
    assert same["similarity_cosine"] == pytest.approx(1, abs=1e-6)
    assert same[exam.headline] == pytest.approx(teacher[exam.headline], abs=0.02)


def test_pca__keeps_similarities_better_than_a_random_projection(exam):
    made, teacher = controls.pca(exam, 16)[exam.on]["image"], exam.teacher[exam.on]["image"]
    unit = F.normalize(teacher, dim=-1)
    projected = unit @ torch.randn(unit.shape[1], 16, generator=torch.Generator().manual_seed(0))
    target = unit @ unit.T

    def error(embedding):
        return (F.normalize(embedding, dim=-1) @ F.normalize(embedding, dim=-1).T - target).square().mean()

    assert error(made) < error(projected)


def test_pca__has_the_axes_of_an_independent_decomposition(experiments):
    """The teacher's test features on the right singular vectors of fit's, up to rotation: the same Gram matrix."""
    exam = experiments["dino"].exam
    fit = np.array(exam.splits["fit"].store["image_pooled"], dtype=np.float64)
    fit /= np.linalg.norm(fit, axis=1, keepdims=True)
    axes = np.linalg.svd(fit, full_matrices=False)[2][:8]
    test = exam.teacher["test"]["image"].double().numpy()
    test /= np.linalg.norm(test, axis=1, keepdims=True)
    made = controls.pca(exam, 8)["test"]["image"].numpy()
    assert np.allclose(made @ made.T, (test @ axes.T) @ (test @ axes.T).T, atol=1e-5)


def test_shuffled__moves_the_scored_images_only(exam):
    made, teacher = controls.shuffled(exam, 16, 0), exam.teacher
    before, after = teacher[exam.on]["image"], made[exam.on]["image"]
    assert not torch.equal(before, after) and torch.equal(before.sort(dim=0)[0], after.sort(dim=0)[0])
    assert all(made[name] is teacher[name] for name in exam.needed if name != exam.on)


def tripped(exam: Exam) -> str:
    rows = {row: scored(exam, row) for row in controls.ROWS}
    return "\n".join(wire["wire"] for wire in controls.wires(exam, rows) if not wire["passed"])


def test_wire__trips_when_ties_count_as_hits(experiments, monkeypatch):
    def generous(above, wrong, right, k):
        return (above < k).astype(float)

    monkeypatch.setattr(retrieval, "recall_credit", generous)
    assert "a constant encoder scores exactly chance in t2i_r@1" in tripped(experiments["clip"].exam)


def test_wire__trips_when_a_metric_sees_the_answer(experiments, monkeypatch):
    original = retrieval.credits

    def leaky(images, texts, owner):
        return {name: np.minimum(values + 0.6, 1.0) for name, values in original(images, texts, owner).items()}

    monkeypatch.setattr(retrieval, "credits", leaky)
    found = tripped(experiments["clip"].exam)
    assert "random features score chance in mean_recall" in found and "shuffled pairs score chance" in found


def test_wire__trips_when_a_metric_depends_on_the_order(experiments, monkeypatch):
    original = knn.credits

    def by_place(bank, bank_labels, query, query_labels):
        found = original(bank, bank_labels, query, query_labels)
        return {name: values * np.linspace(0, 2, len(values)) for name, values in found.items()}

    monkeypatch.setattr(knn, "credits", by_place)
    assert "another order of the samples" in tripped(experiments["dino"].exam)


def test_wire__trips_when_students_are_embedded_in_another_way(exam, monkeypatch):
    original = controls.embed

    def reversed_rows(student, split, device="auto", *args, **kwargs):
        made = original(student, split, device, *args, **kwargs)
        return made | {"image": made["image"].flip(0)}

    monkeypatch.setattr(controls, "embed", reversed_rows)
    assert "the teacher scored as its own student equals the teacher" in tripped(exam)


def test_wire__trips_when_the_evaluation_batch_matters(experiments, monkeypatch):
    import kdlib.experiment as module

    experiment = experiments["clip"]
    original = module.embed

    def by_batch(student, split, device="auto", batch=256, limit=0):
        made = original(student, split, device, batch, limit)
        return made | {"image": made["image"] * (1 + 1 / batch)}

    experiment.__dict__["trained"] = experiment.distiller()  # any weights do
    assert experiment._batch_changes_nothing()["passed"]
    monkeypatch.setattr(module, "embed", by_batch)
    assert not experiment._batch_changes_nothing()["passed"]
    del experiment.__dict__["trained"]


@pytest.mark.parametrize("name", ["mean_recall", "in_batch@16"])
def test_guessing_deviation__covers_what_random_features_do(experiments, monkeypatch, name):
    """40 encoders that guess: their spread is at most the limit's sigma and not a small part of it."""
    exam = experiments["clip"].exam
    monkeypatch.setattr(retrieval, "BATCHES", (16,))
    scores = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        images, texts = (torch.randn(count, 16, generator=generator) for count in (20, 100))
        scores.append(retrieval.evaluate(images, texts, exam.scored.owner)[name])
    sigma = controls.guessing_deviation(exam, name)
    assert 0.4 * sigma < np.std(scores) < 1.3 * sigma
    assert abs(np.mean(scores) - controls.chance(exam)[name]) < 3 * sigma / 40**0.5


def test_ensure__fits_a_probe_to_the_teacher_and_to_pca_alone(experiments, tmp_path, monkeypatch):
    """Neither guesses, a constant, nor the trip-wires wait for one, however wide the student is."""
    fitted, credits = [], exams.linear.credits

    def spy(fit, *given):
        fitted.append(fit.shape[1])
        return credits(fit, *given)

    monkeypatch.setattr(exams.linear, "credits", spy)
    exam = Exam(experiments["dino"].splits, "test", probe=False)
    controls.ensure(tmp_path, "c" * 64, exam, 4096)
    width = exam.scored.store["image_pooled"].shape[1]
    assert fitted == [width, width]


def test_ensure__computes_once_and_again_for_another_key(experiments, tmp_path, monkeypatch):
    exam = experiments["clip"].exam
    first = controls.ensure(tmp_path, "a" * 64, exam, 16)
    assert set(first["scores"]) == set(controls.ROWS) and all(wire["passed"] for wire in first["wires"])
    monkeypatch.setattr(exams.Exam, "score", None)  # would fail if it were asked again
    assert controls.ensure(tmp_path, "a" * 64, exam, 16) == first
    with pytest.raises(TypeError):
        controls.ensure(tmp_path, "b" * 64, exam, 16)
