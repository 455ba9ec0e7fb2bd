"""A reviewer computes one number of each kind again, from a run's files and a few lines of numpy."""

import hashlib

import numpy as np
import pytest

from kdlib.experiment import Experiment
from kdlib.loader import Reader
from kdlib.utils import runs_root


@pytest.fixture(scope="module")
def made(small_shapes, tmp_path_factory):
    """Two finished runs, COCO with an attention student and Tiny ImageNet with a projection, and their runs folder."""
    from kdlib.config import RunConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        small = {"epochs": 2, "batch_size": 16, "timed_calls": 5, "study": "test", "data_root": str(small_shapes)}
        found = {}
        for teacher, dataset, method in (("clip", "coco", "attention"), ("dino", "tinyimagenet", "projection")):
            config = RunConfig(teacher=teacher, dataset=dataset, method=method, **small)
            found[dataset] = experiment = Experiment.open(config)
            experiment.train()
            experiment.evaluate()
        yield found, runs_root()


@pytest.fixture
def coco(made):
    experiment = made[0]["coco"]
    return experiment, experiment.embed("test"), experiment.result["budgets"]["2"]["scores"]["student"]


@pytest.fixture
def tiny(made):
    experiment = made[0]["tinyimagenet"]
    files = {name: experiment.embed(name)["image"].astype(float) for name in ("fit", "dev", "test")}
    return experiment, files, experiment.result["budgets"]["2"]["scores"]["student"]


def test_mean_recall(coco):
    experiment, files, scores = coco
    image, text, owner = files["image"].astype(float), files["text"].astype(float), experiment.splits["test"].owner
    similar = image @ text.T
    mine = owner[None] == np.arange(len(image))[:, None]
    i2t = (similar > np.where(mine, similar, -2).max(axis=1)[:, None]).sum(axis=1)
    t2i = (similar[owner, np.arange(len(text))][:, None] < similar.T).sum(axis=1)
    recalls = [(ranks < k).mean() for ranks in (i2t, t2i) for k in (1, 5, 10)]
    assert scores["mean_recall"][0] == pytest.approx(np.mean(recalls), abs=1e-9)


def test_projection__from_the_checkpoint_and_the_features(tiny):
    """The student itself is one matrix, applied to features of length sqrt(T)."""
    import torch

    experiment, files, _ = tiny
    state = torch.load(experiment.run / "checkpoints" / "epoch-0002.pt", weights_only=True)["model"]
    x = np.array(experiment.splits["test"].features["image_pooled"], dtype=np.float32)
    x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    y = x @ state["student.image.weight"].numpy().T + state["student.image.bias"].numpy()
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    assert np.allclose(y, files["test"], atol=1e-5)


def test_knn(tiny):
    experiment, files, scores = tiny
    bank = np.concatenate([files["fit"], files["dev"]])
    labels = np.concatenate([experiment.splits[name].labels for name in ("fit", "dev")])
    similar, hits = files["test"] @ bank.T, []
    for row, label in zip(similar, experiment.splits["test"].labels, strict=True):
        near = np.argsort(-row)[:20]
        votes = np.bincount(labels[near], weights=np.exp((row[near] - 1) / 0.07), minlength=20)
        hits.append(votes.argmax() == label)
    assert scores["knn@20_top1"][0] == pytest.approx(np.mean(hits), abs=1e-9)


def test_zeroshot_map(coco):
    experiment, files, scores = coco
    split, student = experiment.splits["test"], experiment.trained().student
    rows = np.arange(split.relevant.shape[1])
    prompts = student.read(Reader(split, student.reads, student.text_reads).texts(rows, "prompt"))["text"]
    similar, precisions = files["image"].astype(float) @ prompts.detach().double().numpy().T, []
    for score, right in zip(similar.T, split.relevant.T, strict=True):
        found = right[np.argsort(-score)]
        if right.any():
            precisions.append((found.cumsum() / np.arange(1, len(found) + 1))[found].mean())
    assert scores["zeroshot_map"][0] == pytest.approx(np.mean(precisions), abs=1e-6)


def test_interval__of_20_images_is_wilsons(coco):
    """Fewer than 20 images' worth of misses: Wilson's interval of a share of 20 images, by its formula."""
    experiment, _, scores = coco
    queries = np.load(experiment.run / "scores.npz")["2/student/queries/t2i_r@10"]
    share, z = queries.mean(), 1.959964
    value, low, high = scores["t2i_r@10"]
    assert share == pytest.approx(value, abs=1e-6)
    spread = z * np.sqrt(share * (1 - share) / 20 + z**2 / 1600)
    expected = [(share + z**2 / 40 + sign * spread) / (1 + z**2 / 20) for sign in (-1, 1)]
    assert [low, high] == pytest.approx(expected, abs=5e-3)


def test_splits__the_ids_on_disk_have_the_digest_of_the_result(made):
    for name, split in made[0]["coco"].result["data"].items():
        path = made[1] / "splits" / f"coco-{name}-{split['ids_sha256'][:12]}.txt"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == split["ids_sha256"]
        assert len(path.read_text(encoding="utf-8").splitlines()) == split["images"]
