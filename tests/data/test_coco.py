import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdlib import data
from kdlib.data import BadImageError, DataError, coco

IMAGES = {"train2017": 30, "val2017": 4}
FIRST = {"train2017": 100, "val2017": 900}  # image ids
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco-2017-small.zip"
on_the_sample = pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample {SAMPLE} is not here")


def file_of(number: int) -> str:
    return f"{number:012d}.jpg"


@pytest.fixture
def root(tmp_path):
    """A folder that holds coco/ in the official layout. Annotations are out of order, some images have six
    captions, ids of categories have gaps, and the first image of each part has no instance."""
    top = tmp_path / "data" / "coco"
    rng = np.random.default_rng(0)
    (top / "annotations").mkdir(parents=True)
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    for part, count in IMAGES.items():
        (top / part).mkdir()
        numbers = [FIRST[part] + i for i in range(count)]
        for number in numbers:
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(top / part / file_of(number), "JPEG")
        captions = [
            {"id": 10 * number + i, "image_id": number, "caption": f" caption {i}\nof  {number}. "}
            for number in numbers
            for i in range(6 if number % 2 else 5)
        ]
        instances = [
            {"id": 2 * number + i, "image_id": number, "category_id": (90, 1, 90)[i]}
            for number in numbers[1:]
            for i in range(1 + number % 3)
        ]
        images = [{"id": number, "file_name": file_of(number)} for number in numbers]
        dump(top, f"captions_{part}", {"images": images[::-1], "annotations": captions[::-1]})
        record = {"images": images, "annotations": instances[::-1], "categories": categories}
        dump(top, f"instances_{part}", record)
    return tmp_path / "data"


def dump(top: Path, name: str, record: dict) -> None:
    (top / "annotations" / f"{name}.json").write_text(json.dumps(record))


def change(root: Path, name: str, edit) -> None:
    """Read annotations/``name``.json, let ``edit`` change the record, and write it back."""
    top = root / "coco"
    record = json.loads((top / "annotations" / f"{name}.json").read_text())
    edit(record)
    dump(top, name, record)


def zips(root: Path) -> Path:
    """The three archives of the official site, with train2017/ and so on at the top."""
    folder = root.parent / "zips"
    folder.mkdir()
    for name in (*IMAGES, "annotations"):
        shutil.make_archive(folder / name, "zip", root / "coco", name)
    return folder


@pytest.mark.parametrize("split", data.SPLITS)
def test_load__folder_and_zips_give_the_same_dataset(root, split):
    single = Path(shutil.make_archive(root.parent / "single" / "coco", "zip", root, "coco"))
    first, *others = [data.load("coco", place, split) for place in (root, root / "coco", zips(root), single)]
    for other in others:
        for field in ("ids", "image_names", "captions", "categories", "category_names", "labels"):
            assert getattr(other, field) == getattr(first, field)
        pairs = zip(other.images, first.images, strict=True)
        assert all(np.array_equal(one, two) for one, two in pairs)
        assert other.fingerprint == first.fingerprint


def test_load__fit_and_dev_share_train2017_by_the_sha1_of_the_image_id(root):
    fit, dev = (data.load("coco", root, split) for split in ("fit", "dev"))
    numbers = [str(FIRST["train2017"] + i) for i in range(30)]
    assert set(dev.ids) == set(sorted(numbers, key=lambda text: hashlib.sha1(text.encode()).hexdigest())[:3])
    assert sorted(dev.ids + fit.ids) == numbers


def test_load__dev_grows_no_larger_than_its_limit(root, monkeypatch):
    monkeypatch.setattr(coco, "DEV_LARGEST", 2)
    assert [len(data.load("coco", root, split)) for split in ("fit", "dev")] == [28, 2]


def test_load__test_is_val2017(root):
    test = data.load("coco", root, "test")
    assert test.ids == ("900", "901", "902", "903")
    assert test.image_names == tuple(f"val2017/{file_of(number)}" for number in range(900, 904))


def test_load__an_image_keeps_its_first_five_captions_by_annotation_id(root):
    test = data.load("coco", root, "test")
    for number, captions in zip(test.ids, test.captions, strict=True):
        assert captions == tuple(f"caption {i} of {number}." for i in range(5))


def test_load__categories_are_distinct_indices_in_the_order_of_the_category_ids(root):
    test = data.load("coco", root, "test")
    assert test.category_names == ("person", "dog", "toothbrush")
    assert test.categories == ((), (0, 2), (0, 2), (2,))  # 900: none; 901 % 3 + 1 = 2 instances, and so on


def test_load__a_greyscale_image_is_decoded_to_rgb(root):
    Image.new("L", (8, 6), 50).save(root / "coco" / "val2017" / file_of(900), "JPEG")
    image = data.load("coco", root, "test").images[0]
    assert (image.mode, image.size) == ("RGB", (8, 6))


