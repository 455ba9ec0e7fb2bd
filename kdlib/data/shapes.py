"""The synthetic data in the layouts of Tiny ImageNet and COCO, a pure function of the seed: classes of one object, and
scenes of up to four with five captions. Neither is trivial: colours are close to the background, clutter covers parts.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib.data.drawing import FILLS, OUTLINES, captions, draw_object, draw_scene
from kdlib.data.files import DataError
from kdlib.utils import digest, locked, read_json, runs_root

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
                _write(root / "shapes.json", asdict(spec))  # last: all is there
    except OSError as error:
        why = f"{root}: the synthetic data (30 MB) could not be written here ({error.strerror or error})"
        raise DataError(f"{why}. Make room, or set KDLIB_RUNS to a folder on another disk.") from error
    return root


def _write(path: Path, content: Image.Image | str | dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Image.Image):
        content.save(path, format="JPEG", quality=92)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _write_classes(root: Path, spec: ShapesSpec) -> None:
    wnids, lines = [f"n{90000001 + index}" for index in range(len(CLASSES))], []
    _write(root / "wnids.txt", "".join(f"{wnid}\n" for wnid in wnids))
    words = [f"{wnid}\t{fill} {outline}\n" for wnid, (outline, fill) in zip(wnids, CLASSES, strict=True)]
    _write(root / "words.txt", "".join(words))
    for index, wnid in enumerate(wnids):
        for number in range(spec.train_per_class):
            rng = np.random.default_rng([spec.seed, 0, index, number])
            _write(root / f"train/{wnid}/images/{wnid}_{number}.JPEG", draw_object(rng, *CLASSES[index])[0])
    for number in range(spec.val_per_class * len(CLASSES)):
        index = number % len(CLASSES)
        rng = np.random.default_rng([spec.seed, 1, index, number])
        _write(root / f"val/images/val_{number}.JPEG", draw_object(rng, *CLASSES[index])[0])
        lines.append(f"val_{number}.JPEG\t{wnids[index]}\t0\t0\t63\t63\n")
    _write(root / "val/val_annotations.txt", "".join(lines))


def _write_scenes(root: Path, spec: ShapesSpec) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(OUTLINES, start=1)]
    for part, count, stream in (("train2017", spec.train_scenes, 2), ("val2017", spec.val_scenes, 3)):
        images, texts, instances = [], [], []
        for number in range(stream * 100_000, stream * 100_000 + count):
            rng = np.random.default_rng([spec.seed, stream, number % 100_000])
            image, things = draw_scene(rng)
            images.append({"id": number, "file_name": f"{number:012d}.jpg"})
            _write(root / part / f"{number:012d}.jpg", image)
            for text in captions(rng, things):
                texts.append({"id": len(texts) + 1, "image_id": number, "caption": text})
            for category in [OUTLINES.index(thing.outline) + 1 for thing in things]:
                instances.append({"id": len(instances) + 1, "image_id": number, "category_id": category})
        _write(root / f"annotations/captions_{part}.json", {"images": images, "annotations": texts})
        _write(root / f"annotations/instances_{part}.json", {"annotations": instances, "categories": categories})
