"""Writers of small data sets in the layouts that the package reads."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ["n00000003", "n00000001", "n00000002"]  # not in alphabetical order, as the official file is not


def picture(path: Path, seed: int) -> Path:
    """Noise of a seed, 8 x 8; the same seed gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write(path: Path, content: str | dict | list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def tinyimagenet(root: Path, each: int = 20) -> Path:
    """<root>/tiny-imagenet-200 in the official layout, with three classes and six images in val/."""
    top, files = root / "tiny-imagenet-200", [f"val_{number}.JPEG" for number in range(6)]
    for label, wnid in enumerate(WNIDS):
        for number in range(each):
            picture(top / f"train/{wnid}/images/{wnid}_{number}.JPEG", 1000 * label + number)
        write(top / f"train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t7\t7\n")
    for number, file in enumerate(files):
        picture(top / "val/images" / file, 9000 + number)
    lines = [f"{file}\t{sorted(WNIDS)[number % 3]}\t0\t0\t7\t7\n" for number, file in enumerate(files)]
    write(top / "val/val_annotations.txt", "".join(lines))
    write(top / "wnids.txt", "".join(f"{wnid}\n" for wnid in WNIDS))
    write(top / "words.txt", "n00000000\tentity\nn00000001\tgoldfish, Carassius auratus\nn00000003\tbullfrog\n")
    return top


def coco(root: Path) -> Path:
    """<root>/coco in the official layout: 30 and 4 images. Annotations are out of order, images with an odd id have six
    captions, ids of categories have gaps, and the first image of each part shows nothing."""
    top, names = root / "coco", {90: "toothbrush", 1: "person", 18: "dog"}
    for part, numbers in (("train2017", range(100, 130)), ("val2017", range(900, 904))):
        images, captions, shown = [], [], []
        for number in numbers:
            picture(top / part / f"{number:012d}.jpg", number)
            images.append({"id": number, "file_name": f"{number:012d}.jpg"})
            for i in range(6 if number % 2 else 5):
                captions.append({"id": 10 * number + i, "image_id": number, "caption": f" caption {i}\nof  {number}. "})
            for i in range(1 + number % 3 if number != numbers[0] else 0):
                shown.append({"id": 2 * number + i, "image_id": number, "category_id": (90, 1, 90)[i]})
        categories = [{"id": number, "name": name} for number, name in names.items()]
        write(top / f"annotations/captions_{part}.json", {"images": images[::-1], "annotations": captions[::-1]})
        write(top / f"annotations/instances_{part}.json", {"annotations": shown[::-1], "categories": categories})
    return top


def change(path: Path, edit) -> None:
    """Let ``edit`` change the record of a JSON file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    edit(record)
    write(path, record)
