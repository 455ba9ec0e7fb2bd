"""Batches: with views, with extra images, with ids, behind the step; the same whatever the number of threads."""

import threading

import numpy as np
import pytest
import torch

from kdlib import sources
from kdlib.features.ahead import ahead
from kdlib.features.loader import HELD_BYTES, NO_LABEL, Reader, TrainLoader, joined, means, with_shuffled_words
from kdlib.features.stacked import Rows, Stacked

OWN = "feature_regression+anchor_kl"


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opened(small_run):
    """``opened('clip', method=..., ...)``: the splits of a small experiment, and its configuration."""

    def make(teacher: str, **fields):
        config = small_run(teacher, **fields)
        return sources.open_splits(config, sources.load_data(config)), config

    return make


def loader_of(splits, config, **options) -> TrainLoader:
    split = sources.training_split(config, splits, set(config.objective.split("+")))
    given = {"views": sources.views_of(config)} | options
    return TrainLoader(split, sources.reads(config.method), config.batch_size, config.seed, **given)


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        for one, two in zip(first, second, strict=True)
    )


# ---------------------------------------------------------------- behind the step


@pytest.mark.parametrize("threads", [1, 3])
def test_ahead__is_in_order_and_makes_each_batch_once(threads):
    torch.set_num_threads(threads)
    made = []

    def make(step):
        made.append(step)
        return {"x": torch.tensor([step])}

    assert [batch["x"].item() for batch in ahead(make, 20, torch.device("cpu"))] == list(range(20))
    assert sorted(made) == list(range(20))
    assert list(ahead(make, 0, torch.device("cpu"))) == []


def test_ahead__the_next_batch_is_made_while_the_step_computes():
    torch.set_num_threads(1)
    started = [threading.Event() for _ in range(5)]
    batches = ahead(lambda step: started[step].set() or {"x": torch.zeros(1)}, 5, torch.device("cpu"))
    next(batches)
    assert started[2].wait(60)  # two more, and nobody has asked for them
    batches.close()


def test_ahead__an_error_arrives_where_its_batch_is_asked_for():
    def make(step):
        if step == 2:
            raise OSError("a disk was lost")
        return {"x": torch.zeros(1)}

    batches = ahead(make, 5, torch.device("cpu"))
    next(batches), next(batches)
    with pytest.raises(OSError, match="a disk was lost"):
        next(batches)


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("views", [0, 3])
def test_views__batches_are_the_same_whatever_the_number_of_threads(opened, views):
    splits, config = opened("dino", method="resnet", objective=OWN, views=views, crop=0.6, flip=True, colour=0.2)
    made = {}
    for threads in (1, 4):
        torch.set_num_threads(threads)
        made[threads] = list(loader_of(splits, config, anchors=8).epoch(2))
    assert same(made[1], made[4])


def test_views__an_epoch_sees_its_view_with_its_own_target(opened):
    splits, config = opened("dino", method="resnet", objective=OWN, views=2, crop=0.6, flip=True)
    loader = loader_of(splits, config)
    stored = torch.from_numpy(np.array(splits["fit"].views["view_pooled"])).float()
    pixels = {}
    for epoch in (1, 2, 3):
        for batch in loader.epoch(epoch):
            assert torch.equal(batch["image"], stored[batch["row"], (epoch - 1) % 2])
            pixels |= {(epoch, int(row)): seen for row, seen in zip(batch["row"], batch["pixels"], strict=True)}
    rows = [row for epoch, row in pixels if epoch == 1 and (2, row) in pixels and (3, row) in pixels]
    assert rows and all(torch.equal(pixels[1, row], pixels[3, row]) for row in rows)
    assert not any(torch.equal(pixels[1, row], pixels[2, row]) for row in rows)


def test_views__without_stored_ones_every_epoch_crops_anew_for_the_whole_images_target(opened):
    splits, config = opened("dino", method="resnet", objective=OWN, crop=0.6)
    assert splits["fit"].views is None
    whole = torch.from_numpy(np.array(splits["fit"].store["image_pooled"])).float()
    seen = []
    for epoch in (1, 2, 3):
        batch = next(iter(loader_of(splits, config).epoch(epoch)))
        assert torch.equal(batch["image"], whole[batch["row"]])
        seen.append(batch["pixels"].sum().item())
    assert len(set(seen)) == 3


