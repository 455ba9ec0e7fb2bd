import errno
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import kdlib.features.build as build
from kdlib import features, sources
from kdlib.data.dataset import BadImageError, Dataset
from kdlib.data.tree import Tree
from kdlib.features.encoders import CHUNK, Encoder, pixel_encoder, reduced
from kdlib.features.npy import StoreError
from kdlib.features.store import FeatureStore
from kdlib.files import digest, runs_root


@pytest.fixture
def dataset(tmp_path):
    """150 images of noise with one to three captions each; image k is filled with k."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(150):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(folder / f"{number:03d}.png")
    names = tuple(f"{number:03d}.png" for number in range(150))
    captions = tuple(tuple(f"word {number}" for _ in range(1 + number % 3)) for number in range(150))
    return Dataset("noise", "fit", Tree(folder, "none"), names, names, captions=captions)


def mean_encoder(calls=None, stop_at=None):
    """An encoder whose feature of an image is its mean, and of a caption its length."""

    def encode(images, texts):
        if calls is not None:
            calls.append(len(images))
        if stop_at is not None and len(calls) == stop_at:
            raise KeyboardInterrupt
        seen = np.array([[mean] for mean in images], dtype=np.float16)
        counts = np.array([len(captions) for captions in texts], dtype=np.int32)
        return {"image_pooled": seen, "caption_count": counts}

    return lambda: Encoder(lambda image, name: np.asarray(image).mean(), encode, {"logit_scale": 1.0})


def test_build__rows_are_in_the_order_of_the_data(dataset):
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    assert store["image_pooled"][:, 0].tolist() == list(range(150))
    assert store["caption_count"].tolist() == [1 + number % 3 for number in range(150)]
    assert store.ids == list(dataset.ids)


def test_build__arrays_are_plain_npy_files_that_numpy_maps(dataset):
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    assert isinstance(store["image_pooled"], np.memmap)
    assert np.load(store.path / "image_pooled.npy", allow_pickle=False).shape == (150, 1)


def test_ensure__the_encoder_is_loaded_once_and_never_again(dataset):
    features.ensure({"a": 1}, dataset, mean_encoder())

    def refuse():
        raise AssertionError("the teacher was loaded although its features are there")

    assert len(features.ensure({"a": 1}, dataset, refuse)) == 150


def test_ensure__other_parts_are_another_store(dataset):
    one = features.ensure({"a": 1}, dataset, mean_encoder())
    two = features.ensure({"a": 2}, dataset, mean_encoder())
    assert one.path != two.path


def test_build__an_interrupted_build_goes_on_and_is_bit_identical(dataset):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        features.ensure({"a": 1}, dataset, mean_encoder(calls, stop_at=3))
    with pytest.raises(StoreError, match="no finished feature store"):
        FeatureStore.open(features.store_path(features.store_key({"a": 1})))
    again = []
    resumed = features.ensure({"a": 1}, dataset, mean_encoder(again))
    assert again == [150 - 2 * CHUNK]
    whole = features.ensure({"b": 1}, dataset, mean_encoder())
    for name in ("image_pooled", "caption_count"):
        assert (resumed.path / f"{name}.npy").read_bytes() == (whole.path / f"{name}.npy").read_bytes()


def test_build__rows_written_after_the_last_mark_are_not_kept(dataset):
    with pytest.raises(KeyboardInterrupt):
        features.ensure({"a": 1}, dataset, mean_encoder([], stop_at=2))
    scratch = features.store_path(features.store_key({"a": 1}) + ".partial")
    with open(scratch / "image_pooled.npy", "ab") as file:
        file.write(b"half a row of an interrupted chunk")
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    assert store["image_pooled"][:, 0].tolist() == list(range(150))


@pytest.mark.parametrize("damage", ["bit", "truncated", "removed"])
def test_open__refuses_an_altered_store(dataset, damage):
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    file = store.path / "image_pooled.npy"
    content = bytearray(file.read_bytes())
    if damage == "removed":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(bytes(content) if damage == "bit" else bytes(content[:-2]))
        os.utime(file, ns=(0, 0))
    with pytest.raises(StoreError, match=r"image_pooled.npy: altered or lost .* Delete the folder"):
        FeatureStore.open(store.path)


def test_open__a_full_verification_finds_what_keeps_size_and_time(dataset):
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    file = store.path / "image_pooled.npy"
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StoreError, match="altered"):
        FeatureStore.open(store.path, verify=True)


@pytest.mark.parametrize("content", ["", '{"key": {', "[]", '{"a": 1}', "\x00\xff"])
def test_ensure__a_manifest_that_is_cut_off_is_built_again(dataset, content):
    path = features.ensure({"a": 1}, dataset, mean_encoder()).path
    (path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="no finished feature store here; it is built by the run that needs it"):
        FeatureStore.open(path)
    assert features.ensure({"a": 1}, dataset, mean_encoder())["image_pooled"][:, 0].tolist() == list(range(150))


@pytest.mark.parametrize("edit", ["ids", "logit_scale", "digest", "NaN"])
def test_open__refuses_an_edited_manifest(dataset, edit):
    path = features.ensure({"a": 1}, dataset, mean_encoder()).path
    manifest = json.loads((path / "manifest.json").read_text())
    if edit == "ids":
        manifest["ids"].reverse()
    elif edit == "digest":
        del manifest["digest"]
    else:
        manifest["facts"]["logit_scale"] = float("nan") if edit == "NaN" else 2.0
    (path / "manifest.json").write_text(json.dumps(manifest))
    for opened in (lambda: FeatureStore.open(path), lambda: features.ensure({"a": 1}, dataset, mean_encoder())):
        with pytest.raises(StoreError, match=r"manifest.json: altered .* Delete the folder"):
            opened()


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"image_pooled": 3}'])
def test_open__what_was_verified_is_hashed_again_where_that_is_not_known(dataset, content):
    path = features.ensure({"a": 1}, dataset, mean_encoder()).path
    (path / "verified.json").write_text(content)
    FeatureStore.open(path)
    assert set(json.loads((path / "verified.json").read_text())) == {"image_pooled", "caption_count"}


@pytest.mark.parametrize("lost", ["array", "half", "mark", "other"])
def test_build__what_a_power_cut_left_is_gone_on_with_or_begun_anew(dataset, lost):
    with pytest.raises(KeyboardInterrupt):
        features.ensure({"a": 1}, dataset, mean_encoder([], stop_at=3))
    scratch = features.store_path(features.store_key({"a": 1}) + ".partial")
    if lost == "array":
        (scratch / "image_pooled.npy").unlink()
    elif lost == "half":
        os.truncate(scratch / "image_pooled.npy", 150)
    else:
        (scratch / "progress.json").write_text({"mark": "", "other": '{"next": "x", "arrays": {}}'}[lost])
    calls = []
    store = features.ensure({"a": 1}, dataset, mean_encoder(calls))
    assert sum(calls) == 150 and store["image_pooled"][:, 0].tolist() == list(range(150))


def test_seal__headers_manifest_and_folder_are_on_the_disk_before_the_name(dataset, monkeypatch):
    """The order of what is flushed and renamed: a name never stands for content that a power cut can take."""
    seen, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (seen.append(f"-> {new}"), replace(old, new)))
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    named = seen.index(f"-> {store.path}")
    marked = max(place for place, name in enumerate(seen) if name.endswith("progress.json"))
    scratch = f"{store.path}.partial"
    for name in ("image_pooled.npy", "caption_count.npy"):
        assert marked < seen.index(f"{scratch}/{name}", marked) < named  # once more after the last mark: its header
    assert seen[named - 1] == scratch and seen[named + 1] == str(store.path.parent)


def test_manifest__holds_the_mean_of_the_pooled_features(dataset):
    store = features.ensure({"a": 1}, dataset, mean_encoder())
    assert store.manifest["facts"]["image_mean"] == [149 / 2]


def damaged(dataset, rows):
    for row in rows:
        path = dataset.tree.folders[-1] / dataset.image_names[row]
        path.write_bytes(path.read_bytes()[:40])


def test_bad_images__are_all_listed_at_once(dataset):
    damaged(dataset, [3, 70, 149])
    with pytest.raises(BadImageError, match="3 of 150 images") as caught:
        features.ensure({"a": 1}, dataset, mean_encoder())
    assert all(f"{row:03d}.png" in str(caught.value) for row in (3, 70, 149))
    assert "on_bad_image" in str(caught.value)


def test_bad_images__are_skipped_and_counted_when_asked(dataset):
    damaged(dataset, [3, 70, 149])
    store = features.ensure({"a": 1}, dataset, mean_encoder(), on_bad_image="skip")
    kept = [row for row in range(150) if row not in (3, 70, 149)]
    assert store["image_pooled"][:, 0].tolist() == kept
    assert store.rows.tolist() == kept and len(store.skipped) == 3
    assert store.ids == [f"{row:03d}.png" for row in kept]


@pytest.mark.parametrize("kind", ["dangling link", "link to itself", "pipe"])
def test_bad_images__what_is_no_file_is_skipped_too(dataset, kind):
    path = dataset.tree.folders[-1] / dataset.image_names[70]
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "link to itself" else "gone")
    store = features.ensure({"a": 1}, dataset, mean_encoder(), on_bad_image="skip")
    assert store.rows.tolist() == [row for row in range(150) if row != 70]
    assert len(store.skipped) == 1 and "070.png: a " in store.skipped[0]


def _build_and_count(tmp_path, folder):
    os.environ["KDLIB_RUNS"] = str(tmp_path / "runs")
    names = tuple(f"{number:03d}.png" for number in range(150))
    texts = tuple(("word",) for _ in names)
    data = Dataset("noise", "fit", Tree(folder, "none"), names, names, captions=texts)
    load = mean_encoder()

    def counted():
        with open(tmp_path / "loads", "a") as file:
            file.write("x")
        return load()

    features.ensure({"together": 1}, data, counted)


def test_ensure__processes_that_need_it_at_once_build_it_once(dataset, tmp_path):
    context = multiprocessing.get_context("fork")
    folder = dataset.tree.folders[-1]
    processes = [context.Process(target=_build_and_count, args=(tmp_path, folder)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "loads").read_text() == "x"


def test_manifest__says_all_that_the_key_depends_on(dataset):
    store = features.ensure({"teacher": {"files": {"model.safetensors": "abc"}}}, dataset, mean_encoder())
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert features.store_key(manifest["key"]) == store.path.name
    assert manifest.pop("digest") == digest(manifest)


def test_build__an_error_of_the_writer_stops_it_and_what_is_marked_stays(dataset, monkeypatch):
    write = build._write

    def full(scratch, writers, arrays, mark):
        if mark["next"] == 150:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(scratch, writers, arrays, mark)

    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"disk is full after .* goes on from there"):
        patch.setattr(build, "_write", full)
        features.ensure({"a": 1}, dataset, mean_encoder())
    again = []
    store = features.ensure({"a": 1}, dataset, mean_encoder(again))
    assert again == [150 - 2 * CHUNK] and store["image_pooled"][:, 0].tolist() == list(range(150))


def test_build__a_store_that_will_not_fit_fails_at_its_first_chunk(dataset, monkeypatch):
    calls = []
    room = shutil.disk_usage(runs_root().parent)._replace(free=100)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: room)
    with pytest.raises(StoreError, match=r"features of 150 images need .* KDLIB_RUNS"):
        features.ensure({"a": 1}, dataset, mean_encoder(calls))
    assert len(calls) == 1


def test_pixel_encoder__is_the_shorter_side_and_the_centre_even_of_a_large_jpeg(tmp_path):
    """A photo-like image of 800 x 600: reduced while it is decoded, it must be what a full decode gives, nearly."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((800, 600), Image.BICUBIC)
    smooth.save(tmp_path / "large.jpg", quality=95)
    data = Dataset("photo", "fit", Tree(tmp_path, "none"), ("large.jpg",), ("large.jpg",))
    encoder = pixel_encoder(64)
    reduced, whole = data.images.at_least(0, encoder.least), data.images[0]
    assert whole.size == (800, 600) and reduced.size == (200, 150)
    quick, slow = (encoder.prepare(image, "").astype(int) for image in (reduced, whole))
    assert quick.shape == (3, 64, 64)
    assert np.abs(quick - slow).mean() < 2 and np.abs(quick - slow).max() < 16


