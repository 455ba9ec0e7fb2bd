"""Features are built once, in order, continued after any kill, built again when damaged, and read without a write."""

import errno
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib import data, features, teachers
from kdlib.config import RunConfig
from kdlib.data.base import BadImageError, Dataset
from kdlib.features import CHUNK, FeatureError, features_key, fitted, reduced, teacher_features

IMAGES = 150  # three chunks
FORK = multiprocessing.get_context("fork")


class Eye:
    """A teacher whose pooled feature is the mean colour, and of a text its length; counts its chunks."""

    source, revision, untrained, audited, logit_scale, grid = "eye", "", [], {}, 10.0, (2, 2)
    preprocess, has_text = None, True

    def __init__(self, scale: float = 1.0, before=lambda chunk: None):
        self.scale, self.before, self.chunks = scale, before, []

    def prepare(self, images):
        return torch.stack([torch.from_numpy(np.array(image, dtype=np.float32)) for image in images])

    def encode_image(self, pixels):
        self.before(len(self.chunks))
        self.chunks.append(len(pixels))
        pooled = pixels.mean(dim=(1, 2)) * self.scale
        tokens = pooled[:, None].repeat(1, 4, 1)
        return {"pooled": pooled, "tokens": tokens, "attention": torch.full(tokens.shape[:2], 0.25)}

    def tokenise(self, texts):
        mask = torch.tensor([[place < len(text) for place in range(4)] for text in texts]).long()
        return {"input_ids": mask * 7, "attention_mask": mask}

    def encode_text(self, ids, mask):
        pooled = mask.sum(dim=1, keepdim=True).float()
        return {"pooled": pooled, "tokens": pooled[:, None].repeat(1, 4, 1), "attention": mask.float()}


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Image k is filled with k and has one to three captions, of one to three letters."""
    for number in range(IMAGES):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(tmp_path / f"{number:03d}.png")
    names = tuple(f"{number:03d}.png" for number in range(IMAGES))
    captions = tuple(tuple("abc"[: 1 + text] for text in range(1 + number % 3)) for number in range(IMAGES))
    return Dataset("noise", "fit", names, tuple(str(tmp_path / name) for name in names), captions=captions)


@pytest.fixture
def eye(monkeypatch):
    """``eye(...)`` makes the teacher that is loaded from now on; marks are written after each chunk."""
    monkeypatch.setattr(features, "MARK", -1.0)
    monkeypatch.setattr(teachers, "describe", lambda config: {"family": config.teacher})

    def make(*args, **options) -> Eye:
        made = Eye(*args, **options)
        monkeypatch.setattr(teachers, "load", lambda config: made)
        return made

    make()
    return make


def config(**fields) -> RunConfig:
    return RunConfig(teacher="dino", dataset="folder", **fields)


def contents(built: features.Features) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(built.path.glob("*.npy"))}


def test_build__rows_are_in_the_order_of_the_data_as_plain_npy_files(dataset, eye):
    teacher = eye()
    built = teacher_features(config(), dataset, tokens=True)
    assert teacher.chunks == [CHUNK, CHUNK, IMAGES - 2 * CHUNK]
    assert built["image_pooled"][:, 0].tolist() == list(range(IMAGES))
    assert built["caption_count"].tolist() == [1 + number % 3 for number in range(IMAGES)]
    assert built["text_length"].tolist() == [1 + text for number in range(IMAGES) for text in range(1 + number % 3)]
    assert len(built["text_tokens"]) == built["text_length"].sum() and built["image_tokens"].dtype == np.float16
    assert built.ids == list(dataset.ids) and built.skipped == [] and len(built) == IMAGES
    assert isinstance(built["image_pooled"], np.memmap)
    assert np.load(built.path / "image_pooled.npy").shape == (IMAGES, 3)
    assert built.facts["grid"] == [2, 2] and built.facts["text"] is True and built.seconds > 0
    found = features.means(built)
    assert found["image"].tolist() == [(IMAGES - 1) / 2] * 3 and found["image"].dtype == torch.float32
    assert found["text"].item() == pytest.approx(np.mean([1] * 50 + [1, 2] * 50 + [1, 2, 3] * 50))


def test_token_grid__stores_fewer_tokens_and_not_more_than_there_are(dataset, eye):
    built = teacher_features(config(token_grid=1), dataset, tokens=True)
    assert built["image_tokens"].shape == (IMAGES, 1, 3) and built.facts["grid"] == [1, 1]
    with pytest.raises(FeatureError, match=r"token_grid is 3, but the teacher has \(2, 2\)"):
        teacher_features(config(token_grid=3), dataset, tokens=True)


def test_tokens__are_kept_where_they_are_asked_for_and_then_serve_others(dataset, eye):
    without = teacher_features(config(), dataset, tokens=False)
    assert not {"image_tokens", "text_tokens"} & set(without.arrays)
    whole = teacher_features(config(), dataset, tokens=True)
    assert all(np.array_equal(whole[name], array) for name, array in without.arrays.items())
    eye(before=lambda chunk: pytest.fail("the teacher ran again"))
    assert teacher_features(config(), dataset, tokens=False).path == whole.path
    assert features_key(config(), dataset) == without.path.name  # whatever was stored


def test_head__is_what_the_first_images_alone_give(dataset, eye):
    head = teacher_features(config(), dataset, tokens=True).head(100)
    alone = teacher_features(config(), dataset.take(range(100)), tokens=True)
    assert head.arrays.keys() == alone.arrays.keys() and head.ids == alone.ids
    assert all(np.array_equal(head[name], array) for name, array in alone.arrays.items())


def test_pixels__are_the_shorter_side_and_the_centre_even_of_a_large_jpeg(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((800, 600), Image.BICUBIC)
    smooth.save(tmp_path / "large.jpg", quality=95)
    photo = Dataset("photo", "fit", ("large.jpg",), (str(tmp_path / "large.jpg"),))
    assert photo.images.at_least(0, 128).size == (200, 150)
    quick = features.pixels(config(), photo, 64)["pixels"][0].astype(int)
    slow = fitted(photo.images[0], 64).astype(int)
    assert quick.shape == (3, 64, 64)
    assert np.abs(quick - slow).mean() < 2 and np.abs(quick - slow).max() < 16


def test_reduced__tokens_are_means_of_their_places_and_attention_sums_to_one():
    tokens = torch.arange(16.0).view(1, 16, 1).repeat(2, 1, 3)
    attention = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    result = reduced(tokens, attention, (4, 4), 2)
    assert result["tokens"][0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]  # means of 0 1 4 5, of 2 3 6 7, ...
    assert torch.allclose(result["attention"].sum(dim=1), torch.ones(2))
    assert torch.allclose(result["attention"][0, 0], attention[0, [0, 1, 4, 5]].sum())


@pytest.mark.parametrize("teacher", ["clip", "blip"])
def test_texts__ids_are_the_tokenizers_and_tokens_of_one_word_share_its_number(teacher, small_run):
    run = small_run(teacher)
    rows = data.load("coco", run.data_root, "test").take(range(3))
    built, tokenizer = teacher_features(run, rows, tokens=False), teachers.load(run).tokenizer
    alone = [tokenizer(text)["input_ids"] for own in rows.captions for text in own]
    assert built["text_ids"].tolist() == [number for ids in alone for number in ids]
    assert built["text_length"].tolist() == [len(ids) for ids in alone]
    first, *words, last = built["text_words"][: len(alone[0])].tolist()
    assert first == last == -1 and words == sorted(words) and {*words} == {*range(max(words) + 1)}
    assert len(built["prompt_pooled"]) == len(rows.category_names)


@pytest.mark.parametrize("written", [0, 2])
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_build__continues_after_a_kill_at_any_chunk_bit_for_bit(dataset, eye, monkeypatch, chunk, written):
    def killed(folder, marked, arrays, append=features._append):
        if marked.get("image_pooled", (0, 0))[1] == chunk * CHUNK:  # with so many of its arrays written
            append(folder, marked, dict(list(arrays.items())[:written]))
            os.kill(os.getpid(), signal.SIGKILL)
        append(folder, marked, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(features, "_append", killed)
        process = FORK.Process(target=teacher_features, args=(config(), dataset, True))
        process.start()
        process.join()
    manifest = features.runs_root() / "features" / features_key(config(), dataset, tokens=True) / "manifest.json"
    assert process.exitcode == -signal.SIGKILL and not manifest.exists()
    teacher = eye()
    resumed = teacher_features(config(), dataset, tokens=True)
    assert sum(teacher.chunks) == IMAGES - chunk * CHUNK
    whole = teacher_features(config(on_bad_image="skip"), dataset, tokens=True)  # of another key
    assert resumed.path != whole.path and contents(resumed) == contents(whole)


@pytest.mark.parametrize("file", ["image_pooled.npy", "progress.json"])
def test_build__what_is_less_than_the_mark_says_is_begun_anew(dataset, eye, file):
    eye(before=lambda number: number == 2 and pytest.fail("stop"))
    with pytest.raises(pytest.fail.Exception):
        teacher_features(config(), dataset, tokens=True)
    os.truncate(features.runs_root() / "features" / features_key(config(), dataset, tokens=True) / file, 150)
    teacher = eye()
    built = teacher_features(config(), dataset, tokens=True)
    assert sum(teacher.chunks) == IMAGES and built["image_pooled"][:, 0].tolist() == list(range(IMAGES))


DAMAGE = {
    "truncated": lambda array, manifest: os.truncate(array, array.stat().st_size - 2),
    "removed": lambda array, manifest: array.unlink(),
    "empty": lambda array, manifest: os.truncate(array, 0),
    "other shape": lambda array, manifest: np.save(array, np.zeros((3, IMAGES), dtype=np.float16)),
    "half a manifest": lambda array, manifest: os.truncate(manifest, 50),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_open__damaged_features_are_built_again_with_a_message(dataset, eye, kind):
    built = teacher_features(config(), dataset, tokens=False)
    before = contents(built)
    DAMAGE[kind](built.path / "image_pooled.npy", built.path / "manifest.json")
    with pytest.warns(UserWarning, match="is damaged .* and is built again"):
        assert contents(teacher_features(config(), dataset, tokens=False)) == before


def test_build__processes_that_need_it_at_once_build_it_once(dataset, eye, tmp_path):
    eye(before=lambda chunk: (tmp_path / f"{os.getpid()}-{chunk}.made").touch())
    with FORK.Pool(3) as pool:
        pool.starmap(teacher_features, [(config(), dataset, False)] * 3)
    assert len(list(tmp_path.glob("*.made"))) == 3


def test_build__a_full_disk_is_one_sentence_and_the_next_run_continues(dataset, eye, monkeypatch):
    def full(folder, marked, arrays, append=features._append):
        if marked.get("image_pooled", (0, 0))[1] == 2 * CHUNK:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(folder, marked, arrays)

    with monkeypatch.context() as patch, pytest.raises(FeatureError, match=r"No space .* KDLIB_RUNS .* continues"):
        patch.setattr(features, "_append", full)
        teacher_features(config(), dataset, tokens=False)
    teacher = eye()
    teacher_features(config(), dataset, tokens=False)
    assert teacher.chunks == [IMAGES - 2 * CHUNK]


def test_key__changes_with_all_that_the_numbers_depend_on(dataset, eye):
    fields = [{}, {"feature_dtype": "float32"}, {"token_grid": 1}, {"on_bad_image": "skip"}]
    keys = [features_key(config(**field), dataset) for field in fields]
    keys += [features_key(config(), dataset, tokens=True), features_key(config(), dataset.take(range(9)))]
    keys += [features_key(RunConfig(teacher="beit", dataset="folder"), dataset)]
    assert len(set(keys)) == len(keys) and all(len(key) == 24 for key in keys)
    same = [{"seed": 5}, {"method": "attention"}, {"device": "cpu"}, {"epochs": [9]}]
    assert {features_key(config(**field), dataset) for field in same} == {keys[0]}
    assert not (features.runs_root() / "features").exists()  # nothing was built for it


@pytest.mark.parametrize("scale", [1e4, float("nan"), float("inf")])
def test_values__that_float16_cannot_hold_are_an_error_at_the_first_chunk(dataset, eye, scale):
    teacher = eye(scale)
    with pytest.raises(FeatureError, match=r"image_pooled is up to .*, which float16 cannot hold. Set feature_dtype"):
        teacher_features(config(), dataset, tokens=False)
    assert len(teacher.chunks) == 1
    if scale == 1e4:
        assert teacher_features(config(feature_dtype="float32"), dataset, tokens=False)["image_pooled"].max() == 1.49e6
    else:
        with pytest.raises(FeatureError, match="float32 cannot hold"):
            teacher_features(config(feature_dtype="float32"), dataset, tokens=False)


def test_bad_images__are_all_named_at_once_and_skipped_when_asked(dataset, eye):
    for row in (3, 70, 149):
        os.truncate(dataset.paths[row], 40)
    with pytest.raises(BadImageError, match="3 images of noise/fit cannot be read") as caught:
        teacher_features(config(), dataset, tokens=False)
    assert all(f"{row:03d}.png" in str(caught.value) for row in (3, 70, 149)) and "on_bad_image" in str(caught.value)
    built = teacher_features(config(on_bad_image="skip"), dataset, tokens=False)
    kept = [row for row in range(IMAGES) if row not in (3, 70, 149)]
    assert built["image_pooled"][:, 0].tolist() == built.rows.tolist() == kept
    assert len(built.skipped) == 3 and built.ids == [f"{row:03d}.png" for row in kept]
    assert built["caption_count"].tolist() == [1 + row % 3 for row in kept]
    assert features.pixels(config(on_bad_image="skip"), dataset, 4).ids == built.ids
    head = built.head(71)
    assert len(head) == 69 and len(head.skipped) == 2 and "070.png" in head.skipped[1]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_second_user__modes_follow_the_umask_and_reading_writes_nothing(dataset, eye, monkeypatch, mask, mode):
    before = os.umask(mask)
    try:
        built = teacher_features(config(), dataset, tokens=False)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in built.path.iterdir()} == {mode}

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(features, "locked", refused)
    times = {file: file.stat().st_mtime_ns for file in [built.path, *built.path.iterdir()]}
    assert len(teacher_features(config(), dataset, tokens=False)) == IMAGES
    assert times == {file: file.stat().st_mtime_ns for file in [built.path, *built.path.iterdir()]}
    with pytest.raises(FeatureError, match=r"cannot be built: .*Permission denied.*KDLIB_RUNS"):
        teacher_features(config(), dataset, tokens=True)