def test_views__scores_are_of_whole_images(opened):
    splits, _ = opened("dino", method="resnet", objective=OWN, views=2, crop=0.6)
    assert splits["test"].views is None and splits["dev"].source is None
    rows = np.arange(4)
    seen = Reader(splits["fit"], "pixels").images(rows)
    assert torch.equal((seen["pixels"] * 255).round().byte(), torch.from_numpy(splits["fit"].pixels["pixels"][rows]))
    assert torch.equal(seen["image"], torch.from_numpy(splits["fit"].store["image_pooled"][rows]).float())


def test_views__are_for_students_that_read_pixels_and_not_for_attention_maps(opened):
    splits, config = opened("dino", method="projection", views=2, crop=0.6)
    assert sources.views_of(config) is None and splits["fit"].views is None
    splits, config = opened("dino", method="vit", crop=0.6, objective="attention_transfer")
    with pytest.raises(ValueError, match="map of the whole image"):
        loader_of(splits, config)


# ---------------------------------------------------------------- extra images


def test_rows__reads_like_the_arrays_below_each_other():
    parts = [np.arange(12.0).reshape(4, 3), np.empty((0, 3)), 100 + np.arange(6.0).reshape(2, 3)]
    rows, whole = Rows(parts), np.concatenate(parts)
    for key in (np.array([5, 0, 4, 0]), np.array([[0, 5], [4, 3]]), slice(2, 6), (np.array([4, 1]), 2)):
        assert np.array_equal(rows[key], whole[key])
    assert np.array_equal(np.asarray(rows), whole) and rows.shape == (6, 3) and rows.nbytes == whole.nbytes


def test_extra__its_images_follow_fits_with_their_labels_and_are_in_no_score(opened):
    splits, config = opened("dino", method="resnet", objective=OWN, extra_images="drawn:40")
    fit, extra = splits["fit"], splits["extra"]
    both = joined(fit, extra)
    assert len(both) == len(fit) + 40 and both.labels.tolist() == [*fit.labels, *extra.labels]
    stored = np.concatenate([fit.store["image_pooled"], extra.store["image_pooled"]])
    pixels = np.concatenate([fit.pixels["pixels"], extra.pixels["pixels"]])
    seen = set()
    for batch in loader_of(splits, config).epoch(1):
        rows = batch["row"].numpy()
        assert np.array_equal(batch["image"].numpy(), stored[rows].astype(np.float32))
        assert np.array_equal((batch["pixels"] * 255).round().numpy(), pixels[rows])
        seen |= set(rows.tolist())
    assert max(seen) >= len(fit)
    from kdlib.evaluate.exam import Exam

    assert "extra" not in Exam(splits, "test", 2.0).needed


def test_extra__captions_of_both_are_drawn_each_of_its_own_image(opened):
    splits, config = opened("clip", method="mobilenet", text_side="bag", objective=OWN, extra_images="drawn:40")
    both = joined(splits["fit"], splits["extra"])
    loader = loader_of(splits, config, text_reads="ids", anchors=4)
    texts = np.concatenate([splits[name].store["text_pooled"] for name in ("fit", "extra")]).astype(np.float32)
    owners: dict[bytes, set] = {}  # images can have the same caption
    for text, image in zip(texts, both.owner.tolist(), strict=True):
        owners.setdefault(text.tobytes(), set()).add(image)
    for batch in loader.epoch(1):
        pairs = zip(batch["text"].numpy(), batch["row"].tolist(), strict=True)
        assert all(row in owners[text.tobytes()] for text, row in pairs)
        assert batch["text_ids"].shape == batch["text_mask"].shape
        assert batch["text_ids"].max() < both.vocabulary.size
        assert (batch["text_ids"] != 1).all()  # the vocabulary is of these texts


def test_extra__without_captions_only_losses_that_need_no_pairs(opened, tmp_path):
    from PIL import Image

    folder = tmp_path / "gathered"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    given = {"method": "mobilenet", "text_side": "bag", "extra_images": str(folder)}
    splits, config = opened("clip", objective="combined", **given)
    with pytest.raises(ValueError, match="have no captions, which combined pairs with images"):
        loader_of(splits, config)
    loader = loader_of(splits, config.model_copy(update={"objective": OWN}), text_reads="ids")
    batches = list(loader.epoch(1))
    assert max(batch["row"].max().item() for batch in batches) >= len(splits["fit"])
    assert all(len(batch["text"]) == len(batch["image"]) for batch in batches)
    splits, config = opened("dino", method="resnet", objective="labels", extra_images=str(folder))
    with pytest.raises(ValueError, match="have no labels"):
        loader_of(splits, config)
    assert (joined(splits["fit"], splits["extra"]).labels == NO_LABEL).sum() == 24


