"""The probe, on a machine that need not be fast: every number that the plan adds up is there and is a time."""

import math

import numpy as np
import pytest
from PIL import Image

from kdlib import sources
from kdlib.data.splits import take
from kdlib.study import probe

TEACHER = {"load", "image", "call", "score", "controls", "methods"}
METHOD = {"epoch", "once", "checkpoint", "image", "alone", "call", "pixel", "bytes"}


@pytest.fixture
def split_of(small_run):
    def make(teacher: str):
        config = small_run(teacher)
        return sources.open_splits(config, sources.load_data(config))["test"]

    return make


def test_probe__a_teacher_and_its_methods_give_what_the_plan_adds_up(small_run, tmp_path):
    """A method that cannot be built says why; the others are measured."""
    methods = {name: small_run("clip", method=name) for name in ("projection", "resnet")}
    methods["attention"] = small_run("clip", method="attention", heads=7)
    found = probe.probe(methods, {"fit": (36, 180), "test": (20, 100)}, tmp_path)
    assert set(found) == TEACHER
    assert all(math.isfinite(found[name]) and found[name] > 0 for name in TEACHER - {"methods"})
    assert "7 heads do not divide" in found["methods"]["attention"]["problem"]
    for name in ("projection", "resnet"):
        method = found["methods"][name]
        assert set(method) == METHOD
        assert all(math.isfinite(method[kind]) for kind in METHOD)
        assert all(method[kind] > 0 for kind in METHOD - {"once", "pixel"})
    assert found["methods"]["projection"]["pixel"] == 0 < found["methods"]["resnet"]["pixel"]


@pytest.mark.parametrize("teacher", ["clip", "dino"])
@pytest.mark.parametrize("kind", ["drawn", "folder"])
def test_probe__extra_images_are_trained_on_and_not_scored(small_run, tmp_path, teacher, kind, monkeypatch):
    """Those of a folder have no labels or captions."""
    given = "drawn:40"
    if kind == "folder":
        (tmp_path / "more").mkdir()
        for number in range(6):
            Image.new("RGB", (64, 64), (number * 40, 90, 30)).save(tmp_path / "more" / f"{number}.png")
        given = str(tmp_path / "more")
    config = small_run(teacher, method="resnet", objective="feature_regression+anchor_kl", extra_images=given)
    real, seen = probe.Experiment.train, {}

    def train(experiment):
        """A minute an epoch, whatever it took."""
        seen.update(images=sum(len(experiment.splits[name]) for name in ("fit", "extra")))
        return [record | {"seconds": 60.0} for record in real(experiment)]

    monkeypatch.setattr(probe.Experiment, "train", train)
    found = probe.probe({"resnet": config}, {"fit": (36, 0), "dev": (20, 0), "test": (20, 0)}, tmp_path)
    assert found["score"] > 0
    assert found["methods"]["resnet"]["epoch"] == 60 / seen["images"]


def test_reduced__no_more_extra_images_are_drawn_than_the_probe_reads(small_run):
    """What a run would refuse is left, for the probe to refuse it."""
    for given in ("", "drawn:40", "drawn:many", "drawn:200000", "/more/photos"):
        assert probe.reduced(small_run("dino", extra_images=given)).extra_images == given
    assert probe.reduced(small_run("dino", extra_images="drawn:20000")).extra_images == f"drawn:{probe.CHUNK}"


def test_few__are_spread_over_the_split_with_all_that_belongs_to_them(small_run):
    whole = sources.load_data(small_run("dino"))["fit"]
    some = probe.few(whole, 10)
    places = [whole.ids.index(name) for name in some.ids]
    assert len(some) == 10 and places[0] == 0 and places[-1] == len(whole) - 1
    assert some.labels.tolist() == [whole.labels[place] for place in places]
    assert some.fingerprint != whole.fingerprint
    assert len(probe.few(whole, 10**6)) == len(whole)


def test_probe__a_little_of_the_data_may_lack_classes(small_run, tmp_path, monkeypatch):
    """As of Tiny ImageNet: the linear probe refuses a class that fit has not."""
    monkeypatch.setattr(probe, "few", lambda data, images: take(data, range(5 if data.split == "fit" else 10)))
    found = probe.probe({"projection": small_run("dino")}, dict.fromkeys(("fit", "dev", "test"), (36, 0)), tmp_path)
    assert "problem" not in found["methods"]["projection"] and found["score"] > 0


def test_numbered__every_class_is_one_that_fit_has_and_those_of_fit_stay_apart(small_run):
    """Without it, the linear probe refuses: a little of 200 classes leaves some out."""
    whole = sources.load_data(small_run("dino"))
    few = whole | {"fit": probe.few(whole["fit"], 3), "test": probe.few(whole["test"], 10)}
    found = probe.numbered(few)
    before, after = few["fit"].labels, found["fit"].labels
    assert len(set(before)) < len(set(few["test"].labels))  # the case that it is for
    assert set(after) == set(range(len(set(before))))
    assert ((before[:, None] == before) == (after[:, None] == after)).all()
    assert set(found["test"].labels) <= set(after) and len(found["test"]) == 10


@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_many__repeats_a_split_without_making_two_images_alike(split_of, teacher):
    split = split_of(teacher)
    large = probe.many(split, 5 * len(split))
    assert len(large) == 5 * len(split) and large.has_text == split.has_text
    pooled = np.array(large.store["image_pooled"])
    assert len(np.unique(pooled, axis=0)) == len(large) and np.isfinite(pooled).all()
    if split.has_text:
        assert large.owner.max() == len(large) - 1 and len(large.owner) == len(large.store["text_pooled"])
        assert large.has_prompts and len(large.relevant) == len(large)
    else:
        assert large.labels.tolist() == split.labels.tolist() * 5
