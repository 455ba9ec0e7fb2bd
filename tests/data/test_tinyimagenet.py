import hashlib
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdlib import data
from kdlib.data import BadImageError, DataError, tinyimagenet

WNIDS = ["n03", "n01", "n02"]  # not in alphabetical order, as the official file is not
PER_CLASS = 20
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "tiny-imagenet-200-small.zip"


@pytest.fixture
def root(tmp_path):
    """A folder that holds the official layout, 3 classes of 20 images and 6 validation images."""
    top = tmp_path / "data" / "tiny-imagenet-200"
    rng = np.random.default_rng(0)

    def jpeg(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, "JPEG")

    for wnid in WNIDS:
        for number in range(PER_CLASS):
            jpeg(top / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t7\t7\n")
    lines = []
    for number in range(6):
        jpeg(top / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{sorted(WNIDS)[number % 3]}\t0\t0\t7\t7\n")
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    (top / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (top / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn03\tbullfrog\n")
    return tmp_path / "data"


def zipped(root: Path) -> Path:
    (root.parent / "zips").mkdir()
    return Path(shutil.make_archive(root.parent / "zips" / "tiny", "zip", root, "tiny-imagenet-200"))


def pixels(dataset):
    return [np.asarray(image).tobytes() for image in dataset.images]


@pytest.mark.parametrize("split", data.SPLITS)
def test_load__folder_and_zip_give_the_same_dataset(root, split):
    archive = zipped(root)
    first, *others = [
        data.load("tinyimagenet", place, split) for place in (root, root / "tiny-imagenet-200", archive, archive.parent)
    ]
    for other in others:
        assert other.ids == first.ids
        assert other.image_names == first.image_names
        assert other.labels.tolist() == first.labels.tolist()
        assert other.class_names == first.class_names
        assert pixels(other) == pixels(first)
        assert other.fingerprint == first.fingerprint


def test_load__fit_and_dev_share_train_by_the_sha1_of_the_file_name(root):
    fit, dev = (data.load("tinyimagenet", root, split) for split in ("fit", "dev"))
    expected = set()
    for wnid in WNIDS:
        files = [f"{wnid}_{number}.JPEG" for number in range(PER_CLASS)]
        expected.update(sorted(files, key=lambda file: hashlib.sha1(file.encode()).hexdigest())[: PER_CLASS // 10])
    assert set(dev.ids) == expected
    assert not set(dev.ids) & set(fit.ids)
    assert len(dev) + len(fit) == len(set(dev.ids) | set(fit.ids)) == 3 * PER_CLASS


def test_load__a_training_image_has_the_label_of_its_folder_in_the_order_of_wnids(root):
    fit = data.load("tinyimagenet", root, "fit")
    assert fit.labels.dtype == np.int64
    assert [WNIDS[label] for label in fit.labels] == [name.split("/")[1] for name in fit.image_names]


def test_load__test_labels_come_from_val_annotations(root):
    test = data.load("tinyimagenet", root, "test")
    assert test.ids == tuple(f"val_{number}.JPEG" for number in range(6))
    assert [WNIDS[label] for label in test.labels] == ["n01", "n02", "n03"] * 2


def test_load__class_names_are_the_first_words_or_the_wnid(root):
    assert data.load("tinyimagenet", root, "fit").class_names == ("bullfrog", "goldfish", "n02")
    (root / "tiny-imagenet-200" / "words.txt").unlink()
    assert data.load("tinyimagenet", root, "fit").class_names == tuple(WNIDS)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_images__greyscale_and_cmyk_are_decoded_to_rgb(root, mode):
    path = root / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG"
    grey = Image.new("L", (8, 8), 100)
    (grey if mode == "L" else grey.convert("RGB").convert("CMYK")).save(path, "JPEG")
    with Image.open(path) as stored:
        assert stored.mode == mode
    image = data.load("tinyimagenet", root, "test").images[0]
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - 100).max() <= 3


@pytest.mark.parametrize("content", ["half", "text", "nothing"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_images__a_broken_image_is_an_error_that_names_it(root, content, packed):
    path = root / "tiny-imagenet-200" / "val" / "images" / "val_2.JPEG"
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "text": b"<html>404</html>", "nothing": b""}[content])
    test = data.load("tinyimagenet", zipped(root) if packed else root, "test")
    assert test.images[1].size == (8, 8)
    with pytest.raises(BadImageError, match=r"val/images/val_2\.JPEG: not a readable image"):
        test.images[2]


def test_images__a_header_that_claims_a_huge_image_is_an_error_that_names_it(root):
    path = root / "tiny-imagenet-200" / "val" / "images" / "val_2.JPEG"
    content = path.read_bytes()
    start = content.index(b"\xff\xc0")  # the frame header: length, precision, height, width
    path.write_bytes(content[: start + 5] + b"\xff\xff\xff\xff" + content[start + 9 :])
    with pytest.raises(BadImageError, match=r"val/images/val_2\.JPEG: not a readable image"):
        data.load("tinyimagenet", root, "test").images[2]


def without(root, name):
    path = root / "tiny-imagenet-200" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("wnids.txt", "fit", r"wnids\.txt is missing.*kdlib data get tinyimagenet"),
        ("wnids.txt", "test", r"wnids\.txt is missing.*kdlib data get tinyimagenet"),
        ("val/val_annotations.txt", "test", r"val_annotations\.txt is missing.*Extract the archive again"),
        ("val/images/val_3.JPEG", "test", r"val_annotations\.txt names 1 images.*val_3\.JPEG.*Extract"),
        (
            "train/n01/images",
            "fit",
            r"1 classes of wnids\.txt have no images.*n01\. Extract the archive again",
        ),
        (
            "train/n01/images",
            "dev",
            r"1 classes of wnids\.txt have no images.*n01\. Extract the archive again",
        ),
        ("train/n02", "fit", r"1 classes of wnids\.txt have no images.*n02\. Extract the archive again"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_load__refuses_a_set_that_lacks(root, name, split, message, packed):
    without(root, name)
    place = zipped(root) if packed else root
    with pytest.raises(DataError, match=message) as caught:
        data.load("tinyimagenet", place, split)
    assert str(place) in str(caught.value)


def test_load__training_splits_need_no_validation_folder(root):
    without(root, "val")
    assert len(data.load("tinyimagenet", root, "fit")) == 54


def test_load__refuses_an_unknown_class_in_val_annotations_and_names_the_line(root):
    path = root / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    path.write_text(path.read_text() + "val_0.JPEG\tn99\t0\t0\t7\t7\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt, line 7: no class of wnids\.txt.*n99"):
        data.load("tinyimagenet", root, "test")


def test_load__refuses_an_empty_split(root):
    (root / "tiny-imagenet-200" / "wnids.txt").write_text("\n")
    with pytest.raises(DataError, match=r"the split 'fit' of tinyimagenet is empty.*archive was extracted"):
        data.load("tinyimagenet", root, "fit")


def test_load__a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no Tiny ImageNet here"):
        data.load("tinyimagenet", tmp_path / "nowhere", "fit")


def test_load__refuses_an_unknown_split(root):
    with pytest.raises(ValueError, match="'val'; the splits are fit, dev, test"):
        data.load("tinyimagenet", root, "val")


def test_fingerprint__differs_between_splits_and_with_an_image_and_a_label(root):
    prints = [data.load("tinyimagenet", root, split).fingerprint for split in data.SPLITS]
    top = root / "tiny-imagenet-200"
    annotations = top / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("val_0.JPEG\tn01", "val_0.JPEG\tn02"))
    prints.append(data.load("tinyimagenet", root, "test").fingerprint)
    Image.new("RGB", (8, 8)).save(top / "val" / "images" / "val_0.JPEG", "JPEG")
    prints.append(data.load("tinyimagenet", root, "test").fingerprint)
    assert len(set(prints)) == 5


# ---------------------------------------------------------------- the real sample

on_the_sample = pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample {SAMPLE} is not here")


@on_the_sample
def test_sample__has_the_announced_counts():
    splits = {split: tinyimagenet.load(SAMPLE, split) for split in data.SPLITS}
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "fit": 9000,
        "dev": 1000,
        "test": 2000,
    }
    for split, each in (("fit", 45), ("dev", 5), ("test", 10)):
        assert np.bincount(splits[split].labels).tolist() == [each] * 200
    assert len(set(splits["fit"].class_names)) > 190
    assert not set(splits["fit"].ids) & set(splits["dev"].ids)


@on_the_sample
def test_sample__its_images_are_64_pixels_wide_and_high_and_rgb():
    for image in list(itertools.islice(tinyimagenet.load(SAMPLE, "test").images, 100)):
        assert (image.size, image.mode) == ((64, 64), "RGB")


# ---------------------------------------------------------------- files that are wrong


def rewrite(root, file, edit):
    """Let ``edit`` change the lines of a text file."""
    path = root / "tiny-imagenet-200" / file
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("".join(f"{line}\n" for line in lines))


def test_load__a_class_that_is_there_twice_is_named_with_both_lines(root):
    rewrite(root, "wnids.txt", lambda lines: lines.append("n01"))
    with pytest.raises(DataError, match=r"wnids\.txt, line 4: the class n01 is there already, in line 2"):
        data.load("tinyimagenet", root, "fit")


@pytest.mark.parametrize("label", ["n01", "n02"], ids=["same label", "another label"])
def test_load__an_image_that_is_labelled_twice_is_named_with_both_lines(root, label):
    rewrite(root, "val/val_annotations.txt", lambda lines: lines.append(f"val_0.JPEG\t{label}\t0\t0\t7\t7"))
    with pytest.raises(DataError, match=r"val_annotations\.txt, line 7: the image val_0\.JPEG .* already, in line 1"):
        data.load("tinyimagenet", root, "test")


def test_load__an_image_without_a_label_is_named(root):
    rewrite(root, "val/val_annotations.txt", lambda lines: lines.pop(2))
    with pytest.raises(DataError, match=r"val_annotations\.txt has no line for 1 images of val/images: .*val_2\.JPEG"):
        data.load("tinyimagenet", root, "test")


@pytest.mark.parametrize("file", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_load__a_file_that_is_not_utf8_is_named_with_the_line(root, file):
    path = root / "tiny-imagenet-200" / file
    lines = path.read_bytes().splitlines()
    lines[1] += b" caf\xe9"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"{file}, line 2: not UTF-8 text .*Save the file as UTF-8"):
        data.load("tinyimagenet", root, "test")


def test_load__a_byte_order_mark_changes_nothing(root):
    before = data.load("tinyimagenet", root, "test").fingerprint
    for file in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        path = root / "tiny-imagenet-200" / file
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert data.load("tinyimagenet", root, "test").fingerprint == before


@pytest.mark.parametrize("kind", ["dangling link", "link to itself", "pipe"])
def test_images__what_is_no_file_is_a_bad_image_that_is_named(root, kind):
    path = root / "tiny-imagenet-200" / "val" / "images" / "val_2.JPEG"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "link to itself" else root / "gone.JPEG")
    test = data.load("tinyimagenet", root, "test")
    assert len(test.fingerprint) == 64
    assert test.images[1].size == (8, 8)
    with pytest.raises(BadImageError, match=r"val_2\.JPEG: (a link that leads nowhere|a pipe or a device)"):
        test.images[2]