def test_images__a_truncated_image_is_an_error_that_names_it(root):
    path = root / "coco" / "val2017" / file_of(901)
    path.write_bytes(path.read_bytes()[:-100])
    test = data.load("coco", root, "test")
    assert test.images[0].size == (8, 6)
    with pytest.raises(BadImageError, match=r"val2017/000000000901\.jpg: not a readable image"):
        test.images[1]


@pytest.mark.parametrize("split", data.SPLITS)
@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_load__refuses_a_missing_annotation_file(root, split, kind):
    part = "val2017" if split == "test" else "train2017"
    (root / "coco" / "annotations" / f"{kind}_{part}.json").unlink()
    with pytest.raises(DataError, match=rf"annotations/{kind}_{part}\.json is missing.*kdlib data get coco"):
        data.load("coco", root, split)


def test_load__refuses_a_cut_annotation_file(root):
    path = root / "coco" / "annotations" / "captions_val2017.json"
    path.write_text(path.read_text()[:-10])
    with pytest.raises(DataError, match=r"captions_val2017\.json is not complete JSON.*Extract it again"):
        data.load("coco", root, "test")


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zips"])
def test_load__refuses_captions_of_images_that_are_not_there(root, packed):
    (root / "coco" / "val2017" / file_of(902)).unlink()
    place = zips(root) if packed else root
    with pytest.raises(DataError, match=r"names 1 images that are not in val2017: 000000000902\.jpg\. Extract"):
        data.load("coco", place, "test")


def test_load__refuses_captions_without_an_image_record(root):
    change(root, "captions_val2017", lambda record: record["images"].pop())  # the last one is 900
    with pytest.raises(DataError, match=r"captions_val2017\.json names 1 images.*image id 900"):
        data.load("coco", root, "test")


def test_load__refuses_an_image_without_captions(root):
    def silence(record):
        record["annotations"] = [note for note in record["annotations"] if note["image_id"] != 903]

    change(root, "captions_val2017", silence)
    with pytest.raises(DataError, match=r"1 images of val2017 have no caption in .*000000000903\.jpg\. Take"):
        data.load("coco", root, "test")


def test_load__refuses_an_empty_split(root):
    change(root, "captions_val2017", lambda record: record.update(images=[], annotations=[]))
    with pytest.raises(DataError, match=r"the split 'test' of coco is empty\. Check that the archive"):
        data.load("coco", root, "test")


def test_load__a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: annotations/captions_train2017"):
        data.load("coco", tmp_path / "nowhere", "fit")


def test_load__images_beyond_the_annotations_are_left_out(root):
    path = root / "coco" / "val2017" / file_of(900)
    before = data.load("coco", root, "test")
    shutil.copy(path, path.with_name(file_of(999)))
    after = data.load("coco", root, "test")
    assert after.ids == before.ids
    assert after.fingerprint == before.fingerprint


def test_fingerprint__differs_with_a_caption_and_with_an_image(root):
    prints = [data.load("coco", root, split).fingerprint for split in data.SPLITS]
    change(root, "captions_val2017", lambda record: record["annotations"][-1].update(caption="another"))
    prints.append(data.load("coco", root, "test").fingerprint)
    Image.new("RGB", (8, 6)).save(root / "coco" / "val2017" / file_of(900), "JPEG")
    prints.append(data.load("coco", root, "test").fingerprint)
    assert len(set(prints)) == 5


# ---------------------------------------------------------------- the real sample


@on_the_sample
def test_sample__has_the_announced_counts():
    splits = {split: coco.load(SAMPLE, split) for split in data.SPLITS}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"fit": 72, "dev": 8, "test": 159}
    assert not set(splits["fit"].ids) & set(splits["dev"].ids)
    for dataset in splits.values():
        assert {len(captions) for captions in dataset.captions} == {5}
        assert len(dataset.category_names) == 80


@on_the_sample
def test_sample__names_categories_as_the_annotation_file_does():
    test = coco.load(SAMPLE, "test")
    with zipfile.ZipFile(SAMPLE) as archive:
        record = json.loads(archive.read("coco/annotations/instances_val2017.json"))
    names = {category["id"]: category["name"] for category in record["categories"]}
    expected = {number: set() for number in test.ids}
    for note in record["annotations"]:
        expected[str(note["image_id"])].add(names[note["category_id"]])
    found = [{test.category_names[index] for index in indices} for indices in test.categories]
    assert dict(zip(test.ids, found, strict=True)) == expected


@on_the_sample
def test_sample__its_images_are_rgb():
    assert {image.mode for image in coco.load(SAMPLE, "dev").images} == {"RGB"}


# ---------------------------------------------------------------- files that are wrong

