"""The exam: the same scores for every encoder, from its embeddings; dev where something is to be chosen."""

import numpy as np
import pytest
import torch

from kdlib import sources as module
from kdlib.evaluate.exam import Scores
from kdlib.evaluate.uncertainty import interval, resamples, share_replicates
from kdlib.experiment import Experiment

COCO = {"i2t_r@1", "t2i_r@10", "mean_recall", "i2t_median_rank", "zeroshot_map", "similarity_kl", "cka"}
TINY = {"knn@20_top1", "knn@160_top5", "linear_top1", "ridge_top1", "neighbour_agreement", "cka"}


@pytest.mark.parametrize(("teacher", "names"), [("clip", COCO), ("beit", TINY)])
def test_score__has_every_score_of_the_protocol(small_run, teacher, names):
    exam = Experiment.open(small_run(teacher)).exam
    scores = exam.score(exam.teacher)
    assert names <= set(scores.values)
    assert set(scores.values) == set(scores.replicates)
    for name, value in scores.values.items():
        if name in scores.queries:
            assert value == pytest.approx(scores.queries[name].mean())
        if name in scores.replicates:
            low, high = interval(scores.replicates[name])
            assert low - 1e-9 <= value <= high + 1e-9, name


def test_mean_recall__is_the_mean_of_the_six_on_every_resample(small_run):
    exam = Experiment.open(small_run("clip")).exam
    scores = exam.score(exam.teacher)
    six = [f"{way}_r@{depth}" for way in ("i2t", "t2i") for depth in (1, 5, 10)]
    assert scores.values["mean_recall"] == pytest.approx(np.mean([scores.values[name] for name in six]))
    drawn = np.mean([scores.replicates[name] for name in six], axis=0)
    expected = share_replicates(scores.values["mean_recall"], drawn, len(exam.scored))
    assert np.array_equal(scores.replicates["mean_recall"], expected)


def test_add__ranks_are_medians_and_captions_go_with_their_image():
    scores, weights, owner = Scores(), np.array([[1, 1, 1], [2, 0, 1]]), np.array([0, 0, 2])
    credits = {"t2i_rank": np.array([1.0, 2.0, 9.0]), "similarity_cosine": np.array([1.0, 0.0, 0.0])}
    scores.add(credits, weights, owner)
    assert scores.values == {"t2i_median_rank": 2.0, "similarity_cosine": pytest.approx(1 / 3)}
    first = weights[1].astype(float)
    assert scores.replicates["similarity_cosine"][1] == pytest.approx(first[0] / (2 * first[0] + first[2]))


def test_add__a_share_of_few_hits_is_as_unsure_as_it_is():
    """None of 500 right: the percentile interval would be [0, 0], Wilson's ends at 0.0076."""
    scores = Scores()
    scores.add({"i2t_r@1": np.zeros(500), "similarity_cosine": np.zeros(500)}, resamples(500))
    assert interval(scores.replicates["i2t_r@1"])[1] == pytest.approx(0.0076, abs=2e-4)
    assert interval(scores.replicates["similarity_cosine"]) == (0, 0)


def test_chance__is_the_mean_over_draws(small_run):
    exam = Experiment.open(small_run("clip")).exam
    draws = [exam.teacher, {"test": {name: rows.flip(0) for name, rows in exam.teacher["test"].items()}}]
    found, alone = exam.chance(draws), [exam.counts(draw) for draw in draws]
    assert set(found.values) == {name for name in alone[0].values if not name.endswith("rank")}
    for name, value in found.values.items():
        assert value == pytest.approx(np.mean([one.values[name] for one in alone])), name
    assert "linear_top1" not in found.values and "cka" not in found.values


@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_dev__is_scored_without_ever_opening_test(small_run, teacher, monkeypatch):
    """Tuning scores on dev, and the test images are not even loaded."""
    asked = []
    original = module.datasets.load

    def load(name, root, split):
        asked.append(split)
        return original(name, root, split)

    monkeypatch.setattr(module.datasets, "load", load)
    experiment = Experiment.open(small_run(teacher, score_on="dev", epochs=1))
    result = experiment.finish(experiment.evaluate(), experiment.train()) if experiment.train() else {}
    assert set(asked) == {"fit", "dev"} and set(result["data"]) == {"fit", "dev"}
    assert "test" not in experiment.exam.needed and result["config"]["score_on"] == "dev"
    assert len(experiment.exam.scored) == len(experiment.data["dev"])


def test_score__counts_embeddings_that_coincide(small_run):
    exam = Experiment.open(small_run("clip", epochs=1)).exam
    embedded = {"test": {side: values.clone() for side, values in exam.teacher["test"].items()}}
    embedded["test"]["image"] += torch.randn(embedded["test"]["image"].shape, generator=torch.manual_seed(0))
    embedded["test"]["text"][:3] = embedded["test"]["text"][0]
    differ = len(torch.unique(embedded["test"]["text"], dim=0))
    assert differ < len(embedded["test"]["text"])
    found = exam.score(embedded).facts["distinct"]
    assert found == {"text": [differ, len(embedded["test"]["text"])]}


def test_scoring__says_how_far_it_is(small_run, capsys):
    experiment = Experiment.open(small_run("clip", epochs=1))
    experiment.train()
    experiment.evaluate()
    assert "scoring: 4/4" in capsys.readouterr().err


def test_keys__training_is_the_same_whatever_is_scored_and_the_experiment_is_not(small_run):
    keys = {on: Experiment.open(small_run("dino", score_on=on, variant=on)).keys for on in ("dev", "test")}
    assert keys["dev"]["train"] == keys["test"]["train"] and keys["dev"]["experiment"] != keys["test"]["experiment"]


def test_prompts__are_read_by_the_student_as_captions_are(small_run):
    """Zero-shot goes through the student's own text side: a prompt embeds as the same words would as a caption."""
    from kdlib.evaluate.embed import embed

    experiment = Experiment.open(small_run("clip", method="attention"))
    split = experiment.exam.scored
    made = embed(experiment.distiller().student, split)
    assert made["prompt"].shape == (len(experiment.data["test"].category_names), experiment.config.width)
    assert torch.allclose(made["prompt"].norm(dim=1), torch.ones(len(made["prompt"])), atol=1e-5)
    assert not torch.allclose(made["prompt"][0], made["prompt"][1])
