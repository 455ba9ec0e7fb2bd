"""A reviewer recomputes one number of each kind from the files of a run, with a few lines of numpy."""

import numpy as np
import pytest

from kdlib.experiment import Experiment
from kdlib.files import read_json


@pytest.fixture(scope="module")
def runs(small_shapes, tmp_path_factory):
    """The folders of two finished experiments: COCO with an attention student, Tiny ImageNet with a projection."""
    from kdlib.config import RunConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        folders = {}
        for teacher, dataset, method in (("clip", "coco", "attention"), ("dino", "tinyimagenet", "projection")):
            config = RunConfig(
                teacher=teacher, dataset=dataset, method=method, epochs=2, batch_size=16, timed_calls=5, study="test",
                data_root=str(small_shapes),
            )  # fmt: skip
            experiment = Experiment.open(config)
            history = experiment.train()
            experiment.finish(experiment.evaluate(), history)
            folders[dataset] = experiment.run.path
        yield folders


@pytest.fixture
def coco(runs):
    return np.load(runs["coco"] / "embeddings-0002.npz"), read_json(runs["coco"] / "result-0002.json")["scores"][
        "student"
    ]


@pytest.fixture
def tiny(runs):
    folder = runs["tinyimagenet"]
    return np.load(folder / "embeddings-0002.npz"), read_json(folder / "result-0002.json")["scores"]["student"]


def test_mean_recall__from_embeddings(coco):
    files, scores = coco
    image, text, owner = files["test/image"].astype(float), files["test/text"].astype(float), files["test/owner"]
    similar = image @ text.T
    mine = owner[None] == np.arange(len(image))[:, None]
    i2t = (similar > np.where(mine, similar, -2).max(axis=1)[:, None]).sum(axis=1)
    t2i = (similar[owner, np.arange(len(text))][:, None] < similar.T).sum(axis=1)
    recalls = [(ranks < k).mean() for ranks in (i2t, t2i) for k in (1, 5, 10)]
    assert scores["mean_recall"] == pytest.approx(np.mean(recalls), abs=1e-9)


def test_in_batch__from_embeddings_by_simulation(coco, monkeypatch):
    """20 scenes are fewer than a batch of 32, so the definition is checked at another size."""
    import torch

    from kdlib.evaluate import retrieval

    files, _ = coco
    image, text, owner = files["test/image"].astype(float), files["test/text"].astype(float), files["test/owner"]
    similar = image @ text[[np.flatnonzero(owner == i)[0] for i in range(len(image))]].T
    rng, hits = np.random.default_rng(0), []
    for _ in range(4000):
        batch = rng.choice(len(image), size=8, replace=False)
        hits.append((similar[np.ix_(batch, batch)].argmax(axis=1) == np.arange(8)).mean())
    monkeypatch.setattr(retrieval, "BATCHES", (8,))
    made = retrieval.evaluate(torch.tensor(image), torch.tensor(text), owner)["in_batch@8"]
    assert made == pytest.approx(np.mean(hits), abs=0.01)


def test_zeroshot_map__from_embeddings(coco):
    files, scores = coco
    similar, relevant = files["test/image"].astype(float) @ files["test/prompt"].astype(float).T, files["test/relevant"]
    precisions = []
    for score, right in zip(similar.T, relevant.T, strict=True):
        order = np.argsort(-score)
        found = right[order].cumsum() / np.arange(1, len(order) + 1)
        if right.any():
            precisions.append(found[right[order]].mean())
    assert scores["zeroshot_map"] == pytest.approx(np.mean(precisions), abs=1e-9)


def test_knn__from_embeddings(tiny):
    files, scores = tiny
    bank = np.concatenate([files["fit/image"], files["dev/image"]]).astype(float)
    labels = np.concatenate([files["fit/labels"], files["dev/labels"]])
    similar = files["test/image"].astype(float) @ bank.T
    k, hits = 20, []
    for row, label in zip(similar, files["test/labels"], strict=True):
        near = np.argsort(-row)[:k]
        votes = np.bincount(labels[near], weights=np.exp((row[near] - 1) / 0.07), minlength=20)
        hits.append(votes.argmax() == label)
    assert scores["knn@20_top1"] == pytest.approx(np.mean(hits), abs=1e-9)


def test_ridge__from_embeddings_and_the_recorded_lambda(runs, tiny):
    files, scores = tiny
    facts = read_json(runs["tinyimagenet"] / "result-0002.json")["facts"]["student"]
    fit, test = (files[f"{name}/image"].astype(float) for name in ("fit", "test"))
    mean, deviation = fit.mean(axis=0), fit.std(axis=0)
    fit, test = (fit - mean) / deviation, (test - mean) / deviation
    targets = np.eye(20)[files["fit/labels"]]
    gram = fit.T @ fit / len(fit) + facts["ridge_lambda"] * np.eye(fit.shape[1])
    weights = np.linalg.solve(gram, fit.T @ (targets - targets.mean(axis=0)) / len(fit))
    found = (test @ weights + targets.mean(axis=0)).argmax(axis=1)
    assert scores["ridge_top1"] == pytest.approx((found == files["test/labels"]).mean(), abs=1e-9)


def test_neighbour_agreement__from_embeddings_and_the_teachers_store(runs, tiny):
    files, scores = tiny
    result = read_json(runs["tinyimagenet"] / "result-0002.json")
    stores = [path.parent for path in runs["tinyimagenet"].parents[3].glob("features/*/image_pooled.npy")]
    store = next(path for path in stores if len(np.load(path / "image_pooled.npy")) == result["data"]["test"]["images"])
    nearest = []
    for features in (np.load(store / "image_pooled.npy"), files["test/image"]):
        unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
        nearest.append((unit @ unit.T - 2 * np.eye(len(unit))).argmax(axis=1))
    assert scores["neighbour_agreement"] == pytest.approx((nearest[0] == nearest[1]).mean(), abs=0.02)


def test_interval__of_20_images_is_wilsons(runs, coco):
    """Fewer than 20 images' worth of misses: Wilson's interval of a share of 20 images, by its formula."""
    _, scores = coco
    arrays = np.load(runs["coco"] / "scores-0002.npz")
    share, z = arrays["student/queries/t2i_r@10"].mean(), 1.959964
    assert share == pytest.approx(scores["t2i_r@10"], abs=1e-6)
    spread = z * np.sqrt(share * (1 - share) / 20 + z**2 / 1600)
    expected = [(share + z**2 / 40 + sign * spread) / (1 + z**2 / 20) for sign in (-1, 1)]
    assert np.percentile(arrays["student/replicates/t2i_r@10"], [2.5, 97.5]) == pytest.approx(expected, abs=5e-3)


def test_controls__recall_of_a_constant_encoder_is_its_closed_form(runs):
    scores = read_json(runs["coco"] / "result-0002.json")["scores"]["constant"]
    assert scores["t2i_r@5"] == pytest.approx(5 / 20)
    assert scores["i2t_r@5"] == pytest.approx(1 - np.prod([(95 - i) / (100 - i) for i in range(5)]))


def test_splits__the_ids_on_disk_have_the_digest_of_the_result(runs):
    import hashlib

    for split in read_json(runs["coco"] / "result-0002.json")["data"].values():
        path = runs["coco"].parents[3] / "splits" / split["ids_file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == split["ids_sha256"]
        assert len(path.read_text().split()) == split["images"]
