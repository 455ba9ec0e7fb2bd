"""Batches: functions of the seed and the epoch, whatever the threads; crops, captions, anchors, ids, extra images."""

import hashlib
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib import data, loader
from kdlib.features import ahead
from kdlib.loader import Reader, TrainLoader, Vocabulary, check, open_splits, with_shuffled_words
from kdlib.students import class_of
from kdlib.utils import generator

OWN = "feature_regression+anchor_kl"


@pytest.fixture
def opened(small_run, shared_features):
    """``opened('clip', method=..., ...)``: the splits of a small run, its configuration, what its student reads."""

    def make(teacher: str, **fields):
        config = small_run(teacher, **fields)
        reads = class_of(config.method).reads
        return open_splits(config, data.open_data(config), reads), config, reads

    return make


def same(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one) for one, two in pairs)


def floats(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).float()


@pytest.mark.parametrize("threads", [1, 3])
def test_ahead__is_in_order_and_makes_each_item_once_of_which_a_few_before_they_are_asked_for(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    calls, made = [], [threading.Event() for _ in range(20)]
    items = ahead(lambda item: calls.append(item) or made[item].set() or item**2, range(20))
    assert next(items) == 0 and made[threads + 1].wait(60) and not made[threads + 2].is_set()
    assert [*items] == [item**2 for item in range(1, 20)] and sorted(calls) == [*range(20)]


def test_epoch__has_each_image_at_most_once_in_an_order_of_seed_and_epoch(opened):
    splits, config, reads = opened("dino", method="projection", crop=0.6)  # which it has no pixels for
    check(splits["fit"], {"attention_transfer"}, config, reads)
    batches = TrainLoader(splits["fit"], config, reads)
    assert len(batches) == 140 // 16 and len(splits["fit"]) == 140  # the incomplete last batch is left out
    order = torch.randperm(140, generator=generator(0, "order", 3))[: 16 * 8]
    epoch = list(batches.epoch(3))
    assert torch.cat([batch["row"] for batch in epoch]).equal(order)
    assert torch.cat([batch["image"] for batch in epoch]).equal(floats(splits["fit"].features["image_pooled"])[order])
    assert torch.cat([batch["label"] for batch in epoch]).equal(torch.from_numpy(splits["fit"].labels)[order])
    assert same(epoch, batches.epoch(3)) and not same(epoch, batches.epoch(4))
    assert not same(epoch, TrainLoader(splits["fit"], config.model_copy(update={"seed": 1}), reads).epoch(3))
    whole = TrainLoader(splits["fit"], config.model_copy(update={"batch_size": 500}), reads)
    assert len(whole) == 1 and whole.batch_size == 140
    with pytest.raises(ValueError, match="1 training images; a loss over pairs needs at least 2"):
        TrainLoader(loader.Split(splits["fit"].features.head(1)), config, reads)


@pytest.mark.parametrize("extra_images", ["", "shapes:40"])
def test_epoch__draws_one_of_each_images_own_captions_anew_and_knows_its_words(opened, extra_images):
    fields = {"method": "mobilenet", "text_side": "transformer", "objective": OWN, "extra_images": extra_images}
    splits, config, reads = opened("clip", **fields)
    split, drawn = splits.get("train", splits["fit"]), {1: {}, 2: {}}
    texts = floats(split.features["text_pooled"])
    for epoch, seen in drawn.items():
        for batch in TrainLoader(split, config, reads, "ids", anchors=4).epoch(epoch):
            own = [texts[split.captions[row] : split.captions[row + 1]] for row in batch["row"]]
            assert all((text == mine).all(dim=1).any() for text, mine in zip(batch["text"], own, strict=True))
            assert batch["text_ids"].max() < split.vocabulary.size and (batch["text_ids"] != 1).all()
            seen |= zip(batch["row"].tolist(), batch["text"].tolist(), strict=True)
    assert any(drawn[1][row] != drawn[2][row] for row in drawn[1].keys() & drawn[2].keys())


def test_reader__tokens_are_padded_to_the_longest_and_masked(opened):
    splits, _, reads = opened("clip", method="attention")
    features, rows = splits["test"].features, np.array([5, 0, 7])
    batch = Reader(splits["test"], reads).texts(rows)
    ends = np.cumsum(features["text_length"])
    for place, row in enumerate(rows):
        own = floats(features["text_tokens"][ends[row] - features["text_length"][row] : ends[row]])
        mask = batch["text_mask"][place]
        assert mask.sum() == len(own) and batch["text_tokens"][place][mask].equal(own)
        assert not batch["text_tokens"][place][~mask].any() and not batch["text_attention"][place][~mask].any()
    seen = Reader(splits["test"], reads).images(rows)
    assert seen["image_tokens"].equal(floats(features["image_tokens"])[rows]) and "image_attention" in seen
    for attention in (False, True):
        assert ("image_attention" in Reader(splits["test"], "features", "", attention).images(rows)) == attention


def test_anchors__are_features_of_training_images_drawn_by_seed_epoch_and_step(opened):
    splits, config, reads = opened("clip", method="projection")
    first = list(TrainLoader(splits["fit"], config, reads, anchors=7).epoch(3))
    draw = generator(0, "anchors", 3, 1)
    for side in ("image", "text"):
        stored = floats(splits["fit"].features[f"{side}_pooled"])
        assert first[1][f"{side}_anchors"].equal(stored[torch.randint(len(stored), (7,), generator=draw)])
    assert not first[0]["image_anchors"].equal(first[1]["image_anchors"])


def test_crops__are_what_the_digest_of_seed_epoch_and_id_says_with_the_whole_images_target(opened):
    splits, config, reads = opened("dino", method="resnet", objective=OWN, crop=0.25, flip=True)
    split = splits["fit"]
    assert split.source["pixels"].shape[-1] == 64 and splits["test"].source is None  # 32 / sqrt(0.25)
    batch = next(iter(TrainLoader(split, config, reads).epoch(3)))
    assert batch["image"].equal(floats(split.features["image_pooled"])[batch["row"]])
    mirrored = 0
    for row, seen in zip(batch["row"].tolist(), batch["pixels"], strict=True):
        digest = hashlib.sha256(f"0/3/{split.features.ids[row]}".encode()).digest()
        area, x, y, mirror = (int.from_bytes(digest[at : at + 4], "little") / 2**32 for at in (0, 4, 8, 12))
        side = (0.25 + 0.75 * area) ** 0.5
        left, top = 64 * x * (1 - side), 64 * y * (1 - side)
        image = Image.fromarray(split.source["pixels"][row].transpose(1, 2, 0).copy())
        image = image.resize((32, 32), Image.Resampling.BICUBIC, (left, top, left + 64 * side, top + 64 * side))
        expected = np.asarray(image)[:, ::-1] if mirror < 0.5 else np.asarray(image)
        mirrored += mirror < 0.5
        assert np.abs((seen * 255).round().numpy().transpose(1, 2, 0) - expected).max() <= 1
    assert 0 < mirrored < 16
    with pytest.raises(ValueError, match=r"map of whole images. Set crop to 1 and flip to false"):
        check(split, {"attention_transfer"}, config, reads)


def test_crops__are_of_seed_and_epoch_whatever_the_threads_and_not_in_scores(opened, monkeypatch):
    splits, config, reads = opened("dino", method="resnet", objective=OWN, crop=0.6, batch_size=35)

    def seen(seed: int, epoch: int, threads: int = 1) -> torch.Tensor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        batches = TrainLoader(splits["fit"], config.model_copy(update={"seed": seed}), reads).epoch(epoch)
        rows, pixels = (torch.cat(parts) for parts in zip(*((b["row"], b["pixels"]) for b in batches), strict=True))
        return pixels[rows.argsort()]

    assert seen(0, 1).equal(seen(0, 1, threads=4))
    assert not seen(0, 1).equal(seen(0, 2)) and not seen(0, 1).equal(seen(1, 1))
    whole = Reader(splits["fit"], reads).images(np.arange(4))["pixels"]
    assert (whole * 255).round().equal(floats(splits["fit"].pixels["pixels"][:4]))


def test_extra__its_images_follow_fits_with_their_labels_and_fit_is_the_head(opened):
    splits, config, reads = opened("dino", method="resnet", objective=OWN, extra_images="shapes:40")
    alone, *_ = opened("dino", method="resnet", objective=OWN)
    fit, train = splits["fit"], splits["train"]
    assert len(train) == len(fit) + 40 and train.labels[:140].tolist() == fit.labels.tolist()
    assert fit.features.ids == alone["fit"].features.ids and fit.pixels.path == train.pixels.path
    assert np.allclose(fit.features["image_pooled"], alone["fit"].features["image_pooled"], atol=1e-2)
    assert np.array_equal(fit.pixels["pixels"], alone["fit"].pixels["pixels"])
    rows = torch.cat([batch["row"] for batch in TrainLoader(train, config, reads).epoch(1)])
    assert rows.max() >= len(fit) and set(splits) == {"fit", "dev", "test", "train"}


def test_extra__without_captions_or_labels_only_losses_that_need_none(opened, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gathered")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (24, 40, 50, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    splits, config, reads = opened("clip", method="mobilenet", text_side="transformer", extra_images=str(folder))
    train = splits["train"]
    for losses in ({"combined"}, {"contrastive", "kl"}, {"teacher_contrastive"}):
        with pytest.raises(ValueError, match=r"have no captions; .* takes pairs"):
            check(train, losses, config, reads)
    check(train, set(OWN.split("+")), config, reads)
    check(splits["fit"], {"combined"}, config, reads)
    batches = list(TrainLoader(train, config, reads, "ids").epoch(1))
    assert max(batch["row"].max() for batch in batches) >= len(splits["fit"])
    assert all(len(batch["text"]) == len(batch["image"]) for batch in batches)
    splits, config, reads = opened("dino", method="resnet", objective="labels", extra_images=str(folder))
    with pytest.raises(ValueError, match="have no labels"):
        check(splits["train"], {"labels"}, config, reads)
    assert (splits["train"].labels == -1).sum() == 24


def test_vocabulary__is_by_frequency_then_by_id_and_what_is_not_in_it_is_unknown():
    vocabulary = Vocabulary.of(np.array([7, 3, 9, 3, 7, 5, 3, 5]))
    assert vocabulary.tokens.tolist() == [3, 5, 7, 9] and vocabulary.size == 6
    ids = vocabulary.ids(np.array([[3, 5], [9, 7], [4, 400]]))
    assert ids.tolist() == [[2, 3], [5, 4], [1, 1]] and ids.dtype == np.int64


def test_vocabulary__is_of_the_training_texts_and_serves_every_split(opened):
    splits, _, reads = opened("clip", method="mobilenet", text_side="transformer")
    features, known = splits["test"].features, splits["fit"].vocabulary.tokens.tolist()
    assert {*known} == {*splits["fit"].features["text_ids"].tolist()}
    assert known == splits["test"].vocabulary.tokens.tolist()
    batch = Reader(splits["test"], reads, "ids").texts(np.arange(12))
    raw = np.split(features["text_ids"], np.cumsum(features["text_length"])[:-1])
    for row in range(12):
        expected = [2 + known.index(token) if token in known else 1 for token in raw[row].tolist()]
        mask = batch["text_mask"][row]
        assert batch["text_ids"][row][mask].tolist() == expected and not batch["text_ids"][row][~mask].any()
    assert len(Reader(splits["test"], reads, "ids").texts(np.arange(3), "prompt")["text_ids"]) == 3


def test_shuffled_words__other_order_same_words_ends_in_place_pieces_together(opened):
    splits, *_ = opened("clip", method="projection")
    split, mixed = splits["test"], with_shuffled_words(splits["test"])
    again, other = with_shuffled_words(split), with_shuffled_words(split, seed=1)
    assert np.array_equal(mixed.features["text_ids"], again.features["text_ids"])
    assert not np.array_equal(mixed.features["text_ids"], other.features["text_ids"])
    ends, changed = np.cumsum(split.features["text_length"])[:-1], 0
    arrays = (split.features["text_ids"], split.features["text_words"], mixed.features["text_ids"])
    for ids, words, now in zip(*(np.split(array, ends) for array in arrays), strict=True):
        assert sorted(ids) == sorted(now) and ids[words < 0].tolist() == now[words < 0].tolist()
        for word in np.unique(words[words >= 0]):
            piece = ids[words == word].tolist()
            assert any(now[at : at + len(piece)].tolist() == piece for at in range(len(now)))
        changed += ids.tolist() != now.tolist()
    assert changed > 0.9 * len(split.owner)