def test_reduced__tokens_are_means_of_their_places_and_attention_sums_to_one():
    tokens = torch.arange(16.0).view(1, 16, 1).repeat(2, 1, 3)
    attention = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    result = reduced(tokens, attention, (4, 4), 2)
    assert result["tokens"][0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]  # means of 0 1 4 5, of 2 3 6 7, ...
    assert result["tokens"].shape == (2, 4, 3)
    assert torch.allclose(result["attention"].sum(dim=1), torch.ones(2))
    assert torch.allclose(result["attention"][0, 0], attention[0, [0, 1, 4, 5]].sum())


# ---------------------------------------------------------------- with and without tokens


def test_teacher_store__tokens_are_kept_only_for_a_student_that_reads_them(small_run):
    config = small_run("clip", method="projection")
    data = sources.load_data(config)["fit"]
    without = sources.teacher_store(config, data)
    assert not {"image_tokens", "text_tokens", "prompt_tokens"} & set(without.manifest["arrays"])
    with_tokens = sources.teacher_store(config.model_copy(update={"method": "attention"}), data)
    assert {"image_tokens", "text_tokens", "prompt_tokens"} <= set(with_tokens.manifest["arrays"])
    assert with_tokens.bytes > 10 * without.bytes
    for name in without.manifest["arrays"]:
        assert np.array_equal(without[name], with_tokens[name]), name


def test_teacher_store__one_with_tokens_serves_a_student_that_reads_none(small_run, monkeypatch):
    config = small_run("dino", method="cbam")
    data = sources.load_data(config)["fit"]
    assert not sources.teacher_store_is_built(config, data, tokens=False)
    path = sources.teacher_store(config, data).path
    monkeypatch.setattr(sources, "load_teacher", lambda config: pytest.fail("the teacher was run a second time"))
    projection = config.model_copy(update={"method": "projection"})
    assert sources.teacher_store(projection, data).path == path
    assert sources.teacher_store_is_built(config, data, tokens=True)
    assert sources.teacher_store_is_built(config, data, tokens=False)
