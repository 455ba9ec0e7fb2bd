"""MS COCO 2017, or captions in its layout: train2017/ is cut into ``fit`` and ``dev``, val2017/ is ``test``."""

import re
from collections import defaultdict
from pathlib import Path

from kdlib.data.base import Dataset
from kdlib.data.files import by_hash, left_out, place, reading, scan

FOLDER, DEV_SHARE, DEV_LARGEST, CAPTIONS = "coco", 0.1, 5000, 5


def load(root: str | Path, split: str, on_missing: str = "error") -> Dataset:
    """dev is the 5,000 images of train2017 with the smallest SHA-1 of the image id (10 % where that is fewer).

    An image keeps its first 5 captions by annotation id. Categories are read where instances_<part>.json is there.
    """
    part = "val2017" if split == "test" else "train2017"
    top = place(root, FOLDER, f"annotations/captions_{part}.json")
    path, instances = (top / "annotations" / f"{kind}_{part}.json" for kind in ("captions", "instances"))
    folder = next((top / name for name in (f"{part}/{part}", f"images/{part}") if (top / name).is_dir()), top / part)
    there, files, texts, wrong = set(scan(folder)), {}, defaultdict(list), []
    with reading(path) as record:
        for entry in record["images"]:
            files.setdefault(identity(entry["id"]), str(entry["file_name"]))
        for note in sorted(record["annotations"], key=lambda note: order(identity(note["id"]))):
            image, text = identity(note["image_id"]), note["caption"]
            if image in files and is_caption(text):
                texts[image].append(" ".join(text.split()))
            else:
                wrong.append((f"caption {note['id']}", "is no text" if image in files else f"has no image, {image}"))
    for number, name in files.items():
        if name not in there or not texts[number]:
            wrong.append((name, "has no caption" if name in there else f"is not in {folder}"))
    rest = [(name, f"is not in {path.name}") for name in sorted(there - set(files.values()))]
    rest += left_out(path, wrong, on_missing)
    numbers = sorted((number for number, name in files.items() if name in there and texts[number]), key=order)
    if split != "test":
        dev = set(by_hash(numbers)[: min(DEV_LARGEST, max(1, round(DEV_SHARE * len(numbers))))])
        numbers = [number for number in numbers if (number in dev) == (split == "dev")]
    paths = [str(folder / files[number]) for number in numbers]
    captions = [tuple(texts[number][:CAPTIONS]) for number in numbers]
    categories, names = None, []
    if instances.exists():
        shown = defaultdict(set)
        with reading(instances) as record:
            name_of = {identity(entry["id"]): str(entry["name"]) for entry in record["categories"]}
            kinds = {kind: index for index, kind in enumerate(sorted(name_of, key=order))}
            for note in record["annotations"]:
                shown[identity(note["image_id"])].add(kinds[identity(note["category_id"])])
        categories, names = [tuple(sorted(shown[number])) for number in numbers], [name_of[kind] for kind in kinds]
    title, left = "COCO" if "coco" in top.name.lower() else top.name, () if split == "dev" else rest
    return Dataset("coco", split, numbers, paths, None, (), captions, categories, names, left, title)


def identity(value: object) -> str:
    """An id as text, the same for 7, 7.0, '7' and '007'."""
    if type(value) is int:  # at once: there are millions
        return str(value)
    return re.sub(r"^0*([0-9]+)(\.0+)?$", r"\1", str(value).strip())


def order(number: str) -> tuple[int, str]:
    return len(number), number  # that of the numbers, where ids are numbers


def is_caption(text: object) -> bool:
    """Whether it is a text with more than spaces and without a lone surrogate, which no tokenizer takes."""
    return isinstance(text, str) and bool(text.strip()) and not re.search("[\ud800-\udfff]", text)
