"""The same scores for every encoder; controls score what they must, and a control that does not is noticed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib import students
from kdlib.config import RunConfig
from kdlib.evaluate import protocol, retrieval
from kdlib.evaluate.bootstrap import share_replicates
from kdlib.evaluate.protocol import Evaluation, Scores, controls, embed, embed_teacher, failed_checks

BOTH = {"in_batch@32", "in_batch@64", "similarity_cosine", "neighbour_agreement", "similarity_kl", "cka"}
COCO = {*retrieval.RECALLS, "mean_recall", "i2t_median_rank", "t2i_median_rank", "zeroshot_map"} | BOTH
TINY = {f"knn@{k}_top{n}" for k in (10, 20, 100, 200) for n in (1, 5)} | {"linear_top1", "ridge_top1"} | BOTH


@pytest.fixture(params=["pairs", "classes"])
def evaluation(request) -> Evaluation:
    return Evaluation(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def made(pairs, classes) -> dict[str, dict[str, Scores]]:
    """The controls of both, at a width of 16."""
    return {name: controls(Evaluation(splits), 16) for name, splits in (("pairs", pairs), ("classes", classes))}


def test_score__has_every_score_of_the_protocol_with_an_interval_around_it(evaluation):
    scores = evaluation.score(evaluation.teacher)
    assert set(scores.values) == set(scores.replicates) == (TINY if evaluation.bank else COCO)
    for name, (value, low, high) in json.loads(json.dumps(scores.rows(), allow_nan=False)).items():
        assert value == scores.values[name] and low - 1e-9 <= value <= high + 1e-9
    means = {name: scores.queries[name].mean() for name in scores.queries.keys() & scores.values.keys()}
    if not evaluation.bank:
        means["mean_recall"] = np.mean([means[name] for name in retrieval.RECALLS])
        lines = np.mean([scores.replicates[name] for name in retrieval.RECALLS], axis=0)
        assert scores.replicates["mean_recall"] == pytest.approx(share_replicates(means["mean_recall"], lines, 90))
    assert {name: scores.values[name] for name in means} == pytest.approx(means)
    arrays = scores.arrays("10/student")
    assert arrays["10/student/replicates/cka"].dtype == np.float32
    assert len(arrays) == len(scores.replicates) + len(scores.queries)


def test_dev__is_scored_without_ever_opening_test(classes):
    evaluation = Evaluation({name: classes[name] for name in ("fit", "dev")}, "dev")
    scores = evaluation.score(evaluation.teacher)
    assert evaluation.needed == ("fit", "dev") and len(scores.queries["knn@20_top1"]) == len(classes["dev"])
    assert "linear_top1" not in scores.values  # its penalty is chosen on dev


def test_add__ranks_are_medians_and_captions_go_with_their_image():
    scores, weights, owner = Scores(), np.array([[1, 1, 1], [2, 0, 1]]), np.array([0, 0, 2])
    scores.add({"t2i_rank": np.array([1.0, 2.0, 9.0]), "i2t_rank": np.array([1.0, 2.0, 9.0])}, weights, owner)
    assert scores.values == {"t2i_median_rank": 2.0, "i2t_median_rank": 2.0}
    assert scores.replicates["t2i_median_rank"].tolist() == [2.0, 2.0]
    assert scores.replicates["i2t_median_rank"].tolist() == [2.0, 1.0]


def test_zeroshot_map__has_an_interval_where_resamples_lack_a_relevant_image(pairs):
    relevant = np.arange(450).reshape(90, 5) == 0
    evaluation = Evaluation({"test": replace(pairs["test"], relevant=relevant)})
    value, low, high = evaluation.counts(evaluation.teacher).rows()["zeroshot_map"]
    assert 0 <= low <= value <= high <= 1


def test_constant__scores_exactly_chance(made):
    assert made["pairs"]["constant"].values["t2i_r@10"] == pytest.approx(10 / 90)
    assert made["classes"]["constant"].values["knn@20_top1"] == pytest.approx(1 / 10)


@pytest.mark.parametrize("row", ["random", "shuffled"])
@pytest.mark.parametrize(
    ("data", "name", "chance"),
    [("pairs", "t2i_r@10", 1 / 9), ("pairs", "in_batch@64", 1 / 64), ("classes", "knn@20_top1", 1 / 10)],
)
def test_guesses__score_chance_within_3_sigma_of_the_mean_of_20_draws(made, row, data, name, chance):
    scores = made[data][row]
    assert abs(scores.values[name] - chance) < 3 * scores.facts["deviation"][name] / 20**0.5
    assert scores.values.keys().isdisjoint({"cka", "linear_top1", "i2t_median_rank"})


def test_teacher__keeps_everything_of_itself_and_pca_does_where_the_student_is_as_wide(made, evaluation):
    own = made["classes" if evaluation.bank else "pairs"]["teacher"].values
    same = evaluation.score(protocol.pca(evaluation, 32)).values
    for name, value in {"similarity_cosine": 1, "cka": 1, "similarity_kl": 0}.items():
        assert own[name] == pytest.approx(value, abs=1e-9)
    assert same["similarity_cosine"] == pytest.approx(1, abs=1e-6)
    assert same[evaluation.primary] == pytest.approx(own[evaluation.primary], abs=0.02)


def test_pca__has_the_axes_of_an_independent_decomposition(classes):
    """The teacher's test features on the right singular vectors of fit's, up to rotation: the same Gram matrix."""
    fit, test = (F.normalize(embed_teacher(classes[name])["image"].double()).numpy() for name in ("fit", "test"))
    axes = np.linalg.svd(fit, full_matrices=False)[2][:8]
    mapped = protocol.pca(Evaluation(classes), 8)["test"]["image"].numpy()
    assert np.allclose(mapped @ mapped.T, (test @ axes.T) @ (test @ axes.T).T, atol=1e-5)


def test_failed_checks__name_a_guess_that_sees_the_answer_a_teacher_unlike_itself_and_no_sound_one(made, evaluation):
    scored, name = (made["classes"], "knn@20_top1") if evaluation.bank else (made["pairs"], "t2i_r@10")
    assert failed_checks(evaluation, scored) == []
    assert "teacher scores" in failed_checks(evaluation, scored | {"teacher": scored["pca"]})[0]
    guess = Scores(scored["random"].values | {name: 0.4}, facts=scored["random"].facts)
    assert f"random scores 0.4000 in {name}, not 0.1" in failed_checks(evaluation, scored | {"random": guess})[0]
    if evaluation.bank:  # where classes differ in size there is no chance level
        fit = replace(evaluation.splits["fit"], labels=np.where(np.arange(200) < 150, 0, np.arange(200) % 10))
        assert failed_checks(Evaluation(evaluation.splits | {"fit": fit}), scored | {"random": guess}) == []


def test_embed__the_teacher_as_its_own_student_is_the_teacher(evaluation):
    """A student that hands on what it reads gives the stored features back, whatever its mode was."""

    class Identity(students.Student):
        reads = "features"

        def see(self, batch):
            assert not self.training
            return {"image": batch["image"]}

        def read(self, batch):
            return {"text": batch["text"]}

    config = RunConfig(teacher="clip", dataset="coco")
    student = Identity(config, students.Inputs(32, (4, 4), text=not evaluation.bank)).train()
    for name in evaluation.needed:
        passed, own = embed(student, evaluation.splits[name], "cpu", batch=32), embed_teacher(evaluation.splits[name])
        assert passed.keys() == own.keys() and all(torch.equal(passed[side], own[side]) for side in own)
