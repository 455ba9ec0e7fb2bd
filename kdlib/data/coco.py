"""MS COCO 2017 in its official layout: train2017/, val2017/, annotations/{captions,instances}_*.json.

train2017 is cut into ``fit`` and ``dev``; val2017 is ``test``.
"""

import json
from collections import defaultdict
from pathlib import Path

from kdlib.data.dataset import DataError, Dataset, hashed_dev
from kdlib.data.tree import Tree

FOLDER = "coco"
DEV_SHARE, DEV_LARGEST = 0.1, 5000
CAPTIONS = 5


def load(root: str | Path, split: str) -> Dataset:
    """One of the splits fit, dev, test. ``root``: the folder, the zips, or a folder that holds either.

    dev is the 5,000 images of train2017 with the smallest SHA-1 of the image id (10 % where that is
    fewer). An image keeps its first 5 captions by annotation id. Raises DataError with file and remedy.
    """
    tree = Tree(root, FOLDER)
    part = "val2017" if split == "test" else "train2017"
    captions_file = f"annotations/captions_{part}.json"
    records = _read(tree, captions_file)
    instances = _read(tree, f"annotations/instances_{part}.json")

    files = {image["id"]: image["file_name"] for image in records["images"]}
    captions = defaultdict(list)
    for annotation in sorted(records["annotations"], key=lambda annotation: annotation["id"]):
        captions[annotation["image_id"]].append(" ".join(annotation["caption"].split()))
    present = {name.removeprefix(f"{part}/") for name in tree.below(part)}
    unnamed = sorted(set(captions) - set(files))
    absent = sorted(file for file in files.values() if file not in present)
    if unnamed or absent:
        listed = ", ".join([*absent[:5], *[f"image id {number}" for number in unnamed[:5]]])
        raise DataError(
            f"{tree.where}: {captions_file} names {len(absent) + len(unnamed)} images that are not in {part}: "
            f"{listed}. Extract {part}.zip again, or take them out of the annotation file."
        )
    silent = sorted(files[number] for number in files if not captions[number])
    if silent:
        raise DataError(
            f"{tree.where}: {len(silent)} images of {part} have no caption in {captions_file}: "
            f"{', '.join(silent[:5])}. Take the annotation file that belongs to these images."
        )

    numbers = sorted(files)
    if split in ("fit", "dev"):
        count = min(DEV_LARGEST, max(1, round(DEV_SHARE * len(numbers))))
        dev = hashed_dev([str(number) for number in numbers], count)
        numbers = [number for number in numbers if (str(number) in dev) == (split == "dev")]

    names = sorted(instances["categories"], key=lambda category: category["id"])
    index_of = {category["id"]: index for index, category in enumerate(names)}
    categories = defaultdict(set)
    for annotation in instances["annotations"]:
        if annotation["category_id"] not in index_of:
            raise DataError(
                f"{tree.where}: annotations/instances_{part}.json, instance {annotation['id']} is of category "
                f"{annotation['category_id']}, which the file does not define. Extract it again."
            )
        categories[annotation["image_id"]].add(index_of[annotation["category_id"]])
    return Dataset(
        name="coco",
        split=split,
        tree=tree,
        ids=tuple(str(number) for number in numbers),
        image_names=tuple(f"{part}/{files[number]}" for number in numbers),
        captions=tuple(tuple(captions[number][:CAPTIONS]) for number in numbers),
        categories=tuple(tuple(sorted(categories[number])) for number in numbers),
        category_names=tuple(category["name"] for category in names),
    )


def _read(tree: Tree, name: str) -> dict:
    if not tree.exists(name):
        raise DataError(
            f"{tree.where}: {name} is missing. Give the folder that holds train2017, val2017 and annotations "
            "(or their zip archives), or run 'kdlib data get coco'."
        )
    try:
        record = json.loads(tree.read(name))
    except ValueError as error:  # not JSON, or not text
        raise DataError(f"{tree.where}: {name} is not complete JSON ({error}). Extract it again.") from error
    wanted = {"images", "annotations"} | ({"categories"} if "instances" in name else set())
    if not isinstance(record, dict) or wanted - set(record):
        raise DataError(f"{tree.where}: {name} has no {', '.join(sorted(wanted))}. Extract it again.")
    return record
