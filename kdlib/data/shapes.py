"""The synthetic data in the layouts of Tiny ImageNet and COCO: classes of one object, scenes with five captions."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kdlib.data.drawing import FILLS, OUTLINES, captions, draw_object, draw_scene
from kdlib.data.files import DataError
from kdlib.utils import digest, locked, read_json, runs_root, write_atomic

CLASSES = [(outline, fill) for outline in OUTLINES for fill in FILLS]


@dataclass(frozen=True)
class ShapesSpec:
    """How much is made. The defaults are the demo study's data."""

    seed: int = 0
    train_per_class: int = 100
    val_per_class: int = 30
    train_scenes: int = 1800
    val_scenes: int = 500
    version: int = 1  # raised whenever the drawing changes


def ensure(spec: ShapesSpec | None = None, root: str | Path | None = None) -> Path:
    """The folder with tiny-imagenet-200/ and coco/, written first where it is not there, by one of several callers."""
    spec = spec or ShapesSpec()
    root = Path(root or runs_root() / "data" / f"shapes-{digest(asdict(spec))[:8]}")
    if read_json(root / "shapes.json") == asdict(spec):
        return root
    try:
        with locked(Path(f"{root}.lock")):
            if read_json(root / "shapes.json") != asdict(spec):
                shutil.rmtree(root, ignore_errors=True)  # another size, or an attempt that was killed
                _write_classes(root / "tiny-imagenet-200", spec)
                _write_scenes(root / "coco", spec)
                write_atomic(root / "shapes.json", json.dumps(asdict(spec)))  # last: all is there
    except OSError as error:
        remedy = "Make room, or set KDLIB_RUNS to a folder on another disk"
        raise DataError(f"{root}: the synthetic data could not be written ({error}). {remedy}.") from error
    return root


def _write_classes(root: Path, spec: ShapesSpec) -> None:
    wnids, lines = [f"n{90000001 + index}" for index in range(len(CLASSES))], []
    words = [f"{wnid}\t{fill} {outline}\n" for wnid, (outline, fill) in zip(wnids, CLASSES, strict=True)]
    write_atomic(root / "wnids.txt", "".join(f"{wnid}\n" for wnid in wnids))
    write_atomic(root / "words.txt", "".join(words))
    for index, wnid in enumerate(wnids):
        (root / f"train/{wnid}/images").mkdir(parents=True)
        for number in range(spec.train_per_class):
            image, _ = draw_object(np.random.default_rng([spec.seed, 0, index, number]), *CLASSES[index])
            image.save(root / f"train/{wnid}/images/{wnid}_{number}.JPEG", quality=92)
    (root / "val/images").mkdir(parents=True)
    for number in range(spec.val_per_class * len(CLASSES)):
        index = number % len(CLASSES)
        image, _ = draw_object(np.random.default_rng([spec.seed, 1, index, number]), *CLASSES[index])
        image.save(root / f"val/images/val_{number}.JPEG", quality=92)
        lines.append(f"val_{number}.JPEG\t{wnids[index]}\t0\t0\t63\t63\n")
    write_atomic(root / "val/val_annotations.txt", "".join(lines))


def _write_scenes(root: Path, spec: ShapesSpec) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(OUTLINES, start=1)]
    for part, count, stream in (("train2017", spec.train_scenes, 2), ("val2017", spec.val_scenes, 3)):
        (root / part).mkdir(parents=True)
        images, texts, instances = [], [], []
        for index in range(count):
            number, rng = stream * 100_000 + index, np.random.default_rng([spec.seed, stream, index])
            image, things = draw_scene(rng)
            image.save(root / part / f"{number:012d}.jpg", quality=92)
            images.append({"id": number, "file_name": f"{number:012d}.jpg"})
            for text in captions(rng, things):
                texts.append({"id": len(texts) + 1, "image_id": number, "caption": text})
            for thing in things:
                category = OUTLINES.index(thing.outline) + 1
                instances.append({"id": len(instances) + 1, "image_id": number, "category_id": category})
        shown = {"annotations": instances, "categories": categories}
        write_atomic(root / f"annotations/captions_{part}.json", json.dumps({"images": images, "annotations": texts}))
        write_atomic(root / f"annotations/instances_{part}.json", json.dumps(shown))