HALF = "\ud83d dog"  # the first half of a surrogate pair
WRONG = {
    "an image id twice": (
        "captions",
        lambda record: record["images"][1].update(id=900),
        r"captions_val2017\.json, images\[3\] \(id 900\): this id is there already, in images\[1\]",
    ),
    "a caption id twice": (
        "captions",
        lambda record: record["annotations"][0].update(id=record["annotations"][9]["id"]),
        r"captions_val2017\.json, annotations\[9\] \(id \d+\): this id is there already, in annotations\[0\]",
    ),
    "a blank caption": (
        "captions",
        lambda record: record["annotations"][2].update(caption=" \n "),
        r"captions_val2017\.json, annotations\[2\] \(id \d+\): caption is blank",
    ),
    "a caption that is null": (
        "captions",
        lambda record: record["annotations"][2].update(caption=None),
        r"captions_val2017\.json, annotations\[2\] \(id \d+\): caption is null, not text",
    ),
    "a caption that is a number": (
        "captions",
        lambda record: record["annotations"][2].update(caption=7),
        r"annotations\[2\] \(id \d+\): caption is 7, not text",
    ),
    "half a character in a caption": (
        "captions",
        lambda record: record["annotations"][2].update(caption=HALF),
        r"annotations\[2\] \(id \d+\): caption has half a character \(a lone surrogate\): \"\\ud83d dog\"",
    ),
    "no caption in an entry": (
        "captions",
        lambda record: record["annotations"][2].pop("caption"),
        r"annotations\[2\] \(id \d+\) has no 'caption'; it has id, image_id",
    ),
    "no id in an entry": (
        "captions",
        lambda record: record["annotations"][2].pop("id"),
        r"annotations\[2\] has no 'id'; it has caption, image_id",
    ),
    "annotations null": (
        "captions",
        lambda record: record.update(annotations=None),
        r"captions_val2017\.json has no list annotations",
    ),
    "annotations an object": (
        "captions",
        lambda record: record.update(annotations={"1": "a dog"}),
        r"captions_val2017\.json has no list annotations",
    ),
    "an annotation that is a list": (
        "captions",
        lambda record: record["annotations"].insert(0, [1, 2]),
        r"captions_val2017\.json, annotations\[0\] is \[1, 2\], not an object",
    ),
    "ids of two types": (
        "captions",
        lambda record: record["images"][0].update(id="903"),
        r"images\[0\] \(id \"903\"\): id is \"903\", not a whole number",
    ),
    "an id that is true": (
        "captions",
        lambda record: record["images"][0].update(id=True),
        r"images\[0\] \(id true\): id is true, not a whole number",
    ),
    "an image file that is null": (
        "captions",
        lambda record: record["images"][0].update(file_name=None),
        r"images\[0\] \(id 903\): file_name is null, not text",
    ),
    "a category twice": (
        "instances",
        lambda record: record["categories"][0].update(id=1),
        r"instances_val2017\.json, categories\[1\] \(id 1\): this id is there already, in categories\[0\]",
    ),
    "a category without a name": (
        "instances",
        lambda record: record["categories"][0].update(name=""),
        r"categories\[0\] \(id 90\): name is blank",
    ),
    "an instance without a category": (
        "instances",
        lambda record: record["annotations"][1].pop("category_id"),
        r"instances_val2017\.json, annotations\[1\] \(id \d+\) has no 'category_id'",
    ),
    "an instance of an unknown category": (
        "instances",
        lambda record: record["annotations"][1].update(category_id=5),
        r"annotations\[1\] \(id \d+\) is of category 5, which the file does not define",
    ),
    "instances of other images": (
        "instances",
        lambda record: [note.update(image_id=note["image_id"] + 10**6) for note in record["annotations"]],
        r"not one of its instances is in an image of annotations/captions_val2017\.json.*interchanged",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_load__a_wrong_entry_is_an_error_that_names_file_and_entry(root, case):
    kind, edit, message = WRONG[case]
    data.load("coco", root, "test")
    change(root, f"{kind}_val2017", edit)
    with pytest.raises(DataError, match=message) as caught:
        data.load("coco", root, "test")
    str(caught.value).encode()  # it can be printed


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_load__captions_and_instances_interchanged_are_recognised(root, kind):
    folder = root / "coco" / "annotations"
    other = {"captions": "instances", "instances": "captions"}[kind]
    record = json.loads((folder / f"{other}_val2017.json").read_text())
    dump(root / "coco", f"{kind}_val2017", {"categories": [{"id": 1, "name": "person"}], **record})
    with pytest.raises(DataError, match=rf"{kind}_val2017\.json.*are captions and instances interchanged\?"):
        data.load("coco", root, "test")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{}", b"[" * 100_000, b"", b"[]", b"null"], ids=["not text", "bombs", "empty", "list", "null"]
)
def test_load__an_annotation_file_that_is_no_record_is_named(root, content):
    (root / "coco" / "annotations" / "captions_val2017.json").write_bytes(content)
    with pytest.raises(DataError, match=r"captions_val2017\.json (is not complete JSON|has no list images)"):
        data.load("coco", root, "test")