# ---------------------------------------------------------------- ids, anchors, means


def test_vocabulary__is_of_the_training_texts_and_serves_every_split(opened):
    splits, _ = opened("clip", method="mobilenet", text_side="bag")
    fit = set(np.asarray(splits["fit"].store["text_ids"]).tolist())
    assert set(splits["test"].vocabulary.tokens.tolist()) == fit
    reader = Reader(splits["test"], "pixels", "ids")
    batch = reader.texts(np.arange(12))
    store = splits["test"].store
    raw = np.split(np.asarray(store["text_ids"]), np.cumsum(store["text_length"])[:-1])
    known = splits["fit"].vocabulary.tokens.tolist()
    for row in range(12):
        ids = batch["text_ids"][row][batch["text_mask"][row]]
        expected = [2 + known.index(token) if token in known else 1 for token in raw[row].tolist()]
        assert ids.tolist() == expected and not batch["text_ids"][row][~batch["text_mask"][row]].any()
    assert reader.texts(np.arange(3), "prompt")["text_ids"].shape[0] == 3


def test_with_shuffled_words__other_order_same_words_same_images(opened):
    splits, _ = opened("clip", method="mobilenet", text_side="bag")
    split, rows = splits["test"], np.arange(30)
    plain, mixed = (Reader(one, "pixels", "ids").texts(rows) for one in (split, with_shuffled_words(split)))
    assert torch.equal(plain["text_mask"], mixed["text_mask"])
    assert torch.equal(plain["text_ids"].sort(dim=1).values, mixed["text_ids"].sort(dim=1).values)
    changed = (plain["text_ids"] != mixed["text_ids"]).any(dim=1)
    assert changed.float().mean() > 0.9
    assert torch.equal(plain["text"], mixed["text"])


def test_anchors__are_rows_of_the_training_images_drawn_by_seed_epoch_and_step(opened):
    splits, config = opened("clip", method="projection")
    loader = loader_of(splits, config, anchors=7)
    first, again = (list(loader.epoch(3)) for _ in range(2))
    assert same(first, again)
    stored = {row.tobytes() for row in np.asarray(splits["fit"].store["image_pooled"]).astype(np.float32)}
    texts = {row.tobytes() for row in np.asarray(splits["fit"].store["text_pooled"]).astype(np.float32)}
    for batch in first:
        assert batch["image_anchors"].shape == (7, 128) and batch["image_anchors"].dtype == torch.float32
        assert {row.tobytes() for row in batch["image_anchors"].numpy()} <= stored
        assert {row.tobytes() for row in batch["text_anchors"].numpy()} <= texts
    other = next(iter(loader.epoch(4)))
    assert not torch.equal(first[0]["image_anchors"], other["image_anchors"])
    assert not torch.equal(first[0]["image_anchors"], first[1]["image_anchors"])


def test_means__of_the_manifest_are_those_of_the_arrays(opened):
    splits, _ = opened("clip", method="projection")
    store = splits["fit"].store
    found = means(store)
    for side in ("image", "text"):
        values = np.asarray(store[f"{side}_pooled"]).astype(np.float64).mean(axis=0)
        assert np.allclose(found[side].numpy(), values, atol=1e-7)
        del store.manifest["facts"][f"{side}_mean"]
    assert all(torch.equal(found[side], value) for side, value in means(store).items())


def test_reader__what_is_held_in_memory_is_what_the_disk_has(opened, monkeypatch):
    splits, _ = opened("clip", method="projection")
    assert splits["fit"].store["image_pooled"].nbytes < HELD_BYTES
    held = Reader(splits["fit"], "features", device=torch.device("cpu"))
    mapped = Reader(splits["fit"], "features")
    rows = np.array([3, 0, 3, 11])
    assert set(held.held) == {"image_pooled", "text_pooled"} and not mapped.held
    assert same([held.images(rows)], [mapped.images(rows)]) and same([held.texts(rows)], [mapped.texts(rows)])
    monkeypatch.setattr("kdlib.features.loader.HELD_BYTES", 100)
    assert not Reader(splits["fit"], "features", device=torch.device("cpu")).held


def test_stacked__facts_and_prompts_are_the_first_stores(opened):
    splits, _ = opened("clip", method="projection", extra_images="drawn:40")
    both = Stacked(splits["fit"].store, splits["extra"].store)
    assert both.manifest is splits["fit"].store.manifest
    assert len(both["prompt_pooled"]) == len(splits["fit"].store["prompt_pooled"])
    assert both.ids == splits["fit"].store.ids + splits["extra"].store.ids
